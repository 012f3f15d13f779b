"""Weights of OpenAI's CLIP: a state dict, or an archive of TorchScript, whose code runs when it is loaded.

OpenAI publishes its models as such archives. One of another origin can write files or never end while it is loaded, so
it takes an option of its own.
"""

import hashlib
import io
import warnings
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from plgen_ddp.errors import UserError, first_sentence
from plgen_ddp.files import write_atomically
from plgen_ddp.weight_files import WeightFile, check_finite, state_of

_OPTION = "clip.model"
_METADATA = "activation"
OPEN_CLIPS_OWN = "one that open_clip wrote is clip.model=open_clip:MODEL clip.weights=FILE"
# OpenAI's archives hold these beside the weights.
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size")


@dataclass(frozen=True, slots=True)
class ClipWeights:
    """What a weights file of OpenAI's CLIP holds.

    Attributes:
        state: the state dict; on the CPU, in the file's types.
        sha256: of the file, hexadecimal.
        activation: quick_gelu or gelu; None: the file does not say it.
    """

    state: dict[str, Tensor]
    sha256: str
    activation: str | None


def check_clip_file(path: Path, published: Set[str], allow_torchscript: bool) -> str | None:
    """Checks that `read_clip_weights` may read a file; reads no weights and runs nothing.

    Args:
        published: the SHA-256 of the archives that may be loaded.

    Returns:
        The activation that the file says.

    Raises:
        UserError: no file, or an archive of TorchScript that may not be loaded.
    """
    with WeightFile(path, _OPTION) as file:
        _check_archive(file, published, allow_torchscript)
        return _said_activation(file)


def read_clip_weights(path: Path, published: Set[str], allow_torchscript: bool) -> ClipWeights:
    """Reads a weights file; the arguments are those of `check_clip_file`.

    Raises:
        UserError: what `check_clip_file` raises, no checkpoint of tensors, or weights that are not finite.
    """
    with WeightFile(path, _OPTION) as file:
        _check_archive(file, published, allow_torchscript)
        if file.is_torchscript():
            state, digest = _load_archive(file, published, allow_torchscript)
        else:
            state, digest = state_of(file.read(), ()) or {}, file.sha256
        state = {name: value for name, value in state.items() if name not in _NO_WEIGHTS}
        if not state:
            raise UserError(f"{_OPTION}: {path} is not a CLIP checkpoint: it holds no state dict; {OPEN_CLIPS_OWN}")
        check_finite(state, f"{_OPTION}: {path}")
        return ClipWeights(state, digest, _said_activation(file))


def write_clip_weights(weights: ClipWeights, activation: str | None, path: Path) -> None:
    """Writes a state dict as safetensors, with the activation in its header."""
    # A copy of each: tensors of one file may share memory, which safetensors does not write.
    state = {name: value.detach().clone().contiguous() for name, value in weights.state.items()}
    write_atomically(path, iter([save(state, {_METADATA: activation} if activation else None)]))


def _check_archive(file: WeightFile, published: Set[str], allow_torchscript: bool) -> None:
    if allow_torchscript or file.sha256 in published or not file.is_torchscript():
        return
    raise UserError(
        f"{_OPTION}: {file.path} is a TorchScript archive that is not one of OpenAI's, and loading it would run the "
        "code in it; give its state dict (.safetensors or .pt). If you trust it, clip.allow_torchscript=true loads it, "
        f"and python launch/convert_clip.py {file.path} --output FILE.safetensors --allow-torchscript converts it"
    )


def _load_archive(file: WeightFile, published: Set[str], allow_torchscript: bool) -> tuple[dict[str, Tensor], str]:
    # These bytes are hashed, and these bytes are loaded.
    data = file.content()
    digest = hashlib.sha256(data).hexdigest()
    if not allow_torchscript and digest not in published:
        raise UserError(f"{_OPTION}: {file.path} has changed while it was read; run again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.load(io.BytesIO(data), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{_OPTION}: {file.path} cannot be loaded: {first_sentence(error)}") from None
    return dict(module.state_dict()), digest


def _said_activation(file: WeightFile) -> str | None:
    """OpenAI's archives hold the model's code: their QuickGELU computes a sigmoid. Nothing of it is run here."""
    said = file.metadata().get(_METADATA)
    if said in ("quick_gelu", "gelu"):
        return said
    code = file.torchscript_code()
    if any(b"torch.gelu(" in text for text in code):
        return "gelu"
    return "quick_gelu" if any(b"torch.sigmoid(" in text for text in code) else None
