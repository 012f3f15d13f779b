"""Every option of the job: declared once, documented under its field, checked when built.

A run's configuration is a YAML file plus `section.key=value` words from the command line. OmegaConf's structured
configs check keys and types; the classes below are frozen, so nothing changes them later.
"""

import argparse
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from plgen_ddp.errors import UserError, one_line, suggestion

PRECISIONS = ("auto", "fp32", "bf16", "fp16")

T = TypeVar("T")

# Dotted keys that must have a value, or a function that returns them for a loaded configuration.
Required = Sequence[str] | Callable[[Any], Sequence[str]]


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
class FileOption:
    """How the file that an option names is looked up; `load_structured` does it.

    packaged: the packaged files that a bare name can mean, such as templates/*.txt; None: none.
    optional: a file that is not found is a mistake only for a command that requires the option.
    names: the option can also hold a list of names, so `a,b` is a list unless it is a file.
    """

    packaged: str | None
    optional: bool
    names: bool


def file_option(packaged: str | None = None, *, optional: bool = False, names: bool = False) -> Any:
    """A field, null by default, that names a file; the arguments are those of `FileOption`."""
    return field(default=None, metadata={"file": FileOption(packaged, optional, names)})


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
    config: str | None = file_option("detectors/*.yaml", optional=True)
    """detectron2 YAML of a two-stage detector with one class: a file, or the name of one in configs/detectors."""

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
    """A name of `clip.available_models()`, downloaded once a node, or a weights file."""

    precision: str = "auto"
    """fp16, bf16 or fp32. auto: fp16 on CUDA, bf16 on CPUs that compute in it, else fp32."""

    crop_scales: tuple[float, ...] = (1.0, 1.5)
    """Each box is cropped at these scales about its centre; its embedding is their mean."""

    batch_size: int | None = decides_nothing(None)
    """Crops in a CLIP batch. null: 512 on CUDA, 32 on a CPU. On CUDA, and where CLIP is compiled, the last batch of a
    part is filled up to this size."""

    compile: bool = False
    """torch.compile for CLIP: half a minute or more at the start of each rank, and other last digits; needs a C++
    compiler and Python's headers. Off by default: a CPU gains nothing by it (README), a GPU is not yet measured."""

    def __post_init__(self) -> None:
        check(self.precision in PRECISIONS, "clip.precision", self.precision, "one of " + ", ".join(PRECISIONS))
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

    vocabulary: Any = file_option("vocabularies/*.yaml", names=True)
    """The novel names: a YAML file (`novel`, and optionally `base`, `distractors`, `aliases`, `supers`, `subs`), or a
    list of names. Without `base`, every other category of the JSON is base and keeps its annotations."""

    templates: Any = file_option("templates/*.txt")
    """Prompt templates with `{}` for the name and `{article}` for a/an: a text file, one a line, or a list."""

    temperature: float | None = None
    """Divides the cosines before the softmax over names, or before SigLIP's sigmoid. null: the encoder's own, which is
    0.01 for OpenAI's CLIP."""

    class_score: str = "novel"
    """Which name a box has, and how likely it is. novel: a softmax over the novel names and distractors (VL-PLM,
    MarvelOVD). all: over novel, base and distractor names. hierarchy: super and sub words of the vocabulary confirm the
    name or contradict it (HCC). retrieved: a classifier a name, trained on the store's 100 nearest boxes (LP-OVOD)."""

    require_novel: bool = False
    """With class_score all: only boxes whose likeliest name of all is a novel one (DST-Det)."""

    box_score: str = "objectness"
    """How good a box is. objectness, foreground, agreement: the store's evidence. none: every box is as good. learned:
    by a classifier that the base annotations train. verified: it judges the name too, and is the whole score."""

    fusion: str = "mean"
    """How both scores become one, with objectness_weight as the weight w of the box score b against the class score c.
    mean: w b + (1 - w) c. geometric: b^w c^(1 - w). logits: the mean of their logits. class_only: c."""

    objectness_weight: float = 0.5
    """Weight of the box score in the fused score, from 0 to 1."""

    score_threshold: float = 0.8
    """A box is kept where its score is above this; label.threshold can choose it instead."""

    box_threshold: float = 0.0
    """A box is kept where its box score is at least this."""

    threshold: str = "fixed"
    """Where score_threshold comes from. fixed: as it stands. f_beta_base: the one with the best F-beta when base names
    are labelled as if they were novel. precision: the lowest one at which these labels have wanted_precision."""

    f_beta: float = 1.0
    """With threshold f_beta_base: how many times recall counts as much as precision."""

    wanted_precision: float = 0.9
    """With threshold precision: the share of labels that shall be right, from 0 to 1."""

    nms_iou: float = 0.6
    """IoU above which the lower-scored of two boxes with one name is dropped."""

    suppress: tuple[str, ...] = ()
    """What is dropped beside that. inside: a box that lies to 80 % in a better one of its name. base_iou: a box that
    overlaps a base annotation by an IoU above base_iou. base_inside: a box that lies to 80 % in a base annotation."""

    base_iou: float = 0.5
    """The IoU of suppress base_iou."""

    allow_partial: bool = False
    """Label although the store lacks images of the JSON; those images get no pseudo labels."""

    output: str | None = None
    """The labelled JSON; null: labels.json in `run.output`."""

    def __post_init__(self) -> None:
        # Below 1e-6 the softmax is a step, and soon no float holds its exponents.
        usable = self.temperature is None or 1e-6 <= self.temperature < math.inf
        check(usable, "label.temperature", self.temperature, "a number from 1e-6, or null")
        choices = {
            "class_score": ("novel", "all", "hierarchy", "retrieved"),
            "box_score": ("objectness", "foreground", "agreement", "none", "learned", "verified"),
            "fusion": ("mean", "geometric", "logits", "class_only"),
            "threshold": ("fixed", "f_beta_base", "precision"),
        }
        for name, known in choices.items():
            check(getattr(self, name) in known, f"label.{name}", getattr(self, name), "one of " + ", ".join(known))
        known = ("inside", "base_iou", "base_inside")
        check(set(self.suppress) <= set(known), "label.suppress", list(self.suppress), "a list of " + ", ".join(known))
        chooses = self.class_score == "retrieved" and self.threshold != "fixed"
        check(
            not chooses, "label.threshold", self.threshold, "fixed with class_score retrieved, which knows no base name"
        )
        check(0 < self.f_beta < math.inf, "label.f_beta", self.f_beta, "a positive number")
        names = ("objectness_weight", "score_threshold", "box_threshold", "wanted_precision", "nms_iou", "base_iou")
        for name in names:
            check(0 <= getattr(self, name) <= 1, f"label.{name}", getattr(self, name), "a number from 0 to 1")


@dataclass(frozen=True)
class Config:
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


def load_config(name_or_path: str | Path, overrides: Sequence[str] = (), required: Required = ()) -> Config:
    """The job's configuration: a YAML file, changed by `section.key=value` words.

    Options that name a file hold its path afterwards. It is looked up in the current folder, beside the YAML file, in
    the packaged configs, and there by name.

    Args:
        name_or_path: a file, or the name of a packaged config, such as coco_marvelovd.
        overrides: the words. Each replaces the file's whole value, also where that is a mapping.
        required: dotted keys that must have a value, or a function that returns them for a loaded configuration.

    Raises:
        UserError: no such file, not YAML, an unknown key (with the nearest known one), a value of the wrong type or
            range, an option that names no file, a required key without a value.
    """
    return load_structured(Config, name_or_path, overrides, required)


def load_structured(
    schema: type[T], name_or_path: str | Path, overrides: Sequence[str] = (), required: Required = ()
) -> T:
    """`load_config` for any dataclass of sections."""
    path = _config_file(name_or_path)
    content = _read(path)
    _check_keys(content, schema, str(path))
    merged: DictConfig = OmegaConf.structured(schema)
    _make_writable(merged)  # the schema's classes are frozen, which OmegaConf takes as read-only nodes
    try:
        merged.merge_with(content)
        for word in overrides:
            OmegaConf.update(merged, *_parse_override(word, schema), merge=False)
        missing = _resolve_files(merged, schema, path.parent)
        config: T = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise UserError(f"{key}{_reason(error)}") from None
    for key in required(config) if callable(required) else required:
        require(config, key)
        if key in missing:
            raise UserError(missing[key])
    return config


def require(config: object, key: str) -> None:
    """Raises a `UserError` where the dotted `key` has no value."""
    if option_value(config, key) in (None, ""):
        raise UserError(f"{key} is not set; add {key}=... to the command or set it in the config")


def given(value: T | None) -> T:
    """The value of an option that the command requires: `load_config` has checked that there is one."""
    assert value is not None, "the command that loaded the configuration did not require this option"
    return value


def option_value(config: object, key: str) -> Any:
    """The value of the dotted `key`."""
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def packaged_configs() -> Path:
    """The folder of the configs that come with the package: `configs/` of a checkout, plgen_ddp/configs installed."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def _config_file(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    configs = packaged_configs()
    for place in (path, configs / f"{name_or_path}.yaml"):
        if _is_file(place):
            return place
    known = sorted(config.stem for config in configs.glob("*.yaml"))
    hint = suggestion(path.stem, known) or f"; the packaged configs are {', '.join(known)}"
    raise UserError(f"no config file at {path}, and no packaged config has that name{hint}")


def _read(path: Path) -> DictConfig:
    try:
        content = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {_reason(error)}") from None
    if not isinstance(content, DictConfig):
        raise UserError(f"{path} does not hold a mapping of sections")
    return content


def _resolve_files(config: DictConfig, schema: type, beside: Path) -> dict[str, str]:
    """Replaces the names and paths in file options with the paths of the files.

    Returns:
        What is wrong with each dotted key whose file was not found and that not every command needs.
    """
    missing = {}
    for key, option in _options(schema).items():
        lookup: FileOption | None = option.metadata.get("file")
        value = OmegaConf.select(config, key) if lookup else None
        if lookup is None or not isinstance(value, str) or value == "":
            continue
        places = [Path(value), beside / value, packaged_configs() / value]
        if lookup.packaged:
            places.append(packaged_configs() / lookup.packaged.replace("*", value))
        found = next(filter(_is_file, places), None)
        if found is not None:
            OmegaConf.update(config, key, str(found))
        elif lookup.names and "," in value:
            OmegaConf.update(config, key, [name.strip() for name in value.split(",")])
        else:
            known = [path.stem for path in packaged_configs().glob(lookup.packaged)] if lookup.packaged else []
            paths = " or ".join(str(place) for place in dict.fromkeys(places[:3]))
            missing[key] = f"{key}: no file at {paths}{suggestion(value, known)}"
            if not lookup.optional:
                raise UserError(missing[key])
    return missing


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long
        return False


def _options(schema: type) -> dict[str, "Field[Any]"]:
    """The fields of all sections by dotted key."""
    sections: dict[str, Any] = {item.name: item.type for item in fields(schema)}
    return {f"{name}.{item.name}": item for name, section in sections.items() for item in fields(section)}


def _parse_override(word: str, schema: type) -> tuple[str, Any]:
    """(dotted key, value) of a word."""
    if not re.match(r"[A-Za-z_][\w.]*=", word):
        raise UserError(f"{word!r} is not of the form section.key=value")
    key, _, text = word.partition("=")
    options = _options(schema)
    if key not in options:
        raise _unknown(key, options, "on the command line")
    kind = options[key].type
    if _is_text(text, kind):
        return key, text
    if get_origin(kind) is tuple and not text.startswith("["):
        text = f"[{text}]"
    try:
        return key, OmegaConf.select(OmegaConf.from_dotlist([f"{key}={text}"]), key)
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{word!r}: {_reason(error)}") from None


def _is_text(text: str, kind: Any) -> bool:
    """Whether `text` is meant as it stands: a path that looks like a number or holds a # is no YAML. Quotes are."""
    if text == "null" or text.startswith(("'", '"')):
        return False
    return kind in (str, str | None) or (kind is Any and not text.startswith(("[", "{")))


def _check_keys(content: DictConfig, schema: type, path: str) -> None:
    """Checks that the file has no unknown key. Removes sections that are empty."""
    options = _options(schema)
    sections = {item.name for item in fields(schema)}
    for name in [str(section) for section in content]:
        if name not in sections:
            raise _unknown(name, options, f"in {path}")
        node = content._get_node(name)
        if isinstance(node, DictConfig):
            for key in map(str, node):
                if f"{name}.{key}" not in options:
                    raise _unknown(f"{name}.{key}", options, f"in {path}")
        elif content[name] is None:  # all its keys are commented out
            del content[name]
        else:
            raise UserError(f"{name!r} in {path} is a section; write its keys below it")


def _unknown(key: str, options: Iterable[str], source: str) -> UserError:
    """What is wrong with a key that is no option."""
    sections = list(dict.fromkeys(option.partition(".")[0] for option in options))
    section, dot, _ = key.partition(".")
    if key in sections:
        return UserError(f"{key!r} {source} is a section; write {key}.key=value")
    if section in sections:
        return UserError(f"unknown key {key} {source}{suggestion(key, options)}")
    if not dot and (hint := next((option for option in options if option.endswith(f".{key}")), None)):
        return UserError(f"unknown key {key} {source}; did you mean {hint!r}?")
    return UserError(f"unknown section {section!r} {source}{suggestion(section, sections)}")


def _make_writable(node: DictConfig) -> None:
    OmegaConf.set_readonly(node, False)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            _make_writable(child)


def _reason(error: Exception) -> str:
    return one_line(error).split(" full_key:")[0]  # OmegaConf adds lines about its own objects
