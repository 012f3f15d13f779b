"""Every option of the job: declared once, documented under its field, checked when built.

A run's configuration is a YAML file plus `section.key=value` words from the command line. OmegaConf's structured
configs check keys and types; the classes below are frozen, so nothing changes them later.
"""

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from plgen_ddp.errors import UserError, one_line, suggestion

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
ACTIVATIONS = ("auto", "quick_gelu", "gelu")

T = TypeVar("T")


def check(holds: bool, key: str, value: object, expected: str) -> None:
    """Raises what a section's `__post_init__` says of one value: that it is not `expected`."""
    if not holds:
        raise UserError(f"{key} is {value!r}; expected {expected}")


def decides_nothing(default: Any) -> Any:
    """A field that does not change stage 1's output; see `deciding`."""
    return field(default=default, metadata={"decides": False})


def deciding(section: Any) -> dict[str, Any]:
    """The options of a section that decide stage 1's output: all but those declared with `decides_nothing`."""
    return {item.name: getattr(section, item.name) for item in fields(section) if item.metadata.get("decides", True)}


@dataclass(frozen=True)
class DataConfig:
    annotations: str | None = None
    """COCO-format JSON whose images are scored. Stage 1 reads its `images` and nothing else."""

    image_root: str | None = None
    """Folder of the images: COCO's root, or the folder that holds the files themselves."""

    limit: int | None = None
    """Only the first so many images in ascending id: a trial. The store it makes can be completed later."""

    def __post_init__(self) -> None:
        check(self.limit is None or self.limit > 0, "data.limit", self.limit, "a positive number of images, or null")


@dataclass(frozen=True)
class DetectorConfig:
    config: str | None = None
    """detectron2 YAML of a two-stage detector with one class; from the current folder, or beside the config file."""

    weights: str | None = None
    """The detector's checkpoint: a .pth file, or a URL that detectron2 can read."""

    precision: str = "auto"
    """Arithmetic of the detector's large products: fp32, bf16, fp16. auto: fp16 on CUDA, bf16 on CPUs that have it."""

    rpn_nms_iou: float = 0.3
    """IoU of the RPN's non-maximum suppression; takes the place of the detectron2 config's."""

    rpn_proposals: int = 1000
    """Proposals after that suppression; takes the place of the detectron2 config's."""

    refine_steps: int = 10
    """How often the RoI box head is applied, each time to the boxes of the time before."""

    max_boxes: int = 100
    """Boxes kept of an image, in RPN order, before the small ones are dropped."""

    min_box_size: float = 5.0
    """A box under this width or height, in original pixels after clipping, is dropped."""

    min_objectness: float = 0.0
    """A box of lower objectness is dropped. Exact for every labelling whose score cannot exceed its threshold at such
    an objectness: with VL-PLM's weight 0.5 and threshold 0.8, up to 0.6."""

    def __post_init__(self) -> None:
        check(self.precision in PRECISIONS, "detector.precision", self.precision, "one of " + ", ".join(PRECISIONS))
        check(0 < self.rpn_nms_iou <= 1, "detector.rpn_nms_iou", self.rpn_nms_iou, "a number above 0, at most 1")
        check(self.rpn_proposals > 0, "detector.rpn_proposals", self.rpn_proposals, "1 or more")
        check(self.refine_steps >= 0, "detector.refine_steps", self.refine_steps, "0 or more")
        check(self.max_boxes > 0, "detector.max_boxes", self.max_boxes, "1 or more")
        check(1 < self.min_box_size < math.inf, "detector.min_box_size", self.min_box_size, "more than 1 pixel")
        check(0 <= self.min_objectness <= 1, "detector.min_objectness", self.min_objectness, "a number from 0 to 1")


@dataclass(frozen=True)
class ClipConfig:
    model: str = "ViT-B/32"
    """OpenAI's module: a name of `clip.available_models()`, downloaded once a node, or a weights file. open_clip (extra
    `open-clip`; SigLIP is there): `open_clip:MODEL/TAG` with a TAG of its pretrained weights, `open_clip:MODEL` with
    `clip.weights`, or `open_clip:local-dir:FOLDER` with an open_clip_config.json in FOLDER."""

    weights: str | None = decides_nothing(None)  # its content is in the encoder's identity, as is the tokenizer's
    """Weights file for `open_clip:MODEL` (.pt, .bin, .safetensors). With a TAG, preprocessing and activation are the
    TAG's, the weights the file's."""

    tokenizer: str | None = decides_nothing(None)
    """tokenizer.json, or a folder with it, for models of open_clip whose tokenizer is a download, as SigLIP's is."""

    activation: str = decides_nothing("auto")  # what it resolves to is in the encoder's identity
    """Activation of a weights file for OpenAI's module: quick_gelu, gelu or auto. auto: what the code in a TorchScript
    file says. A state dict does not say it; it is run as quick_gelu, with a warning."""

    precision: str = "auto"
    """fp16, bf16 or fp32. auto: fp16 on CUDA, bf16 on CPUs that compute in it, else fp32."""

    text_precision: str = decides_nothing("fp32")
    """The same for text embeddings, which stage 2 makes. bf16 halves their time on CPUs that compute in it, at a cosine
    above 0.9999 to fp32; labels then differ in the last digits."""

    crop_scales: tuple[float, ...] = (1.0, 1.5)
    """Each box is cropped at these scales about its centre; its embedding is their mean."""

    batch_size: int | None = decides_nothing(None)
    """Crops in a CLIP batch. null: 512 on CUDA, 32 on a CPU. On CUDA, and where CLIP is compiled, the last batch of a
    part is filled up to this size."""

    compile: bool = False
    """torch.compile for CLIP: half a minute or more at the start of each rank, and other last digits; needs a C++
    compiler and Python's headers. Off by default: a CPU gains nothing by it (README), a GPU is not yet measured."""

    def __post_init__(self) -> None:
        for name in ("precision", "text_precision"):
            check(
                getattr(self, name) in PRECISIONS,
                f"clip.{name}",
                getattr(self, name),
                "one of " + ", ".join(PRECISIONS),
            )
        check(self.activation in ACTIVATIONS, "clip.activation", self.activation, "one of " + ", ".join(ACTIVATIONS))
        positive = len(self.crop_scales) > 0 and all(0 < scale < math.inf for scale in self.crop_scales)
        check(positive, "clip.crop_scales", list(self.crop_scales), "one or more positive numbers")
        check(self.batch_size is None or self.batch_size > 0, "clip.batch_size", self.batch_size, "1 or more, or null")


@dataclass(frozen=True)
class RunConfig:
    output: str | None = None
    """Folder of this run: the region store and the labels. The same folder again resumes."""

    device: str = "auto"
    """cuda, cpu, or auto: CUDA where there is one. Rank r of a node takes GPU r."""

    images_per_batch: int = 8
    """Images the detector sees at once; all of a batch have one padded shape."""

    images_per_part: int = 64
    """Most images in a part of the store; fewer, down to one (on CUDA to a batch), where there would be less than 64
    parts. A part is what a killed job can lose, on each rank."""

    workers: int = 2
    """Threads a rank that decode images ahead; 0 decodes when a batch is needed."""

    threads: int = 1
    """CPU threads of a rank. oneDNN's convolutions sum in another order on another number of threads, so one thread is
    what makes results equal on any number of ranks; a CPU is better filled with ranks, one a core."""

    max_failures: int = 0
    """The exit status is non-zero when more images than this could not be scored."""

    retry_failures: bool = False
    """Score images again that failed in an earlier run, with the parts that hold them."""

    def __post_init__(self) -> None:
        check(self.device in ("auto", "cuda", "cpu"), "run.device", self.device, "auto, cuda or cpu")
        check(self.images_per_batch > 0, "run.images_per_batch", self.images_per_batch, "1 or more")
        check(self.images_per_part > 0, "run.images_per_part", self.images_per_part, "1 or more")
        check(self.workers >= 0, "run.workers", self.workers, "0 or more")
        check(self.threads > 0, "run.threads", self.threads, "1 or more")
        check(self.max_failures >= 0, "run.max_failures", self.max_failures, "0 or more")


@dataclass(frozen=True)
class LabelConfig:
    annotations: str | None = None
    """COCO-format JSON to label; null: `data.annotations`. The store must hold its images, its categories the names."""

    vocabulary: Any = None
    """The novel names: a YAML file (`novel`, and optionally `base`, `distractors`, `aliases`), or a list of names.
    Without `base`, every other category of the JSON is base and keeps its annotations."""

    templates: Any = None
    """Prompt templates with `{}` for the name and `{article}` for a/an: a text file, one a line, or a list."""

    temperature: float | None = None
    """Divides the cosines before the softmax over names, or before SigLIP's sigmoid. null: the encoder's own, which is
    0.01 for OpenAI's CLIP."""

    objectness_weight: float = 0.5
    """score = weight x objectness + (1 - weight) x probability."""

    score_threshold: float = 0.8
    """A box is kept where its score is above this."""

    nms_iou: float = 0.6
    """IoU above which the lower-scored of two boxes with one name is dropped."""

    allow_partial: bool = False
    """Label although the store lacks images of the JSON; those images get no pseudo labels."""

    output: str | None = None
    """The labelled JSON; null: labels.json in `run.output`."""

    def __post_init__(self) -> None:
        # Below 1e-6 the softmax is a step, and soon no float holds its exponents.
        usable = self.temperature is None or 1e-6 <= self.temperature < math.inf
        check(usable, "label.temperature", self.temperature, "a number from 1e-6, or null")
        for name in ("objectness_weight", "score_threshold", "nms_iou"):
            check(0 <= getattr(self, name) <= 1, f"label.{name}", getattr(self, name), "a number from 0 to 1")


@dataclass(frozen=True)
class Sections:
    """What the configuration of every command has: named sections, and files that are shipped beside the YAML file."""

    folder: str = "."
    """Where the YAML file lies: paths to files shipped beside it are looked up there too. Not an option."""

    def require(self, *keys: str) -> None:
        """Raises for the first of the dotted `keys` that has no value."""
        for key in keys:
            self.value(key)

    def value(self, key: str) -> str:
        """The path or name that the dotted `key` must have.

        Raises:
            UserError: it has none.
        """
        section, name = key.split(".")
        value = getattr(getattr(self, section), name)
        if value in (None, ""):
            raise UserError(f"{key} is not set; add {key}=... to the command or set it in the config")
        return value

    def find(self, path: str, key: str) -> Path:
        """The existing file that option `key` means by `path`: from the current folder, else beside the config file."""
        places = dict.fromkeys((Path(path), Path(self.folder) / path))
        for place in places:
            if place.is_file():
                return place
        raise UserError(f"{key}: no file at " + " or ".join(str(place) for place in places))


@dataclass(frozen=True)
class Config(Sections):
    data: DataConfig = field(default_factory=DataConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    run: RunConfig = field(default_factory=RunConfig)
    label: LabelConfig = field(default_factory=LabelConfig)

    def __post_init__(self) -> None:
        # An interval longer than a pixel keeps one when its ends are rounded; a shorter one may vanish.
        smallest = min(self.clip.crop_scales) * self.detector.min_box_size
        expected = "scales at which a box of detector.min_box_size is more than 1 pixel"
        check(smallest > 1, "clip.crop_scales", list(self.clip.crop_scales), expected)


def command_line(manual: str | None) -> argparse.ArgumentParser:
    """A parser of `--config FILE [section.key=value ...]`; a launcher's docstring is its manual."""
    parser = argparse.ArgumentParser(description=manual, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="FILE", help="a YAML file of configs/, or your own")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="options that change the config's")
    return parser


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in YAML file `path`, changed by `section.key=value` words.

    Raises:
        UserError: no such file, not YAML, an unknown key (with the nearest known one), a value of the wrong type or
        range.
    """
    return load_structured(Config, path, overrides)


def load_structured(schema: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """`load_config` for any dataclass of sections; a field `folder` of it gets the config file's folder."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no config file at {path}")
    try:
        given = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {_reason(error)}") from None
    if not isinstance(given, DictConfig):
        raise UserError(f"{path} does not hold a mapping of sections")
    # The schema's classes are frozen, which OmegaConf takes as read-only nodes; only the merge may write.
    merged = OmegaConf.structured(schema)
    _make_writable(merged)
    _check_keys(given, schema, str(path))
    try:
        merged = OmegaConf.merge(merged, given)
        for word in overrides:
            merged = OmegaConf.merge(merged, _parse_override(word, schema))
        if "folder" in merged:
            merged.folder = str(path.parent)
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise UserError(f"{key}{_reason(error)}") from None


def _parse_override(word: str, schema: type) -> DictConfig:
    if not re.match(r"[A-Za-z_][\w.]*=", word):
        raise UserError(f"{word!r} is not of the form section.key=value")
    key, _, value = word.partition("=")
    try:
        if _is_text(key, value, schema):
            given = OmegaConf.create({})
            OmegaConf.update(given, key, value)
        else:
            given = OmegaConf.from_dotlist([word])
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{word!r}: {_reason(error)}") from None
    _check_keys(given, schema, "the command line")
    return given


def _is_text(key: str, value: str, schema: type) -> bool:
    """Whether `value` is meant as it stands: a path that looks like a number or holds a # is no YAML. Quotes are."""
    name, _, option = key.partition(".")
    section = next((item.type for item in fields(schema) if item.name == name), None)
    kinds = {item.name: item.type for item in fields(section)} if is_dataclass(section) else {}
    kind = kinds.get(option)
    if value == "null" or value.startswith(("'", '"')):
        return False
    return kind in (str, str | None) or (kind is Any and not value.startswith(("[", "{")))


def _check_keys(given: DictConfig, schema: type, source: str) -> None:
    sections = {item.name: item.type for item in fields(schema) if is_dataclass(item.type)}
    known = [f"{name}.{item.name}" for name, section in sections.items() for item in fields(section)]
    for name in [str(section) for section in given]:
        if name not in sections:
            raise UserError(f"unknown section {name!r} in {source}{suggestion(name, sections)}")
        node = given._get_node(name)
        if not isinstance(node, DictConfig):
            if given[name] is None and source != "the command line":  # all its keys commented out
                del given[name]
                continue
            raise UserError(f"{name!r} in {source} is a section; write {name}.key=value")
        for key in map(str, node):
            if f"{name}.{key}" not in known:
                raise UserError(f"unknown key {name}.{key} in {source}{suggestion(f'{name}.{key}', known)}")


def _make_writable(node: DictConfig) -> None:
    OmegaConf.set_readonly(node, False)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            _make_writable(child)


def _reason(error: Exception) -> str:
    return one_line(error).split(" full_key:")[0]  # OmegaConf adds lines about its own objects
