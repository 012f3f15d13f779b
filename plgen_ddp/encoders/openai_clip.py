"""OpenAI's CLIP, by name or file: crops and prompts to unit-length embeddings. Stage 1's only importer of clip."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from plgen_ddp.config import ClipConfig
from plgen_ddp.console import print_line
from plgen_ddp.device import DTYPES
from plgen_ddp.encoders.clip_weights import OPEN_CLIPS_OWN, check_clip_file, read_clip_weights
from plgen_ddp.encoders.crop_encoder import CropEncoder
from plgen_ddp.encoders.download import download
from plgen_ddp.encoders.encoder import Preprocessing, causal_length, filled_up, too_long
from plgen_ddp.encoders.vision_transformer import attention, class_token, prepare_tower
from plgen_ddp.errors import UserError, first_sentence, one_line, suggestion
from plgen_ddp.options import deciding
from plgen_ddp.records import Similarity
from plgen_ddp.weight_files import refuse_url

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
    """The file of `find_clip`. Prints a line where its activation is a guess.

    Raises:
        UserError: what `find_clip` raises, or an archive of TorchScript that may not be loaded.
    """
    weights = find_clip(options)
    said = check_clip_file(weights, published_digests(), options.allow_torchscript)
    if options.activation == "auto" and said is None:
        print_line(
            f"warning: clip.model: {weights} does not say its activation, and is run with OpenAI's QuickGELU; "
            "clip.activation=quick_gelu confirms it, clip.activation=gelu is for models that were trained with GELU",
            error=True,
        )
    return weights


def find_clip(options: ClipConfig) -> Path:
    """The local file of `clip.model`; a name is downloaded into ~/.cache/clip, checked against its SHA-256.

    Raises:
        UserError: neither a known name nor a file, or a download that failed.
    """
    model, urls = options.model, clip.clip._MODELS
    if model in urls:
        # clip's own name for it: what an earlier version or another tool has downloaded is used.
        target = Path.home() / ".cache" / "clip" / urls[model].rsplit("/", 1)[-1]
        return download(urls[model], target, _digest_in(urls[model]), "clip.model")
    refuse_url(model, "clip.model")
    if not Path(model).is_file():
        raise UserError(
            f"clip.model: {model!r} is neither a file nor one of {', '.join(urls)}, nor open_clip:MODEL"
            f"{suggestion(model, urls)}"
        )
    return Path(model)


def published_digests() -> frozenset[str]:
    """The SHA-256 of OpenAI's files, which are archives of TorchScript."""
    return frozenset(map(_digest_in, clip.clip._MODELS.values()))


def _digest_in(url: str) -> str:
    """OpenAI's URLs have the file's SHA-256 as their last folder."""
    return str(url.rsplit("/", 2)[-2])


def tokenize(prompts: Sequence[str], context_length: int = 77) -> Tensor:
    """The tokens int (k, context_length) of prompts; all of OpenAI's models take 77.

    Raises:
        UserError: a prompt is longer.
    """
    try:
        return clip.tokenize(list(prompts), context_length=context_length)
    except RuntimeError:  # its only one
        for prompt in prompts:
            try:
                clip.tokenize(prompt, context_length=context_length)
            except RuntimeError:
                raise too_long(prompt, context_length) from None
        raise


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
        self._device = device
        self.precision = precision
        dtype = DTYPES[precision]
        read = read_clip_weights(weights, published_digests(), options.allow_torchscript)
        self._digest = read.sha256
        # The right weights with the other activation still run, and give poor embeddings.
        self._activation = options.activation if options.activation != "auto" else read.activation or "quick_gelu"
        try:
            # float32, whatever the file holds, is the start for each of the precisions.
            model = clip.model.build_model(dict(read.state)).float()
        except (RuntimeError, KeyError, ValueError, AttributeError, TypeError, IndexError, AssertionError) as error:
            raise UserError(
                f"clip.model: {weights} is not a CLIP checkpoint as OpenAI's module reads it: {first_sentence(error)}; "
                f"{OPEN_CLIPS_OWN}"
            ) from None
        model.requires_grad_(False)
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
            "weights": self._digest,
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
