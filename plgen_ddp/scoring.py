"""Stage 1 for one rank: images to region embeddings in the store. It knows no ranks, only which units are its own."""

import functools
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plgen_ddp import __version__
from plgen_ddp.clip_model import ClipModel, fetch_clip
from plgen_ddp.coco import CocoFile, ImageIndex, dataset_digest, index_images
from plgen_ddp.config import ClipConfig, Config, RunConfig
from plgen_ddp.errors import UserError
from plgen_ddp.images import Failure, image_batches, on_device, plan_units
from plgen_ddp.labeling import can_exceed, file_sha256, pruning_of, store_of
from plgen_ddp.precision import resolve_precision
from plgen_ddp.proposals import ProposalModel, fetch_weights, read_detector_config
from plgen_ddp.regions import PendingRegions, RegionEncoder
from plgen_ddp.store import PartWriter, StoredImage
from plgen_ddp.timing import Awaited, add_seconds


@dataclass(frozen=True)
class Dataset:
    """The images to score, and the SHA-256 of all images of their JSON (also those past `data.limit`)."""

    index: ImageIndex
    digest: str
    size: int


@dataclass(frozen=True)
class Weights:
    """Local weight files."""

    detector: Path
    clip: Path


@dataclass(frozen=True)
class Models:
    detector: ProposalModel
    clip: ClipModel


@dataclass(frozen=True)
class Summary:
    """What one rank did. waited: seconds of its `seconds` without an image. peak_memory, peak_gpu_memory: bytes."""

    images: int
    boxes: int
    seconds: float
    waited: float
    peak_memory: int
    peak_gpu_memory: int


def read_dataset(config: Config) -> Dataset:
    """Reads the JSON, finds the images, and looks at every file that the job will need, before anything heavy is built.

    Raises:
        UserError: a missing option or file, a JSON that is not COCO, a detector configuration that stage 1 cannot run.
    """
    config.require("data.annotations", "data.image_root", "detector.config", "detector.weights", "run.output")
    read_detector_config(config.find(config.value("detector.config"), "detector.config"), config.detector)
    annotations = Path(config.value("data.annotations"))
    images = CocoFile(annotations, "data.annotations").images()
    index = index_images(images, config.value("data.image_root"), annotations)
    return Dataset(index.first(config.data.limit), dataset_digest(images), len(images))


def fetch(config: Config) -> Weights:
    """The weight files; those given by name or URL are downloaded into a cache."""
    return Weights(fetch_weights(config.value("detector.weights")), fetch_clip(config.clip.model))


def prepare_device(run: RunConfig, local_rank: int) -> torch.device:
    """The device of a rank, its own GPU or the CPU; sets the rank's number of CPU threads.

    Raises:
        UserError: CUDA was asked for and is not there, or a node has fewer GPUs than ranks.
    """
    torch.set_num_threads(run.threads)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if run.device == "cpu" or (run.device == "auto" and not gpus):
        return torch.device("cpu")
    if not gpus:
        raise UserError("run.device is cuda, and torch sees no GPU here; use run.device=cpu, or look at nvidia-smi")
    if local_rank >= gpus:
        raise UserError(f"more ranks than GPUs on this node: {gpus}; start torchrun with --nproc_per_node={gpus}")
    torch.cuda.set_device(local_rank)
    torch.backends.cudnn.allow_tf32 = False  # "fp32" is what it says; who wants it faster takes fp16
    return torch.device("cuda", local_rank)


def clip_batch_size(options: ClipConfig, device: torch.device) -> int:
    """Crops in a CLIP batch on `device`: what fills a GPU, and what stays in a CPU's cache."""
    return options.batch_size or (512 if device.type == "cuda" else 32)


def fills_clip_batches(options: ClipConfig, device: torch.device) -> bool:
    """Whether the last CLIP batch of a unit is filled up. A CPU takes any shape, and filling up cost a tenth of CLIP's
    time where units are single images."""
    return device.type == "cuda" or options.compile


def load_models(config: Config, weights: Weights, device: torch.device) -> Models:
    """Both models on the rank's device, in the configured precision."""
    cfg = read_detector_config(config.find(config.value("detector.config"), "detector.config"), config.detector)
    detector = ProposalModel(cfg, weights.detector, config.detector, device)
    clip = ClipModel(weights.clip, device, resolve_precision(config.clip.precision, device))
    if config.clip.compile:
        clip.compile(clip_batch_size(config.clip, device))
    return Models(detector, clip)


def plan_work(config: Config, dataset: Dataset, weights: Weights, models: Models) -> list[np.ndarray]:
    """Opens the store and returns the units that it lacks: positions in `dataset.index`. For one rank to decide.

    Raises:
        UserError: the store was made from other data, weights or settings.
    """
    detector, clip, run = config.detector, config.clip, config.run
    store = store_of(config)
    identity: dict[str, Any] = {
        "dataset": {"digest": dataset.digest, "images": dataset.size},
        "detector": {
            "weights": file_sha256(weights.detector),
            "config": models.detector.config_digest,
            "precision": models.detector.precision,
            "refine_steps": detector.refine_steps,
            "rpn_nms_iou": detector.rpn_nms_iou,
            "rpn_proposals": detector.rpn_proposals,
            "max_boxes": detector.max_boxes,
            "min_box_size": detector.min_box_size,
        },
        "clip": {
            "weights": file_sha256(weights.clip),
            "precision": models.clip.precision,
            "crop_scales": list(clip.crop_scales),
            "compile": clip.compile,
        },
    }
    if (pruning := pruning_of(config)) is not None:
        identity["pruning"] = pruning
    versions = {
        name: version(name) for name in ("torch", "torchvision", "numpy", "opencv-python-headless", "clip-anytorch")
    }
    store.open_for_scoring(
        identity, models.clip.dim, versions | {"plgen_ddp": __version__}, Path(config.value("data.annotations"))
    )
    if run.retry_failures:
        store.drop_parts_with_failures(dataset.index.image_ids.tolist())
    # A GPU needs whole batches; a CPU takes images one by one, and ranks of small units end together.
    smallest = run.images_per_batch if models.detector.device.type == "cuda" else 1
    units = plan_units(dataset.index, models.detector.padded_size, run.images_per_part, smallest)
    scored = np.isin(dataset.index.image_ids, np.fromiter(store.part_of_images(), np.int64))
    left = [unit[~scored[unit]] for unit in units]
    return [unit for unit in left if len(unit)]


def score_units(
    config: Config, index: ImageIndex, units: Sequence[np.ndarray], models: Models, advance: Callable[[int], None]
) -> Summary:
    """Scores the units and writes a part for each. `advance` is told of every image."""
    device = models.detector.device
    pruning = pruning_of(config)
    encoder = RegionEncoder(
        models.clip.encode_images,
        device=device,
        resolution=models.clip.resolution,
        dim=models.clip.dim,
        batch_size=clip_batch_size(config.clip, device),
        fill=fills_clip_batches(config.clip, device),
        scales=config.clip.crop_scales,
        min_size=config.detector.min_box_size,
        wanted=None if pruning is None else lambda objectness: can_exceed(objectness, *pruning.values()),
    )
    loader = image_batches(index, units, config.run.images_per_batch, config.run.workers, pin=device.type == "cuda")
    decoded = Awaited("wait", loader)
    start = time.perf_counter()
    images = 0
    failures: list[Failure] = []
    with PartWriter(store_of(config)) as writer:
        for batch in on_device(decoded, device):
            encoder.add(batch, models.detector(batch))
            failures += batch.failures
            if batch.last:
                writer.write(functools.partial(_rows, encoder.flush(), tuple(failures)))
                failures = []
            images += len(batch) + len(batch.failures)
            advance(len(batch) + len(batch.failures))
    add_seconds("write", writer.seconds)
    return Summary(
        images=images,
        boxes=writer.boxes,
        seconds=time.perf_counter() - start,
        waited=decoded.seconds,
        peak_memory=peak_memory(),
        peak_gpu_memory=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
    )


def peak_memory() -> int:
    """The most memory that this process has held so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def check_coverage(config: Config, dataset: Dataset) -> list[tuple[int, str, str]]:
    """Every image of the dataset is in exactly one part; cleans up behind killed writers.

    Returns:
        (image id, stage, reason) of those that could not be scored.

    Raises:
        UserError: an image is missing or in two parts.
    """
    store = store_of(config)
    stored = store.part_of_images()
    image_ids = dataset.index.image_ids.tolist()
    missing = [image_id for image_id in image_ids if image_id not in stored]
    if missing:
        raise UserError(f"{len(missing)} images are in no part of {store.folder}, the first is {missing[0]}; run again")
    store.sweep()
    return store.failures(image_ids)


def _rows(regions: PendingRegions, failures: Sequence[Failure]) -> list[StoredImage]:
    rows = [
        StoredImage(found.image_id, found.boxes_xyxy, found.objectness, found.embeddings) for found in regions.wait()
    ]
    rows += [StoredImage.failed(failure.image_id, failure.stage, failure.reason) for failure in failures]
    return sorted(rows, key=lambda row: row.image_id)
