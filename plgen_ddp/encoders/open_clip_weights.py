"""Weights for open_clip's models: found or downloaded, read without running code, loaded as open_clip loads them."""

import urllib.error
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict, load_big_vision_weights
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from torch import Tensor

from plgen_ddp.encoders.download import cache_name, download
from plgen_ddp.errors import UserError, one_line
from plgen_ddp.weight_files import WeightFile, check_finite, state_of

_OPTION = "clip.weights"


def download_tag(model: str, tag: dict[str, Any]) -> Path:
    """The weights of a TAG of open_clip's list, from the Hugging Face hub's cache, or from the URL that the list has.

    Raises:
        UserError: a download that failed.
    """
    try:
        if tag.get("hf_hub") or "file" in tag:
            return Path(open_clip.download_pretrained(tag))
    except (OSError, RuntimeError, ValueError, urllib.error.URLError) as error:
        raise UserError(
            f"clip.model: cannot download the weights of {model}: {one_line(error)}; "
            "clip.weights=FILE takes a file that you have"
        ) from None
    url = tag["url"]
    # A URL without a digest is trusted as open_clip's list is; what is read from it is tensors alone.
    digest = url.rsplit("/", 2)[-2] if "openaipublic" in url else ""
    return download(url, Path.home() / ".cache" / "clip" / cache_name(url), digest, "clip.model")


def load_weights(model: Any, path: Path, name: str) -> str:
    """Loads a file of tensors (.pt, .bin, .safetensors) or Google's arrays (.npz) into an open_clip model.

    Returns:
        The SHA-256 of what was loaded.

    Raises:
        UserError: no such file, one that would run code, another model's, or weights that are not finite.
    """
    with WeightFile(path, _OPTION) as file:
        try:
            if path.suffix in (".npz", ".npy"):
                load_big_vision_weights(model, file.descriptor)  # reads arrays, no objects
            else:
                state = state_of(file.read(), ("state_dict",))
                if state is None:
                    raise UserError(f"{_OPTION}: {path} holds no state dict")
                model.load_state_dict(_as_open_clips(model, state))
        except UserError:
            raise
        except Exception as error:  # what open_clip raises for another model's file is of any kind
            raise UserError(f"{_OPTION}: {path} does not hold {name}: {one_line(error)}") from None
        check_finite(model.state_dict(), f"{_OPTION}: {path}")
        return file.sha256


def _as_open_clips(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The steps of `open_clip.load_checkpoint` between reading a file and loading it."""
    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):  # a number, or a vector of one
        own = getattr(model, name, None)
        if name in state and own is not None and state[name].ndim != own.ndim:
            state[name] = state[name].reshape(own.shape)
    if "logit_bias" not in state and getattr(model, "logit_bias", None) is not None:
        state["logit_bias"] = torch.zeros_like(state["logit_scale"])
    position_ids = "text.transformer.embeddings.position_ids"
    if position_ids in state and not hasattr(model, position_ids):
        del state[position_ids]
    resize_pos_embed(state, model)
    resize_text_pos_embed(state, model)
    return state
