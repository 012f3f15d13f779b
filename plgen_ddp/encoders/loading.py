"""From `clip.model` to an encoder: which module is behind a name, its weights on disk, the loaded model."""

from collections.abc import Sequence
from pathlib import Path

import torch

from plgen_ddp.config import ClipConfig
from plgen_ddp.device import resolve_precision
from plgen_ddp.encoders import openai_clip
from plgen_ddp.encoders.encoder import Encoder


def fetch_encoder(options: ClipConfig) -> Path:
    """The local weights file of `clip.model`, downloaded into a cache where it is given by name.

    Raises:
        UserError: neither a known name nor a file, or a download that failed.
    """
    return openai_clip.fetch_clip(options.model)


def load_encoder(options: ClipConfig, weights: Path, device: torch.device, precision: str | None = None) -> Encoder:
    """The encoder of `clip.model` with the weights that `fetch_encoder` returned, on `device`.

    Args:
        precision: takes the place of `clip.precision`.

    Raises:
        UserError: the file does not hold such a model.
    """
    return openai_clip.ClipModel(options, weights, device, resolve_precision(precision or options.precision, device))


def check_prompts(options: ClipConfig, prompts: Sequence[str]) -> None:
    """
    Raises:
        UserError: a prompt is longer than the context of `clip.model`.
    """
    openai_clip.check_prompts(prompts)
