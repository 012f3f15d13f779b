"""Every option of the job: declared once, documented under its field, checked when built.

`--options` prints the docstrings below. A run's configuration is a YAML file plus `section.key=value` words from the
command line; `plgen_ddp.options` reads them. The classes are frozen, so nothing changes the options later.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plgen_ddp.errors import UserError
from plgen_ddp.image_rules import ImageRules
from plgen_ddp.options import (
    Required,
    check,
    decides_nothing,
    file_option,
    load_structured,
)

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
ACTIVATIONS = ("auto", "quick_gelu", "gelu")


@dataclass(frozen=True)
class DataConfig(ImageRules):
    """The images to score."""

    annotations: str | None = None
    """COCO-format JSON whose images are scored; scoring needs it. Stage 1 reads its `images` and nothing else. null:
    labelling uses the JSON that the store was made from."""

    image_root: str | None = None
    """Folder of the images; scoring needs it. Either COCO's root, or the folder that holds the files themselves."""

    limit: int | None = None
    """Number of images, the first ones in ascending id; null: all. For a trial; its store can be completed later."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.limit is None or self.limit > 0, "data.limit", self.limit, "a positive number of images, or null")


@dataclass(frozen=True)
class DetectorConfig:
    """Where the boxes come from."""

    config: str | None = file_option("detectors/*.yaml", optional=True)
    """detectron2 YAML of a two-stage detector with one class, or the name of one in configs/detectors. Scoring needs
    it; labelling alone does not."""

    weights: str | None = None
    """The detector's checkpoint: a file of tensors (.pth, .safetensors). URLs are not read. Scoring needs it; labelling
    alone does not."""

    precision: str = "auto"
    """Arithmetic of the detector's large matrix products: fp32, bf16, fp16 or auto. auto: fp16 on CUDA, bf16 on CPUs
    that compute in it, else fp32."""

    rpn_nms_iou: float = 0.3
    """IoU (0 to 1) above which the RPN's suppression drops the lower-scored of two proposals. Overrides the detectron2
    file."""

    rpn_proposals: int = 1000
    """Largest number of proposals per image after that suppression. Overrides the detectron2 file."""

    refine_steps: int = 10
    """Number of passes of the box head. Each pass refines the boxes of the pass before; 0 keeps the RPN's boxes."""

    max_boxes: int = 100
    """Largest number of boxes per image, the first in the RPN's order. They are counted before small boxes are
    dropped."""

    min_box_size: float = 5.0
    """Smallest width and height of a box, in pixels of the original image, after clipping to it. Smaller boxes are
    dropped."""

    min_objectness: float = 0.0
    """Boxes of lower objectness (0 to 1) are not kept. Labels stay the same as long as no such box can exceed
    `label.score_threshold`: for VL-PLM (weight 0.5, threshold 0.8), up to 0.6."""

    def __post_init__(self) -> None:
        check(self.precision in PRECISIONS, "detector.precision", self.precision, "one of " + ", ".join(PRECISIONS))
        check(0 < self.rpn_nms_iou <= 1, "detector.rpn_nms_iou", self.rpn_nms_iou, "a number above 0, at most 1")
        check(self.rpn_proposals > 0, "detector.rpn_proposals", self.rpn_proposals, "1 or more")
        check(self.refine_steps >= 0, "detector.refine_steps", self.refine_steps, "0 or more")
        check(self.max_boxes > 0, "detector.max_boxes", self.max_boxes, "1 or more")
        check(1 < self.min_box_size < math.inf, "detector.min_box_size", self.min_box_size, "more than 1 pixel")
        check(0 <= self.min_objectness <= 1, "detector.min_objectness", self.min_objectness, "a number from 0 to 1")


@dataclass(frozen=True)
class ProposalsConfig:
    """Where boxes come from, if not from the detector."""

    source: str | None = file_option()
    """A file of boxes that another detector wrote: a COCO results list (JSON with image_id, bbox, score), or Parquet
    with these columns. bbox is [x, y, width, height] in original pixels, score lies in [0, 1]. null: the boxes come
    from `detector.config` and `detector.weights`. With a file, of the options of `detector` only max_boxes,
    min_box_size and min_objectness matter, and detectron2 is not needed."""


@dataclass(frozen=True)
class ClipConfig:
    """The encoder of the crops and of the prompts."""

    model: str = "ViT-B/32"
    """An encoder of OpenAI's module: a name of `clip.available_models()`, downloaded once into ~/.cache/clip, or a file
    with a state dict (.safetensors, .pt); TorchScript archives: see `clip.allow_torchscript`. Or one of open_clip,
    SigLIP included (extra `open-clip`): `open_clip:MODEL/TAG` with a TAG of its pretrained weights, `open_clip:MODEL`
    with `clip.weights`, or `open_clip:local-dir:FOLDER` with an open_clip_config.json in FOLDER."""

    allow_torchscript: bool = decides_nothing(False)
    """Whether `clip.model` may be any TorchScript archive. Loading one runs the code in it, so by default only OpenAI's
    own files are loaded, known by their published SHA-256. launch/convert_clip.py makes a state dict of one."""

    # Their contents are in the encoder's identity.
    weights: str | None = file_option(optional=True, decides=False)
    """Weights file for `open_clip:MODEL` (.pt, .bin, .safetensors). With a TAG, preprocessing and activation are the
    TAG's, the weights the file's. null: the TAG's own weights, which are downloaded, or those in the FOLDER."""

    tokenizer: str | None = decides_nothing(None)
    """tokenizer.json, or a folder with it, for models of open_clip whose tokenizer is a download, as SigLIP's is. null:
    the model's own, which may be downloaded."""

    activation: str = decides_nothing("auto")  # what it resolves to is in the encoder's identity
    """Activation of a weights file for OpenAI's module: quick_gelu, gelu or auto. auto: what the file says, if it is a
    TorchScript archive or launch/convert_clip.py made it. Other files are run as quick_gelu, with a warning."""

    precision: str = "auto"
    """Arithmetic of the encoder's matrix products while scoring: fp32, bf16, fp16 or auto. auto: fp16 on CUDA, bf16 on
    CPUs that compute in it, else fp32."""

    text_precision: str = decides_nothing("fp32")
    """The same for text embeddings, which stage 2 makes. bf16 halves their time on CPUs that compute in it, at a cosine
    above 0.9999 to fp32; labels then differ in the last digits."""

    crop_scales: tuple[float, ...] = (1.0, 1.5)
    """Factors by which a box's width and height are multiplied before it is cropped. The embedding of a box is the mean
    over its crops."""

    batch_size: int | None = decides_nothing(None)
    """Number of crops in a batch of the encoder. null: 512 on CUDA, 32 on a CPU. On CUDA, and with `clip.compile`, the
    last batch of a part is filled up to this size."""

    compile: bool = False
    """Whether torch.compile compiles the encoder. That takes half a minute or more at the start of each rank, needs a
    C++ compiler and Python's headers, and changes last digits. A CPU gains nothing by it; a GPU is not yet measured."""

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
    """Where the job runs, and where it writes."""

    output: str | None = None
    """Folder of the region store, the labels and the logs; scoring and labelling need it. Running again with the same
    folder resumes."""

    device: str = "auto"
    """cuda, cpu, or auto: CUDA where there is a GPU. Rank r of a node uses GPU r."""

    images_per_batch: int = 8
    """Largest number of images that the detector processes at once on CUDA. On a CPU it takes one at a time."""

    images_per_part: int = 64
    """Largest number of images in a part of the store. A killed job loses at most the part that each rank was working
    on. Parts are smaller where there would be fewer than 64: down to one image, or on CUDA one batch."""

    workers: int = 2
    """Number of threads per rank that decode images ahead; 0 decodes a batch when it is needed."""

    threads: int = 1
    """Number of CPU threads per rank. With one thread, results are equal on any number of ranks: oneDNN's convolutions
    sum in another order on another number of threads. To fill a CPU, start one rank per core."""

    max_failures: int = 0
    """Largest number of images that may fail before the exit status is non-zero."""

    retry_failures: bool = False
    """Whether images that failed in an earlier run are scored again, together with the parts that hold them."""

    repair: bool = False
    """Whether the parts of the store are read and compared with their checksums before the scoring, and those that are
    damaged, of another store, or that disagree with others about an image are removed; their images are scored again.
    launch/verify.py shows them first."""

    def __post_init__(self) -> None:
        check(self.device in ("auto", "cuda", "cpu"), "run.device", self.device, "auto, cuda or cpu")
        check(self.images_per_batch > 0, "run.images_per_batch", self.images_per_batch, "1 or more")
        check(self.images_per_part > 0, "run.images_per_part", self.images_per_part, "1 or more")
        check(self.workers >= 0, "run.workers", self.workers, "0 or more")
        check(self.threads > 0, "run.threads", self.threads, "1 or more")
        check(self.max_failures >= 0, "run.max_failures", self.max_failures, "0 or more")


@dataclass(frozen=True)
class LabelConfig:
    """From the region store to labels."""

    annotations: str | None = None
    """COCO-format JSON to label. Its images must be in the store, and its categories must include the names. null:
    `data.annotations`."""

    vocabulary: Any = file_option("vocabularies/*.yaml", names=True)
    """The novel names: a YAML file with `novel` and optionally `base`, `distractors`, `aliases`, `supers` and `subs`,
    the name of one in configs/vocabularies, a list of names (`dog,cat`), or such a mapping. In the place of `novel`,
    `novel_where` means all categories with these values: `{novel_where: {frequency: r}}`. Names are written as in the
    JSON. Prompts read `_` as a space, as the recipe does, and `/` as "or", which the recipe does not; the rest of
    `car_(automobile)` stays, unless an alias replaces it. Without `base`, every other category of the JSON is base and
    keeps its annotations. Labelling needs it."""

    add_categories: bool = False
    """Whether novel names that the JSON lacks become new categories of the output, with ids behind the largest. false:
    such a name is a mistake."""

    drop_categories: bool = False
    """Whether categories that are neither novel nor base are left out of the output, as VL-PLM's and MarvelOVD's own
    JSON leaves 15 of COCO's 80 out. Their training code numbers the categories of the JSON and takes the text
    embeddings in the order of its own 65 names, so it needs that for COCO's JSON with all 80."""

    templates: Any = file_option("templates/*.txt")
    """Prompt templates: a text file with one per line, the name of one in configs/templates, or a list. `{}` is
    replaced by the name, `{article}` by a or an. Labelling needs it."""

    temperature: float | None = None
    """The cosines are divided by it before the softmax over names, or before SigLIP's sigmoid. null: the encoder's own,
    which is 0.01 for OpenAI's CLIP."""

    class_score: str = "novel"
    """Which name a box has, and how likely it is. novel: a softmax over the novel names and distractors (VL-PLM,
    MarvelOVD). all: over novel, base and distractor names. hierarchy: super and sub words of the vocabulary confirm the
    name or contradict it (HCC). retrieved: a classifier a name, trained on the store's 100 nearest boxes (LP-OVOD)."""

    require_novel: bool = False
    """With class_score all: only boxes whose likeliest name of all is a novel one (DST-Det)."""

    box_score: str = "objectness"
    """How good a box is. objectness, foreground, agreement: the store's evidence. none: every box is as good. learned:
    by a classifier that the base annotations train. verified: it judges the name too, and is the whole score;
    class_score and fusion decide nothing then, and super and sub words count where every name has both."""

    fusion: str = "mean"
    """How both scores become one, with objectness_weight as the weight w of the box score b against the class score c.
    mean: w b + (1 - w) c. geometric: b^w c^(1 - w). logits: the mean of their logits. class_only: c."""

    objectness_weight: float = 0.5
    """Weight of the box score in the fused score, from 0 to 1."""

    score_threshold: Any = file_option(numbers=True, default=0.8)
    """A box is kept where its score is above this, from 0 to 1; `label.threshold` can choose it instead. Or one for
    each novel name, `{umbrella: 0.7, default: 0.8}`, or a YAML file with such a mapping."""

    box_threshold: float = 0.0
    """A box is kept where its box score is at least this, from 0 to 1."""

    threshold: str = "fixed"
    """Where score_threshold comes from. fixed: as it is given. f_beta_base: the one with the best F-beta when base
    names are labelled as if they were novel. precision: the lowest one at which these labels have wanted_precision.
    density: the one that gives per_image labels an image."""

    f_beta: float = 1.0
    """With threshold f_beta_base: how many times recall counts as much as precision."""

    wanted_precision: float = 0.9
    """With threshold precision: the share of labels that shall be right, from 0 to 1."""

    per_image: float | None = None
    """With threshold density, which needs it: labels an image, counting the images that were scored."""

    per_name: bool = False
    """With threshold density: whether every novel name has a threshold of its own, and per_image labels an image."""

    nms_iou: float = 0.6
    """IoU (0 to 1) above which the lower-scored of two boxes with the same name is dropped."""

    suppress: tuple[str, ...] = ()
    """What is dropped beside that. inside: a box that lies to 80 % in a better one of its name. base_iou: a box that
    overlaps a base annotation by an IoU above base_iou. base_inside: a box that lies to 80 % in a base annotation."""

    base_iou: float = 0.5
    """IoU (0 to 1) with a base annotation above which suppress base_iou drops a box."""

    allow_partial: bool = False
    """Whether labelling goes on although the store lacks images of the JSON. Those images get no pseudo labels."""

    output: str | None = None
    """The labelled JSON. null: labels.json in `run.output`."""

    text_embeddings: str = "fill"
    """`text_emb` of every category of the output, which VL-PLM's and MarvelOVD's training loaders read: the embedding
    that labels use for its name. fill: for categories without it. replace: for all. none: as the JSON has it. The store
    keeps embeddings; one new to it costs 0.26 to 0.5 s on two cores with ViT-B/32 and 63 templates, so LVIS' 1203 names
    cost 5 to 10 minutes, once."""

    def __post_init__(self) -> None:
        # Below 1e-6 the softmax is a step, and soon no float holds its exponents.
        usable = self.temperature is None or 1e-6 <= self.temperature < math.inf
        check(usable, "label.temperature", self.temperature, "a number from 1e-6, or null")
        choices = {
            "class_score": ("novel", "all", "hierarchy", "retrieved"),
            "box_score": ("objectness", "foreground", "agreement", "none", "learned", "verified"),
            "fusion": ("mean", "geometric", "logits", "class_only"),
            "text_embeddings": ("fill", "replace", "none"),
            "threshold": ("fixed", "f_beta_base", "precision", "density"),
        }
        for name, known in choices.items():
            check(getattr(self, name) in known, f"label.{name}", getattr(self, name), "one of " + ", ".join(known))
        known = ("inside", "base_iou", "base_inside")
        check(set(self.suppress) <= set(known), "label.suppress", list(self.suppress), "a list of " + ", ".join(known))
        chooses = self.class_score == "retrieved" and self.asks_base_names
        expected = "fixed or density with class_score retrieved, which knows no base name"
        check(not chooses, "label.threshold", self.threshold, expected)
        dense = self.threshold == "density"
        usable = 0 < self.per_image < math.inf if self.per_image is not None else not dense
        check(usable, "label.per_image", self.per_image, "a positive number" + ("" if dense else ", or null"))
        check(dense or not self.per_name, "label.per_name", self.per_name, "false unless label.threshold is density")
        check(0 < self.f_beta <= 1000, "label.f_beta", self.f_beta, "a positive number up to 1000")
        for name in ("objectness_weight", "box_threshold", "wanted_precision", "nms_iou", "base_iou"):
            check(0 <= getattr(self, name) <= 1, f"label.{name}", getattr(self, name), "a number from 0 to 1")
        if not isinstance(self.score_threshold, str) or not self.score_threshold:  # else a file, which labelling reads
            object.__setattr__(self, "score_threshold", checked_thresholds(self.score_threshold))

    @property
    def asks_base_names(self) -> bool:
        """Whether base names are labelled to choose the threshold."""
        return self.threshold in ("f_beta_base", "precision")

    @property
    def trains_classifier(self) -> bool:
        """Whether a classifier that base annotations train scores the boxes."""
        return self.box_score in ("learned", "verified")

    @property
    def learns_from_base(self) -> bool:
        """Whether base annotations of a sample of the store decide something before the labelling."""
        return self.trains_classifier or self.asks_base_names


def checked_thresholds(given: Any, source: str = "label.score_threshold") -> float | dict[str, float]:
    """A score threshold of all names, or one for each of some names.

    Args:
        source: the option or file that has it, for messages.

    Raises:
        UserError: another type, or a number outside [0, 1].
    """
    if isinstance(given, dict):
        for name, value in given.items():
            check(isinstance(name, str), f"{source}: the name", name, "a text; quote a name such as 'no' or '1'")
            check(_is_share(value), f"{source}: {name}", value, "a number from 0 to 1")
        return {name: float(value) for name, value in given.items()}
    check(_is_share(given), source, given, "a number from 0 to 1, a mapping of names to such numbers, or a file")
    return float(given)


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


@dataclass(frozen=True)
class ReportConfig:
    """A report at the end of a labelling: one HTML file, as launch/report.py writes it."""

    write: bool = decides_nothing(False)
    """Whether a labelling ends with a report. Its thumbnails come from `data.image_root`, where that is set."""

    output: str | None = decides_nothing(None)
    """The HTML file. null: report.html beside the labelled JSON."""

    ground_truth: str | None = decides_nothing(None)
    """COCO-format JSON with annotations of the novel names, for what is right and what is wrong. null: the report says
    nothing of that."""


@dataclass(frozen=True)
class Config:
    """Options of scoring and labelling."""

    data: DataConfig = field(default_factory=DataConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    proposals: ProposalsConfig = field(default_factory=ProposalsConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    run: RunConfig = field(default_factory=RunConfig)
    label: LabelConfig = field(default_factory=LabelConfig)
    report: ReportConfig = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        # An interval longer than a pixel keeps one when its ends are rounded; a shorter one may vanish.
        smallest = min(self.clip.crop_scales) * self.detector.min_box_size
        expected = "scales at which a box of detector.min_box_size is more than 1 pixel"
        check(smallest > 1, "clip.crop_scales", list(self.clip.crop_scales), expected)


def load_config(
    name_or_path: str | Path | None, overrides: Sequence[str] = (), required: Required = (), *, effective: bool = True
) -> Config:
    """`load_structured` for the job.

    Args:
        effective: whether an override that decides nothing under the config's `label.threshold` is a mistake.

    Raises:
        UserError: what `load_structured` raises, or such an override.
    """
    config = load_structured(Config, name_or_path, overrides, required)
    if effective:
        for key in (word.partition("=")[0] for word in overrides):
            if takes := ignored_with(config.label, key):
                threshold = f"label.threshold={config.label.threshold}"
                raise UserError(f"{key} decides nothing with {threshold}; add label.threshold={takes}, which takes it")
    return config


def ignored_with(label: LabelConfig, key: str) -> str | None:
    """The value of `label.threshold` that takes the option `key`, where the configured one does not; else None."""
    takes = _TAKEN_BY.get(key)
    return None if takes in (None, label.threshold) else takes


# The options that one value of `label.threshold` takes.
_TAKEN_BY = {
    "label.score_threshold": "fixed",
    "label.f_beta": "f_beta_base",
    "label.wanted_precision": "precision",
    "label.per_image": "density",
}
