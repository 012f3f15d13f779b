"""Trains the class-agnostic detector of stage 1 on base annotations, with detectron2's own trainer, hooks and solver.

With `plgen_ddp.proposals` the only importer of detectron2. Only the annotations of base categories are ever decoded, so
nothing downstream can see a novel one; all of them become one class.
"""

import hashlib
import itertools
import json
import logging
import pickle
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plgen_ddp.coco import Annotation, CocoFile
from plgen_ddp.config import DetectorConfig, RunConfig, check, file_option, given
from plgen_ddp.device import prepare_device
from plgen_ddp.errors import UserError, one_line
from plgen_ddp.files import write_atomically
from plgen_ddp.image_files import ImageIndex, index_images
from plgen_ddp.label.vocabulary import read_vocabulary
from plgen_ddp.score.images import UnitBatchSampler, image_batches, on_device, plan_units, units_of_rank
from plgen_ddp.score.mask_rcnn import (
    MaskRcnn,
    SafeCheckpointer,
    quiet_detectron2,
    read_detector_config,
    with_rpn_options,
)
from plgen_ddp.train.recall import recalled
from plgen_ddp.train.weights import save_small
from plgen_ddp.world import World

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # as in plgen_ddp.proposals
    from detectron2.config import CfgNode
    from detectron2.data import DatasetMapper, build_detection_train_loader
    from detectron2.data.build import filter_images_with_only_crowd_annotations
    from detectron2.data.detection_utils import SizeMismatchError
    from detectron2.data.samplers import TrainingSampler
    from detectron2.engine import AMPTrainer, SimpleTrainer, create_ddp_model, hooks
    from detectron2.modeling import build_model
    from detectron2.solver import build_lr_scheduler, build_optimizer, get_default_optimizer_params
    from detectron2.solver.build import maybe_add_gradient_clipping
    from detectron2.structures import BoxMode
    from detectron2.utils.env import seed_all_rng
    from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
    from detectron2.utils.file_io import PathManager
    from detectron2.utils.logger import setup_logger

# detectron2's AMPTrainer names autocast by its old place.
warnings.filterwarnings("ignore", message=r".*torch\.cuda\.amp\.", category=FutureWarning)

# Options that have no default and that every training needs.
REQUIRED = ("data.annotations", "data.image_root", "data.vocabulary", "detector.config", "run.output")

RECALL_LIMITS = (10, 50, 100)
RECALL_IOUS = (0.5, 0.75)
_GROUPS = ("base", "novel")


@dataclass(frozen=True)
class TrainingDataConfig:
    annotations: str | None = None
    """COCO-format JSON to train on. Only its base annotations are read."""

    image_root: str | None = None
    """Folder of the images: COCO's root, or the folder that holds the files themselves."""

    vocabulary: Any = file_option("vocabularies/*.yaml", names=True)
    """The split: a YAML file with `novel` and optionally `base`, or a list of novel names; without `base`, every other
    category is base. The same as `label.vocabulary`."""

    validation_annotations: str | None = None
    """COCO-format JSON, base and novel annotations, on which recall is measured; null: no recall."""

    validation_image_root: str | None = None
    """Folder of the validation images; null: `data.image_root`."""


@dataclass(frozen=True)
class InitialDetectorConfig:
    config: str | None = file_option("detectors/*.yaml")
    """detectron2 YAML of a two-stage detector with one class: a file, or the name of one in configs/detectors."""

    weights: str | None = None
    """Where training starts: a .pth of tensors or a .pkl of arrays (detectron2's ImageNet backbones), a file or a URL
    that detectron2 can read. Every tensor of the backbone must be in it. null: random weights."""


@dataclass(frozen=True)
class TrainConfig:
    steps: int = 90_000
    """Optimizer steps."""

    images_per_step: int = 16
    """Images in a step, over all ranks together."""

    optimizer: str = "sgd"
    """sgd (detectron2's: momentum 0.9) or adamw (no weight decay on biases and norms)."""

    base_lr: float = 0.02
    """Learning rate after the warm-up."""

    weight_decay: float = 1e-4

    schedule: str = "steps"
    """steps: a tenth of the rate after each of `decay_at`. cosine: down to 0 at the last step."""

    decay_at: tuple[int, ...] = (60_000, 80_000)
    """Steps after which schedule `steps` divides the rate by ten."""

    warmup_steps: int = 1000
    """The rate rises linearly, from a thousandth, over so many steps."""

    clip_norm: float | None = None
    """Largest norm of each parameter's gradient (detectron2's CLIP_GRADIENTS); null: no clipping."""

    amp: bool = True
    """On CUDA: float16 products with loss scaling. A CPU trains in float32."""

    seed: int = 0
    """Of the initial weights, the order of the images and their augmentation."""

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
    every: int = 0
    """Steps between two measurements of recall; 0: only after the last step."""

    refine_steps: tuple[int, ...] = (10,)
    """Recall is measured after each of these numbers of passes of the box head (`detector.refine_steps` of stage 1)."""

    rpn_nms_iou: float = 0.3
    """As `detector.rpn_nms_iou` of stage 1."""

    def __post_init__(self) -> None:
        check(self.every >= 0, "recall.every", self.every, "0 or more")
        passes = len(self.refine_steps) > 0 and all(steps >= 0 for steps in self.refine_steps)
        check(passes, "recall.refine_steps", list(self.refine_steps), "one or more numbers of passes")
        check(0 < self.rpn_nms_iou <= 1, "recall.rpn_nms_iou", self.rpn_nms_iou, "a number above 0, at most 1")


@dataclass(frozen=True)
class TrainingRunConfig:
    output: str | None = None
    """Folder of checkpoints, log and metrics. The same folder again resumes."""

    device: str = "auto"
    """cuda, cpu, or auto: CUDA where there is one. Rank r of a node takes GPU r."""

    checkpoint_every: int = 5000
    """Steps between two checkpoints: what a killed job can lose. The last two are kept."""

    workers: int = 4
    """Processes a rank that load images; 0 loads in the rank itself."""

    threads: int = 1
    """CPU threads of a rank."""

    def __post_init__(self) -> None:
        check(self.device in ("auto", "cuda", "cpu"), "run.device", self.device, "auto, cuda or cpu")
        check(self.checkpoint_every > 0, "run.checkpoint_every", self.checkpoint_every, "1 or more")
        check(self.workers >= 0, "run.workers", self.workers, "0 or more")
        check(self.threads > 0, "run.threads", self.threads, "1 or more")


@dataclass(frozen=True)
class ProposalTrainingConfig:
    data: TrainingDataConfig = field(default_factory=TrainingDataConfig)
    detector: InitialDetectorConfig = field(default_factory=InitialDetectorConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    recall: RecallConfig = field(default_factory=RecallConfig)
    run: TrainingRunConfig = field(default_factory=TrainingRunConfig)


@dataclass(frozen=True)
class GroundTruth:
    """Validation images and, by image id, their boxes float32 (m, 4), xyxy in original pixels, without crowds."""

    index: ImageIndex
    base: dict[int, Tensor]
    novel: dict[int, Tensor]


@dataclass(frozen=True)
class TrainingData:
    """records: images with a base annotation to learn from, in detectron2's dataset format, each annotation of class 0.
    digest: SHA-256 of what is learned from. validation: None without `data.validation_annotations`.
    """

    records: list[dict[str, Any]]
    digest: str
    validation: GroundTruth | None


@dataclass(frozen=True)
class Recall:
    """Share of ground-truth boxes that proposals find.

    found: int64 (2, len(RECALL_LIMITS), len(RECALL_IOUS)), base then novel. boxes: int64 (2,), ground truth.
    """

    refine_steps: int
    found: Tensor
    boxes: Tensor

    def scalars(self) -> dict[str, float]:
        """`recall_<passes>/<group>_<limit>_<IoU in percent>`, a group without ground truth left out."""
        return {
            f"recall_{self.refine_steps}/{group}_{limit}_{100 * iou:.0f}": float(found[row, column]) / int(boxes)
            for group, found, boxes in zip(_GROUPS, self.found, self.boxes, strict=True)
            for row, limit in enumerate(RECALL_LIMITS)
            for column, iou in enumerate(RECALL_IOUS)
            if boxes
        }


def read_training_data(config: ProposalTrainingConfig) -> TrainingData:
    """Reads both JSON files and looks for every image file, before anything heavy is built.

    Raises:
        UserError: a missing option or file, a detector configuration that stage 1 could not run, no base annotation to
            learn from.
    """
    with_masks = read_detector_config(_detector_file(config)).MODEL.MASK_ON
    path = Path(given(config.data.annotations))
    coco = CocoFile(path, "data.annotations")
    _, base_ids = read_vocabulary(config, "data.vocabulary").category_ids(coco.categories(), "data.vocabulary")
    annotations = coco.annotations(base_ids)
    if not annotations:
        raise UserError(f"data.annotations: {path} has no annotation of a base category of data.vocabulary")
    entries: dict[int, list[dict[str, Any]]] = {}
    for annotation in annotations:
        entry = _entry(annotation, with_masks)
        if entry is not None:
            entries.setdefault(annotation.image_id, []).append(entry)
    used = [image for image in coco.images() if image.id in entries]
    if not used:
        raise UserError(
            f"data.annotations: no base annotation of {path} has a mask to learn from; "
            "give one, or set MODEL.MASK_ON: false in detector.config"
        )
    index = index_images(used, given(config.data.image_root), path)
    _check_files(index, "data.image_root")
    with quiet_detectron2():
        records = filter_images_with_only_crowd_annotations(
            [
                {
                    "file_name": str(index.path(position)),
                    "image_id": image.id,
                    "height": image.height,
                    "width": image.width,
                    "annotations": entries[image.id],
                }
                for position, image in enumerate(used)
            ]
        )
    if not records:
        raise UserError(f"data.annotations: every base annotation of {path} is a crowd; there is nothing to learn from")
    digest = hashlib.sha256(coco.sha256.encode() + json.dumps(sorted(base_ids)).encode()).hexdigest()
    return TrainingData(records, digest, _read_ground_truth(config))


def fetch_initial_weights(config: ProposalTrainingConfig) -> Path | None:
    """The local file of `detector.weights`; a URL is downloaded into detectron2's cache.

    Raises:
        UserError: no such file, or a download that failed.
    """
    weights = config.detector.weights
    if weights is None:
        return None
    try:
        path = Path(PathManager.get_local_path(weights))
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"detector.weights: cannot download {weights}: {one_line(error)}") from None
    if not path.is_file():
        raise UserError(f"detector.weights: no file at {weights}")
    return path


def open_output(config: ProposalTrainingConfig, data: TrainingData) -> None:
    """Writes what decides the training into `run.output`, or compares with what a training there began with.

    Raises:
        UserError: the folder holds a training with other data or options.
    """
    detector = _detector_file(config).read_text(encoding="utf-8")
    identity: dict[str, Any] = {
        "data.annotations": data.digest,
        "detector.config": hashlib.sha256(detector.encode()).hexdigest(),
        "detector.weights": config.detector.weights,
    }
    identity |= {f"train.{name}": value for name, value in asdict(config.train).items()}
    path = Path(given(config.run.output)) / "training.json"
    if path.is_file() and (path.parent / "last_checkpoint").is_file():  # before the first, nothing is lost
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise UserError(f"run.output: {path} is not readable: {one_line(error)}") from None
        identity = json.loads(json.dumps(identity))
        changed = [name for name in identity if before.get(name) != identity[name]]
        if changed:
            was = ", ".join(f"{name} {_short(before.get(name))} -> {_short(identity[name])}" for name in changed)
            raise UserError(f"run.output: {path.parent} holds a training with other options: {was}; use another folder")
    else:
        write_atomically(path, iter([json.dumps(identity, indent=1).encode() + b"\n"]))


def train(
    config: ProposalTrainingConfig, world: World, data: TrainingData, weights: Path | None
) -> tuple[Path, list[Recall]]:
    """Trains to the last step, from the last checkpoint in `run.output` if there is one, together with the other ranks.

    Returns:
        The final checkpoint, and on rank 0 its recall: one entry for each of `recall.refine_steps`, none without
        validation data.

    Raises:
        UserError: images that do not share out equally over the ranks, initial weights of another detector.
    """
    world.from_main(lambda: _check_share(config.train.images_per_step, world.size))
    device = prepare_device(RunConfig(device=config.run.device, threads=config.run.threads), world.local_rank)
    folder = Path(given(config.run.output))
    for name in ("detectron2", "fvcore"):
        setup_logger(str(folder), distributed_rank=world.rank, name=name, abbrev_name=name)
    cfg = _training_cfg(config, data, device)
    seed_all_rng(config.train.seed)  # the same initial weights on every rank
    model = world.once_a_node(lambda: _build_detector(cfg, weights))
    optimizer = _build_optimizer(cfg, config.train, model)
    sampler = _ResumableSampler(len(data.records), seed=config.train.seed)
    loader = build_detection_train_loader(cfg, mapper=_Mapper(cfg, True), dataset=data.records, sampler=sampler)
    replicas = create_ddp_model(
        model, broadcast_buffers=False, device_ids=[device.index] if device.type == "cuda" else None
    )
    trainer = (AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer)(replicas, loader, optimizer)
    checkpointer = _Checkpointer(model, str(folder), save_to_disk=world.is_main, trainer=trainer)
    measured: list[Recall] = []

    def measure() -> dict[str, float]:
        measured[:] = measure_recall(config, cfg, model, world, data.validation, device)
        return {name: value for recall in measured for name, value in recall.scalars().items()}

    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(optimizer, build_lr_scheduler(cfg, optimizer)),
            hooks.PeriodicCheckpointer(checkpointer, config.run.checkpoint_every, max_to_keep=2)
            if world.is_main
            else None,
            hooks.EvalHook(config.recall.every, measure) if data.validation else None,
            hooks.PeriodicWriter(_writers(folder, config.train.steps)) if world.is_main else None,
        ]
    )
    last = world.from_main(lambda: checkpointer.get_checkpoint_file() if checkpointer.has_checkpoint() else "")
    start = 0
    if last:
        world.once_a_node(lambda: checkpointer.resume(last))
        start = trainer.iter + 1
    sampler.skip = start * config.train.images_per_step
    seed_all_rng(config.train.seed + world.rank + start)
    if start < config.train.steps:
        trainer.train(start, config.train.steps)
    else:
        measure()
    return folder / "model_final.pth", measured


def measure_recall(
    config: ProposalTrainingConfig,
    cfg: CfgNode,
    model: nn.Module,
    world: World,
    truth: GroundTruth | None,
    device: torch.device,
) -> list[Recall]:
    """The recall of `model`'s proposals as stage 1 makes them, on rank 0; every rank takes its share of the images.

    An entry for each of `recall.refine_steps`; none on other ranks, or without ground truth.
    """
    if truth is None:
        return []
    results = []
    for steps in config.recall.refine_steps:
        options = DetectorConfig(
            refine_steps=steps,
            max_boxes=max(RECALL_LIMITS),
            rpn_nms_iou=config.recall.rpn_nms_iou,
            precision="fp32",
        )
        detector = MaskRcnn(with_rpn_options(cfg, options), model.state_dict(), options, device)
        units = plan_units(truth.index, detector.padded_size, images_per_part=64)
        sampler = UnitBatchSampler(units_of_rank(units, world.rank, world.size), images_per_batch=4)
        found = torch.zeros(len(_GROUPS), len(RECALL_LIMITS), len(RECALL_IOUS), dtype=torch.int64)
        with image_batches(truth.index, sampler, config.run.workers, device) as batches:
            for batch in on_device(batches, device):
                for proposals, height, width in zip(detector(batch), batch.heights, batch.widths, strict=True):
                    limits = proposals.boxes_xyxy.new_tensor([width, height, width, height])
                    boxes = proposals.boxes_xyxy.clamp(min=0).minimum(limits).cpu()
                    for group, of_image in zip(found, (truth.base, truth.novel), strict=True):
                        if proposals.image_id in of_image:
                            group += recalled(boxes, of_image[proposals.image_id], RECALL_LIMITS, RECALL_IOUS)
        shares = world.gather(found)
        if world.is_main:
            counts = [sum(map(len, of_image.values())) for of_image in (truth.base, truth.novel)]
            results.append(Recall(steps, torch.stack(shares).sum(dim=0), torch.tensor(counts)))
    return results


def print_recall(measured: Sequence[Recall]) -> None:
    """A table: a line for each number of passes and proposals, a column for each group and IoU."""
    for recall in measured:
        print(f"recall after {recall.refine_steps} passes of the box head")
        head = [f"{group} IoU {iou}" for group in _GROUPS for iou in RECALL_IOUS]
        print("  proposals  " + "  ".join(f"{title:>14}" for title in head))
        for row, limit in enumerate(RECALL_LIMITS):
            shares = [
                f"{float(found[row, column]) / int(boxes):.3f}" if boxes else "-"
                for found, boxes in zip(recall.found, recall.boxes, strict=True)
                for column in range(len(RECALL_IOUS))
            ]
            print(f"  {limit:>9}  " + "  ".join(f"{share:>14}" for share in shares))


def export_weights(checkpoint: Path, path: Path) -> None:
    """Writes the weights of a checkpoint alone, small: see `plgen_ddp.compact`."""
    save_small(torch.load(checkpoint, map_location="cpu", weights_only=True)["model"], path)


def _entry(annotation: Annotation, with_masks: bool) -> dict[str, Any] | None:
    """detectron2's entry for an annotation; None for one whose mask has no polygon, which detectron2 drops too."""
    entry: dict[str, Any] = {
        "bbox": list(annotation.bbox),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": annotation.iscrowd,
    }
    if not with_masks or annotation.iscrowd:  # detectron2 drops crowds when it loads the image
        return entry
    mask = annotation.segmentation
    if isinstance(mask, dict):
        if isinstance(mask.get("counts"), list):
            from pycocotools.mask import frPyObjects

            mask = frPyObjects(mask, *mask["size"])
    else:
        mask = [polygon for polygon in mask or [] if len(polygon) % 2 == 0 and len(polygon) >= 6]
    return entry | {"segmentation": mask} if mask else None


def _read_ground_truth(config: ProposalTrainingConfig) -> GroundTruth | None:
    if config.data.validation_annotations is None:
        return None
    path = Path(config.data.validation_annotations)
    coco = CocoFile(path, "data.validation_annotations")
    split = read_vocabulary(config, "data.vocabulary")
    novel_ids, base_ids = split.category_ids(coco.categories(), "data.vocabulary")
    own_root = config.data.validation_image_root
    index = index_images(coco.images(), own_root or given(config.data.image_root), path)
    _check_files(index, "data.validation_image_root" if own_root else "data.image_root")

    def boxes(category_ids: set[int]) -> dict[int, Tensor]:
        corners: dict[int, list[tuple[float, float, float, float]]] = {}
        for annotation in coco.annotations(category_ids):
            x, y, width, height = annotation.bbox
            if not annotation.iscrowd:
                corners.setdefault(annotation.image_id, []).append((x, y, x + width, y + height))
        return {image_id: torch.tensor(found) for image_id, found in corners.items()}

    return GroundTruth(index, base=boxes(base_ids), novel=boxes(set(novel_ids)))


def _check_files(index: ImageIndex, key: str) -> None:
    missing = [path for path in map(index.path, range(len(index))) if not path.is_file()]
    if missing:
        raise UserError(f"{key}: {len(missing)} of {len(index)} images have no file, the first is {missing[0]}")


def _detector_file(config: ProposalTrainingConfig) -> Path:
    return Path(given(config.detector.config))


def _check_share(images: int, ranks: int) -> None:
    if images % ranks:
        raise UserError(f"train.images_per_step is {images}; {ranks} ranks cannot share it equally")


def _training_cfg(config: ProposalTrainingConfig, data: TrainingData, device: torch.device) -> CfgNode:
    """The detector's configuration with this training's solver and loader, in detectron2's keys."""
    cfg, options = read_detector_config(_detector_file(config)), config.train
    cfg.MODEL.DEVICE = str(device)
    cfg.SOLVER.MAX_ITER = options.steps
    cfg.SOLVER.IMS_PER_BATCH = options.images_per_step
    cfg.SOLVER.BASE_LR = options.base_lr
    cfg.SOLVER.WEIGHT_DECAY = options.weight_decay
    cfg.SOLVER.LR_SCHEDULER_NAME = {"steps": "WarmupMultiStepLR", "cosine": "WarmupCosineLR"}[options.schedule]
    cfg.SOLVER.STEPS = tuple(step for step in options.decay_at if step < options.steps)
    cfg.SOLVER.WARMUP_ITERS = options.warmup_steps
    cfg.SOLVER.AMP.ENABLED = options.amp and device.type == "cuda"
    if options.clip_norm is not None:
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = options.clip_norm
    cfg.DATALOADER.NUM_WORKERS = config.run.workers
    masks = (entry.get("segmentation") for record in data.records for entry in record["annotations"])
    if any(isinstance(mask, dict) for mask in masks):
        cfg.INPUT.MASK_FORMAT = "bitmask"  # the only one of detectron2's that takes run lengths
    return cfg


def _build_detector(cfg: CfgNode, weights: Path | None) -> nn.Module:
    with quiet_detectron2():
        model = build_model(cfg)
        if weights is not None:
            _Checkpointer(model).start_from(weights)
    return model


def _build_optimizer(cfg: CfgNode, options: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    if options.optimizer == "sgd":
        return build_optimizer(cfg, model)
    groups = get_default_optimizer_params(model, base_lr=options.base_lr, weight_decay_norm=0.0, weight_decay_bias=0.0)
    kind = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    return kind(groups, lr=options.base_lr, weight_decay=options.weight_decay)


def _writers(folder: Path, steps: int) -> list[EventWriter]:
    """detectron2's default writers; TensorBoard's where it is installed."""
    writers = [CommonMetricPrinter(steps), JSONWriter(str(folder / "metrics.json"))]
    if find_spec("tensorboard"):
        writers.append(TensorboardXWriter(str(folder)))
    return writers


class _Mapper(DatasetMapper):
    """detectron2's mapper; in an unreadable image's place its loader takes another."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return super().__call__(dataset_dict)
        except (OSError, SizeMismatchError) as error:
            logging.getLogger("detectron2").warning(
                f"left out image {dataset_dict['image_id']}: {dataset_dict['file_name']}: {one_line(error)}"
            )
            return None


class _ResumableSampler(TrainingSampler):
    """detectron2's endless order of images over all ranks, from `skip` on: a resumed training goes on in it."""

    skip = 0

    def _infinite_indices(self) -> Iterator[int]:
        return itertools.islice(super()._infinite_indices(), self.skip, None)


class _Checkpointer(SafeCheckpointer):
    """detectron2's checkpointer, which stops where that one only logs what does not fit."""

    def start_from(self, weights: Path) -> None:
        """Loads initial weights: every tensor of the backbone, and of the other tensors those that the file has."""
        with_fpn = any(name.startswith("backbone.bottom_up.") for name in self.model.state_dict())
        self._option = f"detector.weights: {weights}"
        self._required = "backbone.bottom_up." if with_fpn else "backbone."
        self.load(str(weights), checkpointables=[])

    def resume(self, checkpoint: str) -> None:
        """Loads a checkpoint of this training: weights, optimizer, schedule, step."""
        if not Path(checkpoint).is_file():
            raise UserError(f"run.output: no file at {checkpoint}; the folder must be one that every node sees")
        self._option, self._required = f"run.output: {checkpoint}", ""
        self.load(checkpoint)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Names the newest checkpoint, once it is complete; a kill leaves the old name or the new one."""
        write_atomically(Path(self.save_dir) / "last_checkpoint", iter([last_filename_basename.encode()]))

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            loaded = _read_arrays(filename) if filename.endswith(".pkl") else super()._load_file(filename)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{self._option} is not a checkpoint of tensors: {one_line(error)}") from None
        if not isinstance(loaded.get("model"), dict):
            raise UserError(f"{self._option} is not a checkpoint: it holds no model")
        return loaded

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        if incompatible.incorrect_shapes:
            name, given, own = incompatible.incorrect_shapes[0]
            raise UserError(
                f"{self._option} does not fit detector.config: {name} has shape {given}, needed is {own} "
                f"({len(incompatible.incorrect_shapes)} tensors differ)"
            )
        missing = [name for name in incompatible.missing_keys if name.startswith(self._required)]
        if missing:
            raise UserError(
                f"{self._option} lacks {len(missing)} tensors that detector.config needs, the first is {missing[0]}"
            )


class _ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays in plain containers and nothing else: a pickle could otherwise run any code."""

    _KNOWN = frozenset(
        {
            ("collections", "OrderedDict"),
            ("_codecs", "encode"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "scalar"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, and only arrays are read from a pickle")
        return super().find_class(module, name)


def _read_arrays(filename: str) -> dict[str, Any]:
    """A .pkl of weights in one of the layouts that detectron2 knows: its own, Detectron's, Caffe2's."""
    with Path(filename).open("rb") as file:
        data = _ArrayUnpickler(file, encoding="latin1").load()
    if not isinstance(data, dict):
        raise ValueError("no mapping of names to arrays")
    if "model" in data and "__author__" in data:
        return data
    arrays = {name: value for name, value in data.get("blobs", data).items() if not name.endswith("_momentum")}
    return {"model": arrays, "__author__": "Caffe2", "matching_heuristics": True}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 20 else text[:12] + "..."
