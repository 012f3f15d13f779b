"""Models of open_clip, SigLIP and SigLIP 2 among them, as an `Encoder`. The only importer of open_clip.

Preprocessing, activation, tokenizer, context length and the rule from cosine to probability come from the model.
"""

import json
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from plgen_ddp.config import ClipConfig
from plgen_ddp.device import DTYPES
from plgen_ddp.encoders.crop_encoder import CropEncoder
from plgen_ddp.encoders.encoder import Preprocessing, causal_length, filled_up
from plgen_ddp.encoders.open_clip_tokens import Tokenizer, read_tokenizer, tokenizer_file
from plgen_ddp.errors import UserError, one_line, suggestion
from plgen_ddp.files import file_sha256
from plgen_ddp.options import deciding
from plgen_ddp.records import Similarity
from plgen_ddp.weight_files import refuse_url

try:
    import open_clip
    from open_clip.tokenizer import get_clean_fn
    from open_clip.transformer import TextTransformer, text_global_pool

    from plgen_ddp.encoders.open_clip_weights import download_tag, load_weights
except ImportError as error:
    raise UserError(
        f"clip.model: open_clip: models need the package open_clip ({one_line(error)}): "
        "pip install 'plgen_ddp[open-clip]'"
    ) from None

PREFIX = "open_clip:"
_FOLDER = "local-dir:"
# What open_clip's own snapshots call the weights, in its order of preference.
_WEIGHTS_IN_FOLDER = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True, slots=True)
class _Model:
    """What `clip.model` means.

    Attributes:
        name: as open_clip's functions take it: a name of its list, or local-dir:FOLDER.
        tag: of its pretrained weights, or None.
        config: its open_clip configuration.
    """

    name: str
    tag: str | None
    config: dict[str, Any]

    @property
    def folder(self) -> Path | None:
        return Path(self.name.removeprefix(_FOLDER)) if self.name.startswith(_FOLDER) else None

    @property
    def tag_config(self) -> dict[str, Any]:
        return open_clip.get_pretrained_cfg(self.name, self.tag) if self.tag else {}

    @property
    def quick_gelu(self) -> bool:
        """The TAG's activation, if it has one: open_clip itself runs ViT-B-32/openai with GELU, and warns."""
        return bool(self.config.get("quick_gelu") or self.tag_config.get("quick_gelu"))


def fetch_open_clip(options: ClipConfig) -> Path:
    """The local weights file of an open_clip model: `clip.weights`, the one in its folder, or its TAG's, downloaded.

    A tokenizer that has to be downloaded is downloaded too.

    Raises:
        UserError: an unknown MODEL or TAG, no file, or a download that failed.
    """
    model = _parse(options.model)
    _tokenizer(options, model)
    if options.weights is not None:
        refuse_url(options.weights, "clip.weights")
        weights = Path(options.weights)
        if not weights.is_file():
            raise UserError(f"clip.weights: no file at {weights}")
        return weights
    if model.folder is not None:
        return _weights_in(model.folder)
    tags = open_clip.list_pretrained_tags_by_model(model.name)
    if model.tag is None:
        known = f", or a TAG: clip.model={options.model}/TAG with one of {', '.join(tags)}" if tags else ""
        raise UserError(f"clip.model: {options.model} has no weights; add clip.weights=FILE{known}")
    with _quiet():
        return download_tag(options.model, model.tag_config)


def check_prompts(options: ClipConfig, prompts: Sequence[str]) -> None:
    """Checks that the model's tokenizer can hold every prompt; needs no weights.

    Raises:
        UserError: a prompt is longer than the model's context.
    """
    _tokenizer(options, _parse(options.model))(prompts)


class OpenClipModel:
    """A model of open_clip as an `Encoder`."""

    def __init__(self, options: ClipConfig, weights: Path, device: torch.device, precision: str) -> None:
        """Loads `weights` (from `fetch_open_clip`).

        Args:
            precision: fp32, bf16 or fp16, of everything but batch norms.

        Raises:
            UserError: the weights are not the model's, or its preprocessing is none that stage 1 can reproduce.
        """
        self._options = options
        self._device = device
        self.precision = precision
        self._source = _parse(options.model)
        self._tokenizer = _tokenizer(options, self._source)
        model, self._digest = _load(self._source, weights)
        self.preprocessing = _preprocessing(self._source, model.visual.preprocess_cfg)
        # Read before the cast: bfloat16 would move a learned bias of -16 by 0.06.
        self.similarity = _similarity(model)
        dtype = DTYPES[precision]
        if dtype != torch.float32:
            _cast(model, dtype)
        self._dtype = dtype
        self._model: Any = model.to(device)
        self._crops = CropEncoder(self._image_features, self.preprocessing, device)
        side = self.preprocessing.resolution
        self.dim: int = self.encode_images(torch.zeros(1, 3, side, side, dtype=torch.uint8)).shape[1]

    def compile(self, batch_size: int) -> None:
        """Compiles `encode_images` for batches of `batch_size` crops, now; see `CropEncoder.compile`."""
        self._crops.compile(batch_size)

    def identity(self) -> dict[str, Any]:
        """What decides the embeddings: the options of `clip`, files by content, and what the TAG decides."""
        given = deciding(self._options)
        del given["model"]
        tokenizer = self._tokenizer.file
        return given | {
            "open_clip": self._source.name if self._source.folder is None else self._source.config,
            "quick_gelu": self._source.quick_gelu,
            "preprocessing": asdict(self.preprocessing),
            "weights": self._digest,
            "tokenizer": None if tokenizer is None else file_sha256(tokenizer),
            "precision": self.precision,
        }

    def encode_images(self, crops_bgr: Tensor) -> Tensor:
        """Unit-length embeddings float32 (k, dim) of crops uint8 (k, 3, resolution, resolution) in BGR order."""
        return self._crops(crops_bgr)

    @torch.inference_mode()
    def encode_texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit-length embeddings float32 (k, dim) of prompts.

        Raises:
            UserError: a prompt longer than the model's context.
        """
        tokens = filled_up(self._tokenizer(prompts))
        # CustomTextCLIP has a text tower of its own; CLIP holds the tower's parts itself.
        tower = getattr(self._model, "text", self._model)
        if _is_causal(tower):
            features = self._causal_features(tower, tokens)
        else:
            features = self._model.encode_text(tokens.to(self._device))
        return functional.normalize(features[: len(prompts)].float(), dim=-1)

    def _image_features(self, pixels: Tensor) -> Tensor:
        return self._model.encode_image(pixels.to(self._dtype))

    def _causal_features(self, tower: Any, tokens: Tensor) -> Tensor:
        """open_clip's `encode_text` of tokens (k, context), without what is behind the last end token."""
        kind, end_token = _pooling(tower)
        marked = tokens if kind == "argmax" else tokens.eq(end_token).int()
        ends = marked.argmax(dim=-1)
        length = causal_length(int(ends.max()), tokens.shape[1])
        tokens = tokens[:, :length].to(self._device)
        states = tower.token_embedding(tokens).to(self._dtype) + tower.positional_embedding[:length].to(self._dtype)
        states = tower.transformer(states, attn_mask=tower.attn_mask[:length, :length])
        pooled = text_global_pool(tower.ln_final(states), tokens, kind, eos_token_id=end_token)
        projection = tower.text_projection
        if projection is None:
            return pooled
        return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection


def _is_causal(tower: Any) -> bool:
    """Whether a token sees only those before it, and the embedding is read at the end token.

    SigLIP's tower is not causal and reads its last token. CoCa's appends a token behind the padding.
    """
    if not isinstance(tower, (open_clip.CLIP, TextTransformer)):
        return False
    appended = getattr(tower, "cls_emb", None) is not None
    return tower.attn_mask is not None and not appended and _pooling(tower)[0] in ("argmax", "eos")


def _pooling(tower: Any) -> tuple[str, int]:
    """How the tower's end token is found, and its id."""
    if isinstance(tower, TextTransformer):
        return tower.pool_type, tower.eos_id
    return tower.text_pool_type, tower.text_eos_id


def _parse(model: str) -> _Model:
    """The model that the value of `clip.model` means.

    Raises:
        UserError: an unknown MODEL or TAG, with the nearest known one; a folder without an open_clip_config.json.
    """
    name = model.removeprefix(PREFIX)
    if name.startswith(_FOLDER):
        path = Path(name.removeprefix(_FOLDER), "open_clip_config.json")
        try:
            config = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
            _ = config["text_cfg"], config["vision_cfg"]  # or it is no model's
            return _Model(name, None, config)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"clip.model: cannot read a model_cfg from {path}: {one_line(error)}") from None
    name, _, tag = name.partition("/")
    names = open_clip.list_models()
    if name not in names:
        raise UserError(
            f"clip.model: open_clip has no model {name!r}{suggestion(name, names)}; "
            "python -c 'import open_clip; print(open_clip.list_models())' lists them"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag and not open_clip.get_pretrained_cfg(name, tag):
        known = f"it has {', '.join(tags)}" if tags else "it has none"
        raise UserError(f"clip.model: {name} has no pretrained weights {tag!r}{suggestion(tag, tags)}; {known}")
    return _Model(name, tag or None, open_clip.get_model_config(name))


def _weights_in(folder: Path) -> Path:
    known = [folder / name for name in _WEIGHTS_IN_FOLDER if (folder / name).is_file()]
    if known:
        return known[0]
    others = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt", ".pth"))
    if len(others) != 1:
        raise UserError(
            f"clip.model: {folder} has {len(others)} files that may be the weights; clip.weights=FILE says which"
        )
    return others[0]


def _load(source: _Model, weights: Path) -> tuple[Any, str]:
    """The model, and the SHA-256 of the weights in it."""
    try:
        with _quiet():
            model = open_clip.create_model(
                source.name, load_weights=False, pretrained_text=False, force_quick_gelu=source.quick_gelu
            )
    except (ImportError, OSError, RuntimeError, KeyError, ValueError, TypeError, AssertionError) as error:
        raise UserError(f"clip.model: open_clip cannot build {source.name}: {one_line(error)}") from None
    with _quiet():
        digest = load_weights(model, weights, source.name)
    return model.eval().requires_grad_(False), digest


def _preprocessing(source: _Model, fallback: dict[str, Any]) -> Preprocessing:
    """The TAG's preprocessing; without a TAG, what all TAGs of the model share, or the folder's own.

    Args:
        fallback: what open_clip takes for weights from a file: the folder's own, else OpenAI's, also for SigLIP, which
            squashes. The size in it is the model's.

    Raises:
        UserError: the model's TAGs disagree and none is given, or it is none that `score.resample` can do.
    """
    given = dict(fallback)
    if source.tag:
        given |= source.tag_config
    elif source.folder is None:
        tags = open_clip.list_pretrained_tags_by_model(source.name)
        kinds = {tag: open_clip.get_pretrained_cfg(source.name, tag) for tag in tags}
        distinct = {tuple(kind.get(key) for key in _PREPROCESSING) for kind in kinds.values()}
        if len(distinct) > 1:
            raise UserError(
                f"clip.model: pretrained weights of {source.name} differ in their preprocessing; write "
                f"{PREFIX}{source.name}/TAG, also with clip.weights; TAG is one of {', '.join(tags)}"
            )
        given |= next(iter(kinds.values()), {})
    height, width = given["size"] if isinstance(given["size"], (tuple, list)) else (given["size"], given["size"])
    resize = {"shortest": "crop", "squash": "squash"}.get(given["resize_mode"])
    # For inference open_clip reads "random" as bicubic.
    interpolation = "bicubic" if given["interpolation"] == "random" else given["interpolation"]
    if height != width or resize is None or interpolation not in ("bicubic", "bilinear"):
        raise UserError(
            f"clip.model: {source.name} wants crops of {height} x {width} px, {given['resize_mode']!r} and "
            f"{given['interpolation']!r}; supported are squares, 'shortest' or 'squash', bicubic or bilinear"
        )
    mean, std = (
        (value,) * 3 if isinstance(value, (int, float)) else tuple(value) for value in (given["mean"], given["std"])
    )
    if not all(map(math.isfinite, (*mean, *std))) or not all(value > 0 for value in std):
        raise UserError(f"clip.model: {source.name} normalises by mean {mean} and std {std}; std must be positive")
    return Preprocessing(height, resize, interpolation, mean, std)  # type: ignore[arg-type]


def _similarity(model: Any) -> Similarity:
    temperature = float((-model.logit_scale.double()).exp())
    if model.logit_bias is None:
        return Similarity("softmax", temperature)
    return Similarity("sigmoid", temperature, float(model.logit_bias))


def _tokenizer(options: ClipConfig, source: _Model) -> Tokenizer:
    """The tokenizer of `clip.tokenizer`, or the model's own.

    Raises:
        UserError: `clip.tokenizer` is no tokenizer, or it is not set and cannot be downloaded.
    """
    text = source.config["text_cfg"]
    settings = text.get("tokenizer_kwargs") or {}
    context_length = text.get("context_length", 77)
    in_hub = text.get("hf_tokenizer_name") or text.get("hf_model_name")
    if options.tokenizer is None and not in_hub:
        own = open_clip.SimpleTokenizer(context_length=context_length, clean=settings.get("clean", "lower"))

        def encode(prompt: str) -> list[int]:
            return [own.sot_token_id, *own.encode(prompt), own.eot_token_id]

        return Tokenizer(encode, context_length, pad_id=0)
    unknown = set(settings) - {"clean", "strip_sep_token"} or text.get("tokenizer_mode")
    if unknown:
        raise UserError(f"clip.model: the tokenizer of {source.name} is not supported: {unknown}")
    clean = settings.get("clean", "whitespace")
    return read_tokenizer(
        _tokenizer_file(options, source, in_hub),
        get_clean_fn(clean),
        context_length,
        siglip=clean == "canonicalize",  # SigLIP's models, and they alone, clean so
        strip_separator=bool(settings.get("strip_sep_token")),
    )


def _tokenizer_file(options: ClipConfig, source: _Model, in_hub: str | None) -> Path:
    if options.tokenizer is not None:
        return tokenizer_file(options.tokenizer)
    if source.folder is not None and (source.folder / "tokenizer.json").is_file():
        return source.folder / "tokenizer.json"
    assert in_hub is not None
    try:
        from huggingface_hub import hf_hub_download

        with _quiet():
            return Path(hf_hub_download(in_hub, "tokenizer.json"))
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"clip.tokenizer is not set, and the tokenizer of {source.name} cannot be downloaded from {in_hub}: "
            f"{one_line(error)}; give clip.tokenizer=FILE, a tokenizer.json"
        ) from None


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Casts everything but batch norms, whose statistics need float32's range."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)


@contextmanager
def _quiet() -> Iterator[None]:
    """open_clip logs and warns of what is decided here on purpose, such as weights that are loaded a line later."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
