"""The machine: versions, GPUs, CPUs for the ranks, shared memory, and room for the store."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from plgen_ddp.coco import CocoFile
from plgen_ddp.config import Config
from plgen_ddp.device import installed_versions
from plgen_ddp.doctor.findings import Finding, checked
from plgen_ddp.errors import UserError
from plgen_ddp.files import check_output
from plgen_ddp.options import given
from plgen_ddp.plurals import counted
from plgen_ddp.processor import available_cores
from plgen_ddp.store import store_of

# Bytes a box of the store's columns beside its embedding: four coordinates, objectness, four columns of evidence.
_BYTES_A_BOX = 4 * (4 + 1 + 4)
# Free bytes a rank below which a training on several GPUs gets a warning. Chosen, not measured.
_SHARED_MEMORY = 256e6


def check_machine(config: Config, ranks: int) -> Iterator[Finding]:
    """Versions, GPUs, CPUs and shared memory.

    Args:
        ranks: processes that a node shall run.
    """
    versions = installed_versions("plgen_ddp", "torch", "torchvision", "numpy", "cv2", "clip")
    yield Finding("versions", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))
    yield _gpus(config, ranks)
    cores = available_cores()
    if cores < ranks:
        remedy = "start fewer ranks, or ask for more CPUs"
        yield Finding("CPUs", "warning", f"{cores} for {ranks} ranks", remedy)
    else:
        yield Finding("CPUs", "ok", f"{cores} for {counted(ranks, 'rank')}")
    shared = Path("/dev/shm")
    free = shutil.disk_usage(shared).free if shared.is_dir() and os.access(shared, os.W_OK) else 0
    if free < _SHARED_MEMORY * ranks and torch.cuda.device_count() > 1:
        remedy = "start the container with --shm-size=1g or --ipc=host; scoring itself needs none"
        yield Finding("/dev/shm", "warning", f"{free / 1e6:.0f} MB, little for training on several GPUs", remedy)
    else:
        yield Finding("/dev/shm", "ok", f"{free / 1e6:.0f} MB free; scoring needs none")


def check_room(config: Config, lacking: set[str], dim: int | None) -> Iterator[Finding]:
    """Whether `run.output` can be written, and holds what the store may need: `detector.max_boxes` boxes an image.

    Args:
        dim: length of an embedding; None where the encoder could not be loaded, and no size can be expected.
    """
    if "run.output" in lacking:
        return
    store = store_of(config)

    def writable() -> str:
        check_output(store.folder.with_name("scoring.lock"), "run.output", {})
        return str(config.run.output)

    remedy = "run.output takes a folder that may be written"
    yield (output := checked("output", writable, remedy))
    if output.level == "error" or dim is None or "data.annotations" in lacking:
        return
    try:
        images = len(CocoFile(given(config.data.annotations), "data.annotations").images()[: config.data.limit])
    except UserError:  # the check of the data says so
        return
    needed = images * config.detector.max_boxes * (_BYTES_A_BOX + 2 * dim)  # embeddings are float16
    needed -= sum(path.stat().st_size for path in store.part_paths())
    folder = next(folder for folder in store.folder.absolute().parents if folder.exists())
    free = shutil.disk_usage(folder).free
    message = f"{free / 1e9:.1f} GB free in {folder}, the store takes up to {max(needed, 0) / 1e9:.1f} GB more"
    if free > needed:
        yield Finding("disk", "ok", message)
    elif config.detector.min_objectness > 0:  # boxes below it are not kept, and nobody knows how many these are
        yield Finding("disk", "warning", message, "make room, or choose another run.output")
    else:
        yield Finding("disk", "error", message, "make room, or choose another run.output")


def _gpus(config: Config, ranks: int) -> Finding:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        if config.run.device == "cuda":
            remedy = "right on a login node; on the node of the run, look at nvidia-smi"
            return Finding("GPUs", "warning", "run.device is cuda, and torch sees none here", remedy)
        return Finding("GPUs", "ok", "none here; scoring would run on the CPU")
    names = ", ".join(dict.fromkeys(torch.cuda.get_device_name(number) for number in range(count)))
    if ranks > count and config.run.device != "cpu":
        remedy = f"start torchrun with --nproc_per_node={count}"
        return Finding("GPUs", "error", f"{count} ({names}) for {ranks} ranks", remedy)
    return Finding("GPUs", "ok", f"{count} ({names})")
