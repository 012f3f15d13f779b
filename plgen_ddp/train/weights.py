"""Small weight files: rounded, float16, deflated, and still read by `torch.load(path, weights_only=True)`."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from plgen_ddp.files import write_atomically
from plgen_ddp.weight_files import WeightFile

# float16's smallest normal number: rows below it would lose their bits anyway.
_SMALLEST = 2.0**-14


def export_weights(checkpoint: Path, path: Path) -> None:
    """Writes the weights of a detectron2 checkpoint alone, small, to `path`."""
    with WeightFile(checkpoint, "run.output") as file:
        write_small_weights(file.read()["model"], path)


def write_small_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Writes a state dict as float16 in a deflated zip, which every loader of PyTorch's own zip files reads.

    Each row of a weight is rounded to multiples of a power of two such that 8 bits hold it. The low bits of its values
    are then zero, and deflate compresses them well. Vectors keep float16's precision, integers stay as they are.
    """
    plain = io.BytesIO()
    torch.save({name: _rounded(value.detach()) for name, value in state.items()}, plain)
    small = io.BytesIO()
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(small, "w") as target:
        for item in source.infolist():
            # A fixed date: the same weights give the same bytes.
            entry = zipfile.ZipInfo(item.filename, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, source.read(item), compresslevel=9)
    write_atomically(path, [small.getvalue()])


def _rounded(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value.clone()
    if value.ndim > 1:
        rows = value.contiguous().float().flatten(1)
        largest = rows.abs().amax(dim=1, keepdim=True).clamp(min=_SMALLEST)
        step = torch.exp2(torch.ceil(torch.log2(largest / 127)))
        value = (torch.round(rows / step) * step).view(value.shape)
    return value.contiguous().half()
