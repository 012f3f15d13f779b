"""Stage 1 for one rank: units of work to parts of the store. It knows no ranks, only which units are its own."""

import functools
import itertools
import json
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from plgen_ddp.coco import CocoFile
from plgen_ddp.config import ClipConfig, Config
from plgen_ddp.console import print_line
from plgen_ddp.device import conditions_of, installed_versions, peak_gpu_memory, peak_memory
from plgen_ddp.encoders.encoder import Encoder
from plgen_ddp.encoders.loading import fetch_encoder, load_encoder, named_encoder
from plgen_ddp.errors import UserError
from plgen_ddp.image_files import ImageIndex, dataset_digest, index_images
from plgen_ddp.manifest import Manifest, differences
from plgen_ddp.options import given
from plgen_ddp.part_writer import PartWriter
from plgen_ddp.plurals import are, counted
from plgen_ddp.records import RankSummary, Regions
from plgen_ddp.score.box_files import BoxFile, check_boxes, read_boxes
from plgen_ddp.score.dealing import UnitsAhead
from plgen_ddp.score.images import UnitBatchSampler, image_batches, on_device, plan_units
from plgen_ddp.score.proposals import ProposalSource
from plgen_ddp.score.regions import PendingRegions, RegionEncoder
from plgen_ddp.score.timing import Awaited, add_seconds
from plgen_ddp.stopping import stop_if_asked
from plgen_ddp.store import RegionStore, store_of
from plgen_ddp.store_check import check_store, remove_bad_parts

_log = logging.getLogger(__name__)

# Seconds between looks for parts that seem to be missing: NFS may show the files of other nodes late.
_PAUSES = (1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, slots=True)
class ScoringData:
    """The images to score, and the SHA-256 and number of all images of their JSON (also those past `data.limit`)."""

    index: ImageIndex
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Weights:
    """The local files behind `Models`: the detector's checkpoint or the file of boxes, and the encoder's weights."""

    proposals: Path
    encoder: Path


@dataclass(frozen=True, slots=True)
class Models:
    """What makes boxes, and what makes embeddings of their crops, on one device."""

    proposals: ProposalSource
    encoder: Encoder


def scoring_requires(config: Config) -> tuple[str, ...]:
    """The options without a default that a scoring needs."""
    boxes = () if config.proposals.source is not None else ("detector.config", "detector.weights")
    return ("data.annotations", "data.image_root", *boxes, "run.output")


def read_dataset(config: Config) -> ScoringData:
    """Reads the JSON, finds the images, and checks every file that the job will need, before anything heavy is built.

    Raises:
        UserError: a missing file, a JSON that is not COCO, a detector configuration that stage 1 cannot run,
            a file of boxes for other images.
    """
    boxes = _box_file(config)
    if boxes is None:
        _read_detector_config(config)
    annotations = Path(given(config.data.annotations))
    images = CocoFile(annotations, "data.annotations").images()
    root = given(config.data.image_root)
    index = index_images(images, root, annotations, follow_links=config.data.follow_links)
    if boxes is not None:
        check_boxes(read_boxes(boxes), boxes, images)
    return ScoringData(index.first(config.data.limit), dataset_digest(images), len(images))


def fetch(config: Config) -> Weights:
    """The weight files; an encoder given by name is downloaded into a cache."""
    proposals = _box_file(config) or _mask_rcnn().find_weights(given(config.detector.weights))
    return Weights(proposals, fetch_encoder(config.clip))


def load_models(config: Config, weights: Weights, device: torch.device) -> Models:
    """What makes boxes and what encodes them, on the rank's device in the configured precision."""
    proposals: ProposalSource
    if config.proposals.source is not None:
        proposals = BoxFile(weights.proposals, config.detector, device)
    else:
        cfg = _read_detector_config(config)
        proposals = _mask_rcnn().MaskRcnn(cfg, weights.proposals, config.detector, device)
    encoder = load_encoder(config.clip, weights.encoder, device)
    if config.clip.compile:
        encoder.compile(clip_batch_size(config.clip, device))
    return Models(proposals, encoder)


def clip_batch_size(options: ClipConfig, device: torch.device) -> int:
    """Crops in a CLIP batch on `device`: what fills a GPU, and what stays in a CPU's cache."""
    return options.batch_size or (512 if device.type == "cuda" else 32)


def fills_clip_batches(options: ClipConfig, device: torch.device) -> bool:
    """Whether the last CLIP batch of a unit is filled up.

    On a CPU it is not: any shape runs, and filling cost a tenth of CLIP's time where units are single images.
    """
    return device.type == "cuda" or options.compile


@dataclass(frozen=True, slots=True)
class Plan:
    """What is left to do.

    Attributes:
        units: positions in `ScoringData.index` of the images of each part that is to be made, int64.
        stored: images that the store has already.
    """

    units: list[np.ndarray]
    stored: int


def plan_work(config: Config, dataset: ScoringData, models: Models) -> Plan:
    """Opens the store and plans the parts that it lacks. For one rank to decide.

    Raises:
        UserError: the store was made from other data, weights or settings.
    """
    run, store = config.run, store_of(config)
    store.open_for_scoring(
        Manifest(
            dim=models.encoder.dim,
            similarity=models.encoder.similarity,
            identity={
                "dataset": {"digest": dataset.digest, "images": dataset.size},
                "detector": models.proposals.identity(),
                "clip": models.encoder.identity(),
            },
            versions=installed_versions("plgen_ddp", "torch", "torchvision", "numpy", "cv2", "clip"),
            annotations=str(Path(given(config.data.annotations)).resolve()),
            encoder=named_encoder(config.clip),
        )
    )
    store.sweep()
    if run.repair:
        for line in remove_bad_parts(store, check_store(store)):
            print_line(line, error=True)
    if run.retry_failures:
        store.drop_parts_with_failures(dataset.index.image_ids.tolist())
    # A GPU needs whole batches; a CPU takes images one by one, and ranks of small units end together.
    smallest = run.images_per_batch if models.proposals.device.type == "cuda" else 1
    units = plan_units(dataset.index, models.proposals.padded_size, run.images_per_part, smallest)
    scored = np.isin(dataset.index.image_ids, np.fromiter(store.part_of_images(), np.int64))
    left = [unit[~scored[unit]] for unit in units]
    plan = Plan([unit for unit in left if len(unit)], int(scored.sum()))
    if plan.stored and plan.units:
        stored = f"{plan.stored} of {counted(len(scored), 'image')} {are(plan.stored)} in the store already"
        print_line(f"{stored}; scoring the others", error=True)
        _note_other_conditions(store, _conditions(config, models.proposals.device))
    return plan


def _conditions(config: Config, device: torch.device) -> dict[str, Any]:
    return conditions_of(config.run, device, clip_batch_size(config.clip, device))


def _note_other_conditions(store: RegionStore, now: dict[str, Any]) -> None:
    """Prints how the parts that are stored were made under other conditions than this run's."""
    unlike: Counter[str] = Counter()
    contents = store.contents()
    for conditions, count in Counter(content.conditions for content in contents.values()).items():
        if conditions != "{}":
            unlike.update(dict.fromkeys(differences(json.loads(conditions), now), count))
    for difference, count in unlike.items():
        made = f"{count} of {counted(len(contents), 'part')} {'was' if count == 1 else 'were'} made with another "
        made += difference
        print_line(f"note: {made}; last digits there may differ from this run's", error=True)


def score_units(
    config: Config, index: ImageIndex, units: Iterable[np.ndarray], models: Models, advance: Callable[[int], None]
) -> RankSummary:
    """Scores the units and writes a part for each. Calls `advance` with the number of images of each batch.

    Args:
        units: positions in `index`. They are asked for one by one, shortly before their work begins.

    Raises:
        StoppedError: between two batches; the parts of finished units are on disk.
    """
    device = models.proposals.device
    encoder = RegionEncoder(
        models.encoder,
        device=device,
        batch_size=clip_batch_size(config.clip, device),
        fill=fills_clip_batches(config.clip, device),
        scales=config.clip.crop_scales,
        min_size=config.detector.min_box_size,
        min_objectness=config.detector.min_objectness,
    )
    ahead = UnitsAhead(units, 2 if device.type == "cuda" else 1)  # a GPU's batches are copied one ahead
    sampler = UnitBatchSampler(ahead, config.run.images_per_batch, index)
    start = time.perf_counter()
    images = 0
    with (
        image_batches(index, sampler, config.run.workers, device, config.data) as decoded,
        PartWriter(store_of(config), _conditions(config, device)) as writer,
        ahead,
    ):
        awaited = Awaited("wait", decoded)
        batches = on_device(awaited, device)
        for first in batches:
            unit = ahead.begin()
            failures: list[Regions] = []
            for batch in itertools.chain([first], itertools.islice(batches, sampler.batches_in(unit) - 1)):
                stop_if_asked()
                encoder.add(batch, models.proposals(batch))
                failures += batch.failures
                advance(len(batch) + len(batch.failures))
            writer.write(functools.partial(_rows, encoder.flush(), failures))
            _log.info("scored a unit of %d images, the first is %d", len(unit), index.image_ids[unit[0]])
            images += len(unit)
    add_seconds("write", writer.seconds)
    return RankSummary(
        images=images,
        boxes=writer.boxes,
        seconds=time.perf_counter() - start,
        waited=awaited.seconds,
        peak_memory=peak_memory(),
        peak_gpu_memory=peak_gpu_memory(device),
        host=socket.gethostname(),
    )


def check_any_box(summaries: Sequence[RankSummary]) -> None:
    """Checks that the images of a run have boxes at all: such weights and settings are wrong.

    Raises:
        UserError: images were scored, and none has a box.
    """
    images = sum(summary.images for summary in summaries)
    if images and not any(summary.boxes for summary in summaries):
        raise UserError(
            f"none of the {counted(images, 'image')} scored has a box; are detector.weights those of detector.config, "
            "and detector.min_objectness low enough? Then score into a new run.output"
        )


def check_coverage(config: Config, dataset: ScoringData) -> list[tuple[int, str, str]]:
    """Checks that every image of the dataset is in the store, and removes what killed writers left.

    What is missing is looked for again after a pause: a file server may show other nodes' parts late.

    Returns:
        (image id, stage, reason) of those that could not be scored.

    Raises:
        UserError: an image is missing, or in two parts that do not agree.
    """
    store = store_of(config)
    image_ids = dataset.index.image_ids.tolist()
    missing: list[int] = []
    for pause in (0.0, *_PAUSES):
        time.sleep(pause)
        stored = store.part_of_images()
        missing = [image_id for image_id in image_ids if image_id not in stored]
        if not missing:
            break
    if missing:
        images = counted(len(missing), "image is", "images are")
        raise UserError(f"{images} in no part of {store.folder}, the first is {missing[0]}; run again")
    store.sweep()
    return store.failures(image_ids)


def _box_file(config: Config) -> Path | None:
    source = config.proposals.source
    return None if source is None else Path(source)


def _read_detector_config(config: Config) -> Any:
    return _mask_rcnn().read_detector_config(Path(given(config.detector.config)), config.detector)


def _mask_rcnn() -> ModuleType:
    """`plgen_ddp.score.mask_rcnn`, imported where a detector runs: boxes from a file need no detectron2."""
    try:
        from plgen_ddp.score import mask_rcnn

        return mask_rcnn
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "detectron2":
            raise
        raise UserError(
            "detectron2 is not installed; install it by `make setup` or as the README says, or take the boxes of "
            "another detector from a file with proposals.source=FILE"
        ) from None


def _rows(regions: PendingRegions, failures: Sequence[Regions]) -> list[Regions]:
    """The rows of a part, by image id. Waits for a GPU, so it belongs into the writer's thread."""
    return sorted([*regions.wait(), *failures], key=lambda row: row.image_id)
