"""CLIP: loaded by name or file, image crops and prompts to unit-length embeddings. The only importer of clip."""

import urllib.error
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from plgen_ddp.config import ClipConfig, deciding
from plgen_ddp.device import DTYPES
from plgen_ddp.encoders.encoder import Preprocessing
from plgen_ddp.errors import UserError, one_line, suggestion
from plgen_ddp.files import file_sha256
from plgen_ddp.records import Similarity

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # clip warns of pkg_resources at import, which no user of this package can mend
    import clip
    from clip.model import VisionTransformer

# OpenAI's preprocessing, on RGB in [0, 1].
_MEAN_RGB = (0.48145466, 0.4578275, 0.40821073)
_STD_RGB = (0.26862954, 0.26130258, 0.27577711)


def fetch_clip(model: str) -> Path:
    """The local weights file of `clip.model`; a name is downloaded into ~/.cache/clip, checked against its SHA-256.

    Raises:
        UserError: neither a known name nor a file, or a download that failed.
    """
    names = clip.available_models()
    if model in names:
        cache = Path.home() / ".cache" / "clip"
        try:
            return Path(clip.clip._download(clip.clip._MODELS[model], str(cache)))
        except (OSError, RuntimeError, urllib.error.URLError) as error:
            raise UserError(f"clip.model: cannot download {model} to {cache}: {error}") from None
    if not Path(model).is_file():
        raise UserError(
            f"clip.model: {model!r} is neither a file nor one of {', '.join(names)}{suggestion(model, names)}"
        )
    return Path(model)


def check_prompts(prompts: Sequence[str], context_length: int = 77) -> Tensor:
    """The tokens int (k, context_length) of prompts; all of OpenAI's models take 77.

    Raises:
        UserError: a prompt is longer.
    """
    try:
        return clip.tokenize(list(prompts), context_length=context_length)
    except RuntimeError:  # its only one
        longest = max(prompts, key=len)
        raise UserError(
            f"label.vocabulary, label.templates: too long for CLIP, which reads {context_length} tokens: "
            f"{longest[:60]!r}..."
        ) from None


class ClipModel:
    """OpenAI's CLIP as an `Encoder`."""

    def __init__(self, options: ClipConfig, weights: Path, device: torch.device, precision: str) -> None:
        """Loads `weights` (from `fetch_clip`).

        Args:
            options: recorded in `identity`.
            precision: fp32, bf16 or fp16, of what multiplies, and of a vision transformer's norm weights; norms compute
                in fp32, as OpenAI's do.

        Raises:
            UserError: the file is no CLIP checkpoint.
        """
        self._options = options
        self._weights = weights
        self._device = device
        self.precision = precision
        dtype = DTYPES[precision]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # On the CPU clip gives float32, whatever the file holds: the start for each of the precisions.
                model, _ = clip.load(str(weights), device="cpu")
        except (RuntimeError, KeyError, ValueError, AttributeError, TypeError, UnpicklingError, EOFError) as error:
            raise UserError(f"clip.model: {weights} is not a CLIP checkpoint: {one_line(error)}") from None
        model.eval().requires_grad_(False)
        if isinstance(model.visual, VisionTransformer):
            _prepare_tower(model.visual, dtype)
        if dtype != torch.float32:
            _cast_products(model, dtype)
        self._model: Any = model.to(device)
        self._embed: Callable[[Tensor], Tensor] = self._embed_eagerly
        self.dim: int = model.text_projection.shape[1]
        # The published models' scale is 100, clamped there in training; the recipe divides by 0.01.
        self.similarity = Similarity("softmax", temperature=0.01)
        self.preprocessing = Preprocessing(model.visual.input_resolution, "crop", "bicubic", _MEAN_RGB, _STD_RGB)
        # OpenAI's own input path: uint8 / 255, minus mean, over std. Channel 0 of BGR is blue.
        self._mean = torch.tensor(_MEAN_RGB, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(_STD_RGB, device=device).view(1, 3, 1, 1)

    def compile(self, batch_size: int) -> None:
        """Compiles `encode_images` for batches of so many crops, now.

        Raises:
            UserError: torch.compile failed, mostly for want of a working compiler.
        """
        side = self.preprocessing.resolution
        crops = torch.zeros(batch_size, 3, side, side, dtype=torch.uint8, device=self._device)
        try:
            self._embed = torch.compile(self._embed_eagerly, dynamic=False)
            self.encode_images(crops)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, OSError) as error:
            why = one_line(getattr(error, "inner_exception", error))
            raise UserError(
                f"clip.compile: torch.compile failed: {why}; mend it (it needs a C++ compiler, Python's headers and a "
                "cache folder), or use clip.compile=false"
            ) from None

    def identity(self) -> dict[str, Any]:
        """What decides the embeddings: the options of `clip`, weights by content."""
        given = deciding(self._options)
        del given["model"]
        return given | {"weights": file_sha256(self._weights), "precision": self.precision}

    @torch.no_grad()  # and not inference_mode, which torch.compile cannot trace through views of the weights
    def encode_images(self, crops_bgr: Tensor) -> Tensor:
        """Unit-length embeddings float32 (k, dim) of crops uint8 (k, 3, resolution, resolution) in BGR order."""
        return self._embed(crops_bgr)

    def _embed_eagerly(self, crops_bgr: Tensor) -> Tensor:
        pixels = crops_bgr.flip(1).to(self._device).float().div_(255).sub_(self._mean).div_(self._std)
        tower = self._model.visual
        if isinstance(tower, VisionTransformer):
            features = _class_token(tower, pixels.to(self._model.dtype)) @ tower.proj
        else:
            features = self._model.encode_image(pixels)
        return functional.normalize(features.float(), dim=-1)

    @torch.inference_mode()
    def encode_texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit-length embeddings float32 (k, dim) of prompts.

        Raises:
            UserError: a prompt longer than CLIP's context.
        """
        tokens = check_prompts(prompts, self._model.context_length)
        return functional.normalize(self._model.encode_text(tokens.to(self._device)).float(), dim=-1)


def _prepare_tower(tower: VisionTransformer, dtype: torch.dtype) -> None:
    """Makes a vision transformer's float32 weights those that `_class_token` works with.

    OpenAI's QuickGELU is x sigmoid(1.702 x), which is silu(1.702 x) / 1.702: with the factor in the layers before and
    behind it, one pass over the largest activations takes the place of three. In half precision the factor rounds the
    weights anew, by less than activations are rounded by.
    """
    # On CUDA, layer_norm takes weights of its input's type only.
    for module in tower.modules():
        if isinstance(module, nn.LayerNorm):
            module.to(dtype)
    for block in tower.transformer.resblocks:
        block.mlp.c_fc.weight *= 1.702
        block.mlp.c_fc.bias *= 1.702
        block.mlp.c_proj.weight /= 1.702
        block.mlp.gelu = nn.SiLU(inplace=True)


def _class_token(tower: Any, pixels: Tensor) -> Tensor:
    """The class token (k, width) of OpenAI's vision transformer, its forward pass but for what costs time in vain.

    The embedding is made of this token alone. So the last block computes keys and values of all tokens, and the rest of
    itself, five sixths, for this one: 7 % less of ViT-B/32, and no other result. Tokens are (k, tokens, width), not
    (tokens, k, width), which attention would have to transpose.
    """
    patches = tower.conv1(pixels).flatten(2).transpose(1, 2)  # (k, tokens - 1, width)
    first = tower.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
    tokens = torch.cat([first, patches], dim=1) + tower.positional_embedding.to(patches.dtype)
    tokens = _norm(tower.ln_pre, tokens)
    *blocks, last = tower.transformer.resblocks
    for block in blocks:
        normed = _norm(block.ln_1, tokens)
        tokens = tokens + _attention(block.attn, normed, normed)
        tokens = tokens + block.mlp(_norm(block.ln_2, tokens))
    normed = _norm(last.ln_1, tokens)
    token = tokens[:, :1] + _attention(last.attn, normed[:, :1], normed)
    token = token + last.mlp(_norm(last.ln_2, token))
    return _norm(tower.ln_post, token[:, 0])


def _attention(layer: nn.MultiheadAttention, queries: Tensor, tokens: Tensor) -> Tensor:
    """What queries (k, q, width) take from tokens (k, t, width): (k, q, width)."""
    width = tokens.shape[-1]
    weights, biases = (both.split([width, 2 * width]) for both in (layer.in_proj_weight, layer.in_proj_bias))
    projected = [functional.linear(queries, weights[0], biases[0])]
    projected += functional.linear(tokens, weights[1], biases[1]).chunk(2, dim=-1)
    heads = [values.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for values in projected]
    return layer.out_proj(functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


def _norm(layer: nn.LayerNorm, tokens: Tensor) -> Tensor:
    """Computed in float32 inside the kernel, where OpenAI's own layer copies to float32 and back."""
    return functional.layer_norm(tokens, layer.normalized_shape, layer.weight, layer.bias, layer.eps)


def _cast_products(model: nn.Module, dtype: torch.dtype) -> None:
    """Casts what multiplies; norms that OpenAI's own layers compute stay float32, the division of its fp16 weights."""
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            names = ["weight", "bias"]
        elif isinstance(module, nn.MultiheadAttention):
            names = [
                "in_proj_weight",
                "q_proj_weight",
                "k_proj_weight",
                "v_proj_weight",
                "in_proj_bias",
                "bias_k",
                "bias_v",
            ]
        else:
            names = ["text_projection", "proj"]
        for name in names:
            parameter = getattr(module, name, None)
            if isinstance(parameter, nn.Parameter):
                parameter.data = parameter.data.to(dtype)
