"""Every option of a detector training: declared once, documented under its field, checked when built."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plgen_ddp.image_rules import ImageRules
from plgen_ddp.options import check, decides_nothing, deciding, file_option, given

TRAINING_REQUIRES = ("data.annotations", "data.image_root", "data.vocabulary", "detector.config", "run.output")
"""The options without which no training can start."""


@dataclass(frozen=True)
class TrainingDataConfig(ImageRules):
    """What is learned, and on what recall is measured."""

    annotations: str | None = None
    """COCO-format JSON to train on; training needs it. Of its annotations, only the base ones are learned."""

    image_root: str | None = decides_nothing(None)
    """Folder of the images; training needs it. Either COCO's root, or the folder that holds the files themselves."""

    vocabulary: Any = file_option("vocabularies/*.yaml", names=True)
    """The split into base and novel names, as `label.vocabulary`: a YAML file with `novel` and optionally `base`, the
    name of one in configs/vocabularies, a list of novel names, or such a mapping. Without `base`, every other category
    is base. Training needs it."""

    pseudo_labels: str | None = None
    """A labelled JSON of the same images, for a second round: its pseudo labels are learned beside the base
    annotations. It is audited against `data.annotations` first. A pseudo label has no mask and teaches the mask head
    nothing. null: base annotations only."""

    min_confidence: float = 0.0
    """Pseudo labels of a lower confidence (0 to 1) are not learned."""

    validation_annotations: str | None = decides_nothing(None)
    """COCO-format JSON with base and novel annotations, on which recall is measured. null: recall is not measured."""

    validation_image_root: str | None = decides_nothing(None)
    """Folder of the validation images. null: `data.image_root`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.min_confidence <= 1, "data.min_confidence", self.min_confidence, "a number from 0 to 1")


@dataclass(frozen=True)
class InitialDetectorConfig:
    """The detector, and where its training starts."""

    config: str | None = file_option("detectors/*.yaml")
    """detectron2 YAML of a two-stage detector with one class, or the name of one in configs/detectors. Training needs
    it."""

    weights: str | None = None
    """Where training starts: a file of tensors (.pth, .safetensors) or of arrays (.pkl, detectron2's ImageNet
    backbones). It must hold every tensor of the backbone. URLs are not read. null: random weights."""


@dataclass(frozen=True)
class TrainConfig:
    """The schedule and the optimizer."""

    steps: int = 90_000
    """Number of optimizer steps."""

    images_per_step: int = 16
    """Number of images in a step, over all ranks together. The number of ranks must divide it."""

    optimizer: str = "sgd"
    """sgd or adamw. sgd has momentum 0.9, as detectron2's; adamw does not decay biases and norms."""

    base_lr: float = 0.02
    """Learning rate after the warm-up."""

    weight_decay: float = 1e-4
    """Weight decay of the optimizer; norms are exempt."""

    schedule: str = "steps"
    """steps or cosine. steps divides the rate by ten at each of `train.decay_at`; cosine lowers it to 0 at the last
    step."""

    decay_at: tuple[int, ...] = (60_000, 80_000)
    """Steps, rising, at which schedule `steps` divides the rate by ten. Those from `train.steps` on are ignored."""

    warmup_steps: int = 1000
    """Number of steps over which the rate rises linearly, from a thousandth of `train.base_lr`."""

    clip_norm: float | None = None
    """Largest norm of each parameter's gradient, as detectron2's CLIP_GRADIENTS. null: no clipping."""

    amp: bool = True
    """Whether CUDA multiplies in float16, with loss scaling. A CPU always trains in float32."""

    seed: int = 0
    """Seed of the initial weights, the order of the images and their augmentation."""

    def __post_init__(self) -> None:
        check(self.steps > 0, "train.steps", self.steps, "1 or more")
        check(self.images_per_step > 0, "train.images_per_step", self.images_per_step, "1 or more")
        check(self.optimizer in ("sgd", "adamw"), "train.optimizer", self.optimizer, "sgd or adamw")
        check(self.base_lr > 0, "train.base_lr", self.base_lr, "a positive number")
        check(self.weight_decay >= 0, "train.weight_decay", self.weight_decay, "0 or more")
        check(self.schedule in ("steps", "cosine"), "train.schedule", self.schedule, "steps or cosine")
        rising = list(self.decay_at) == sorted(set(self.decay_at)) and all(step > 0 for step in self.decay_at)
        check(rising, "train.decay_at", list(self.decay_at), "rising numbers of steps")
        check(self.warmup_steps >= 0, "train.warmup_steps", self.warmup_steps, "0 or more")
        clips = self.clip_norm is None or self.clip_norm > 0
        check(clips, "train.clip_norm", self.clip_norm, "a positive number, or null")
        check(self.seed >= 0, "train.seed", self.seed, "0 or more")


@dataclass(frozen=True)
class RecallConfig:
    """How recall is measured while training."""

    every: int = 0
    """Number of steps between two measurements. 0: only after the last step."""

    refine_steps: tuple[int, ...] = (10,)
    """Numbers of passes of the box head, as `detector.refine_steps` of scoring. Recall is measured after each of
    them."""

    rpn_nms_iou: float = 0.3
    """IoU (0 to 1) of the RPN's suppression, as `detector.rpn_nms_iou` of scoring."""

    def __post_init__(self) -> None:
        check(self.every >= 0, "recall.every", self.every, "0 or more")
        passes = len(self.refine_steps) > 0 and all(steps >= 0 for steps in self.refine_steps)
        check(passes, "recall.refine_steps", list(self.refine_steps), "one or more numbers of passes")
        check(0 < self.rpn_nms_iou <= 1, "recall.rpn_nms_iou", self.rpn_nms_iou, "a number above 0, at most 1")


@dataclass(frozen=True)
class TrainingRunConfig:
    """Where the training runs, and where it writes."""

    output: str | None = None
    """Folder of the checkpoints, the log and the metrics; training needs it. Running again with the same folder
    resumes."""

    device: str = "auto"
    """cuda, cpu, or auto: CUDA where there is a GPU. Rank r of a node uses GPU r."""

    checkpoint_every: int = 5000
    """Number of steps between two checkpoints, which is what a killed job can lose. The last two are kept."""

    workers: int = 4
    """Number of threads per rank that decode and augment images ahead; 0 does it when a step needs them. The training
    is the same with any number."""

    threads: int = 1
    """Number of CPU threads per rank."""

    def __post_init__(self) -> None:
        check(self.device in ("auto", "cuda", "cpu"), "run.device", self.device, "auto, cuda or cpu")
        check(self.checkpoint_every > 0, "run.checkpoint_every", self.checkpoint_every, "1 or more")
        check(self.workers >= 0, "run.workers", self.workers, "0 or more")
        check(self.threads > 0, "run.threads", self.threads, "1 or more")


@dataclass(frozen=True)
class ProposalTrainingConfig:
    """Options of training the detector."""

    data: TrainingDataConfig = field(default_factory=TrainingDataConfig)
    detector: InitialDetectorConfig = field(default_factory=InitialDetectorConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    recall: RecallConfig = field(default_factory=RecallConfig)
    run: TrainingRunConfig = field(default_factory=TrainingRunConfig)

    def options_that_decide(self) -> dict[str, Any]:
        """By dotted key, the options that decide the trained weights; a resumed training must repeat them.

        Those of `recall` and `run` only measure, or say where and how fast it runs.
        """
        return {
            f"{name}.{option}": value
            for name in ("data", "detector", "train")
            for option, value in deciding(getattr(self, name)).items()
        }

    def detector_file(self) -> Path:
        """The detectron2 YAML that `detector.config` names."""
        return Path(given(self.detector.config))
