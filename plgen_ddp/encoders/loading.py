"""From `clip.model` to an encoder: which module is behind a name, its weights on disk, the loaded model."""

from collections.abc import Sequence
from pathlib import Path

import torch

from plgen_ddp.config import ClipConfig
from plgen_ddp.device import resolve_precision
from plgen_ddp.encoders.encoder import Encoder
from plgen_ddp.errors import UserError


def fetch_encoder(options: ClipConfig) -> Path:
    """The local weights file of `clip.model`, downloaded into a cache where it is given by name.

    Raises:
        UserError: neither a known name nor a file, a download that failed, or an option of another module.
    """
    if _by_open_clip(options):
        from plgen_ddp.encoders.open_clip import fetch_open_clip

        return fetch_open_clip(options)
    from plgen_ddp.encoders.openai_clip import fetch_clip

    return fetch_clip(options)


def named_encoder(options: ClipConfig) -> dict[str, str]:
    """The options of `clip` that name the encoder, for a reader in another folder: files by their absolute path."""
    prefix = "open_clip:local-dir:"
    model = options.model.removeprefix(prefix)
    named = {"model": options.model.removesuffix(model) + _absolute(model)}
    for name in ("weights", "tokenizer"):
        if (value := getattr(options, name)) is not None:
            named[name] = _absolute(value)
    return named if options.activation == "auto" else named | {"activation": options.activation}


def load_encoder(options: ClipConfig, weights: Path, device: torch.device, precision: str | None = None) -> Encoder:
    """The encoder of `clip.model` with the weights that `fetch_encoder` returned, on `device`.

    Args:
        precision: takes the place of `clip.precision`.

    Raises:
        UserError: the file does not hold such a model.
    """
    resolved = resolve_precision(precision or options.precision, device)
    if _by_open_clip(options):
        from plgen_ddp.encoders.open_clip import OpenClipModel

        return OpenClipModel(options, weights, device, resolved)
    from plgen_ddp.encoders.openai_clip import ClipModel

    return ClipModel(options, weights, device, resolved)


def check_prompts(options: ClipConfig, prompts: Sequence[str]) -> None:
    """Checks that every prompt fits the context of `clip.model`. Needs its tokenizer, not its weights.

    Raises:
        UserError: a prompt is longer than the context of `clip.model`.
    """
    if _by_open_clip(options):
        from plgen_ddp.encoders import open_clip

        open_clip.check_prompts(options, prompts)
        return
    from plgen_ddp.encoders import openai_clip

    openai_clip.tokenize(prompts)


def _absolute(name: str) -> str:
    """A path where there is something under that name; else the name, such as ViT-B/32."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def _by_open_clip(options: ClipConfig) -> bool:
    """Whether `clip.model` is a model of open_clip; otherwise it is one of OpenAI's module.

    Raises:
        UserError: an option that only the other one has.
    """
    if options.model.startswith("open_clip:"):
        if options.activation != "auto":
            raise UserError(
                f"clip.activation is {options.activation!r}, and an open_clip: model has its own; open_clip lists "
                "models with QuickGELU as MODEL-quickgelu"
            )
        return True
    for name in ("weights", "tokenizer"):
        if getattr(options, name) is not None:
            raise UserError(
                f"clip.{name} is for open_clip: models; OpenAI's module takes its weights as clip.model=FILE and has "
                "its own tokenizer"
            )
    return False
