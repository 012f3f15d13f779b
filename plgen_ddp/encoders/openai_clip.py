"""OpenAI's CLIP, by name or file: crops and prompts to unit-length embeddings. Stage 1's only importer of clip."""

import urllib.error
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from plgen_ddp.config import ClipConfig
from plgen_ddp.console import print_line
from plgen_ddp.device import DTYPES
from plgen_ddp.encoders.crop_encoder import CropEncoder
from plgen_ddp.encoders.encoder import Preprocessing, causal_length, filled_up, too_long
from plgen_ddp.encoders.vision_transformer import attention, class_token, prepare_tower
from plgen_ddp.errors import UserError, first_sentence, one_line, suggestion
from plgen_ddp.files import file_sha256
from plgen_ddp.options import deciding
from plgen_ddp.records import Similarity

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # clip warns of pkg_resources at import, which no user of this package can mend
        import clip
        from clip.model import VisionTransformer
except ImportError as error:
    raise UserError(
        f"clip.model: OpenAI's module clip cannot be imported ({one_line(error)}): pip install clip-anytorch; the "
        "package that PyPI calls clip is another one"
    ) from None

# OpenAI's preprocessing, on RGB in [0, 1].
_MEAN_RGB = (0.48145466, 0.4578275, 0.40821073)
_STD_RGB = (0.26862954, 0.26130258, 0.27577711)


def fetch_clip(options: ClipConfig) -> Path:
    """The local weights file of `clip.model`; a name is downloaded into ~/.cache/clip, checked against its SHA-256.

    Prints a line where the file's activation is a guess (see `activation_of`).

    Raises:
        UserError: neither a known name nor a file, or a download that failed.
    """
    model, names = options.model, clip.available_models()
    if model in names:
        cache = Path.home() / ".cache" / "clip"
        try:
            return Path(clip.clip._download(clip.clip._MODELS[model], str(cache)))
        except (OSError, RuntimeError, urllib.error.URLError) as error:
            raise UserError(f"clip.model: cannot download {model} to {cache}: {error}") from None
    weights = Path(model)
    if not weights.is_file():
        raise UserError(
            f"clip.model: {model!r} is neither a file nor one of {', '.join(names)}, nor open_clip:MODEL"
            f"{suggestion(model, names)}"
        )
    if activation_of(options, weights) is None:
        print_line(
            f"warning: clip.model: {weights} does not say its activation, and is run with OpenAI's QuickGELU; "
            "clip.activation=quick_gelu confirms it, clip.activation=gelu is for models that were trained with GELU",
            error=True,
        )
    return weights


def activation_of(options: ClipConfig, weights: Path) -> str | None:
    """quick_gelu or gelu, from `clip.activation` or from the code in a TorchScript file; None: nothing says it.

    A state dict holds no activation. OpenAI's own files are TorchScript archives, which hold the model's code: their
    QuickGELU computes a sigmoid. The right weights with the other activation still run, and give poor embeddings.
    """
    if options.activation != "auto":
        return options.activation
    try:
        with zipfile.ZipFile(weights) as archive:
            code = [archive.read(name) for name in archive.namelist() if "/code/" in name and name.endswith(".py")]
    except (OSError, zipfile.BadZipFile):
        return None
    if any(b"torch.gelu(" in text for text in code):
        return "gelu"
    return "quick_gelu" if any(b"torch.sigmoid(" in text for text in code) else None


def tokenize(prompts: Sequence[str], context_length: int = 77) -> Tensor:
    """The tokens int (k, context_length) of prompts; all of OpenAI's models take 77.

    Raises:
        UserError: a prompt is longer.
    """
    try:
        return clip.tokenize(list(prompts), context_length=context_length)
    except RuntimeError:  # its only one
        raise too_long(max(prompts, key=len), context_length) from None


class ClipModel:
    """OpenAI's CLIP as an `Encoder`."""

    def __init__(self, options: ClipConfig, weights: Path, device: torch.device, precision: str) -> None:
        """Loads `weights` (from `fetch_clip`).

        Args:
            precision: fp32, bf16 or fp16, of what multiplies, and of a vision transformer's norm weights; norms compute
                in fp32, as OpenAI's do.

        Raises:
            UserError: the file is no CLIP checkpoint.
        """
        self._options = options
        self._weights = weights
        self._device = device
        self._activation = activation_of(options, weights) or "quick_gelu"
        self.precision = precision
        dtype = DTYPES[precision]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # On the CPU clip gives float32, whatever the file holds: the start for each of the precisions.
                model, _ = clip.load(str(weights), device="cpu")
        except (RuntimeError, KeyError, ValueError, AttributeError, TypeError, UnpicklingError, EOFError) as error:
            raise UserError(
                f"clip.model: {weights} is not a CLIP checkpoint as OpenAI's module reads it: {first_sentence(error)}; "
                "one that open_clip wrote is clip.model=open_clip:MODEL clip.weights=FILE"
            ) from None
        model.eval().requires_grad_(False)
        if self._activation == "gelu":
            _use_gelu(model)
        if isinstance(model.visual, VisionTransformer):
            prepare_tower(model.visual, dtype, quick_gelu=self._activation == "quick_gelu")
        if dtype != torch.float32:
            _cast_products(model, dtype)
        self._model: Any = model.to(device)
        self.dim: int = model.text_projection.shape[1]
        # The published models' scale is 100, clamped there in training; the recipe divides by 0.01.
        self.similarity = Similarity("softmax", temperature=0.01)
        self.preprocessing = Preprocessing(model.visual.input_resolution, "crop", "bicubic", _MEAN_RGB, _STD_RGB)
        self._crops = CropEncoder(self._image_features, self.preprocessing, device)

    def compile(self, batch_size: int) -> None:
        """Compiles `encode_images` for batches of `batch_size` crops, now; see `CropEncoder.compile`."""
        self._crops.compile(batch_size)

    def identity(self) -> dict[str, Any]:
        """What decides the embeddings: the options of `clip`, weights by content."""
        given = deciding(self._options)
        del given["model"]
        return given | {
            "weights": file_sha256(self._weights),
            "activation": self._activation,
            "precision": self.precision,
        }

    def encode_images(self, crops_bgr: Tensor) -> Tensor:
        """Unit-length embeddings float32 (k, dim) of crops uint8 (k, 3, resolution, resolution) in BGR order."""
        return self._crops(crops_bgr)

    @torch.inference_mode()
    def encode_texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit-length embeddings float32 (k, dim) of prompts.

        Raises:
            UserError: a prompt longer than CLIP's context.
        """
        tokens = filled_up(tokenize(prompts, self._model.context_length))
        ends = tokens.argmax(dim=-1)  # the end token is the largest
        length = causal_length(int(ends.max()), self._model.context_length)
        features = self._text_features(tokens[:, :length].to(self._device), ends.to(self._device))
        return functional.normalize(features[: len(prompts)].float(), dim=-1)

    def _image_features(self, pixels: Tensor) -> Tensor:
        tower = self._model.visual
        if isinstance(tower, VisionTransformer):
            return class_token(tower, pixels.to(self._model.dtype)) @ tower.proj
        return self._model.encode_image(pixels)

    def _text_features(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """OpenAI's `encode_text` for tokens (k, length) of any length; ends: (k,), where each prompt's end token is."""
        model = self._model
        positions = model.positional_embedding[: tokens.shape[1]].type(model.dtype)
        states = model.token_embedding(tokens).type(model.dtype) + positions
        for block in model.transformer.resblocks:
            normed = block.ln_1(states)
            states = states + attention(block.attn, normed, normed, causal=True)
            states = states + block.mlp(block.ln_2(states))
        rows = torch.arange(len(tokens), device=tokens.device)
        return model.ln_final(states[rows, ends]) @ model.text_projection


def _use_gelu(model: nn.Module) -> None:
    for module in model.modules():
        if hasattr(module, "gelu"):
            module.gelu = nn.GELU()


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
