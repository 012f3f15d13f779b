"""One timed rank of the job: the steps of launch/score.py up to the complete store, with clocks.

    torchrun --nproc_per_node=RANKS --module plgen_ddp.benchmark.timed_job RESULT.json [section.key=value ...]

The loader, models, writer and store on disk are the job's own. Before the clock starts, a rank scores a first image (on
CUDA a first batch) into a store that is then left alone.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from plgen_ddp.benchmark.inputs import preset
from plgen_ddp.benchmark.measurement import STAGES, Measurement, count_flops, measured_peak, resident_memory
from plgen_ddp.config import Config
from plgen_ddp.console import end_with, one_line_errors
from plgen_ddp.device import DTYPES, prepare_device
from plgen_ddp.errors import UserError
from plgen_ddp.image_files import ImageIndex
from plgen_ddp.records import RankSummary
from plgen_ddp.score.dealing import deal_units
from plgen_ddp.score.job import (
    clip_batch_size,
    fetch,
    fills_clip_batches,
    load_models,
    plan_work,
    read_dataset,
    score_units,
    scoring_requires,
)
from plgen_ddp.score.regions import windows_of
from plgen_ddp.score.timing import StageClock
from plgen_ddp.store import store_of
from plgen_ddp.world import World


def main(words: Sequence[str]) -> None:
    """Takes the path of the result and the words for the configuration."""
    result, *overrides = words
    with one_line_errors():
        time_rank(preset("vlplm", overrides, scoring_requires), Path(result))


@dataclass(frozen=True, slots=True)
class RankFigures:
    """What one rank measured.

    Attributes:
        summary: of its images.
        stages: seconds of each stage.
        flops: operations of each stage in the warm-up.
        peak_flops: operations a second of one large matrix product.
        crops, warm_up_crops: crops that CLIP encoded for its own images, and for those of the warm-up.
        load_seconds, warm_up_seconds, end_memory: as in `Measurement`.
    """

    summary: RankSummary
    stages: dict[str, float]
    flops: dict[str, float]
    peak_flops: float
    crops: int
    warm_up_crops: int
    load_seconds: float
    warm_up_seconds: float
    end_memory: int


def time_rank(config: Config, result: Path) -> None:
    """Scores this rank's share. Rank 0 writes the `Measurement` of all ranks to `result`.

    Raises:
        UserError: an image could not be scored.
    """
    with World.from_env() as world:
        start = time.perf_counter()
        dataset = world.from_main(lambda: read_dataset(config))
        weights = world.once_a_node(lambda: fetch(config))
        device = world.everywhere(lambda: prepare_device(config.run, world.local_rank))
        models = world.everywhere(lambda: load_models(config, weights, device))
        units = world.from_main(lambda: plan_work(config, dataset, models)).units
        own: list[np.ndarray] = []
        loaded = time.perf_counter()

        first = units[0][: config.run.images_per_batch if device.type == "cuda" else 1]
        warm_up = replace(config, run=replace(config.run, output=str(result.parent / f"warm_up_{world.rank}")))
        store_of(warm_up).open_for_scoring(store_of(config).manifest())
        flops = count_flops(lambda: score_units(warm_up, dataset.index, [first], models, lambda images: None))
        warm = time.perf_counter()
        peak = measured_peak(device, DTYPES[models.encoder.precision if device.type == "cpu" else "fp16"])

        world.gather(None)
        world.from_main(lambda: None)  # all start together
        dealt = deal_units(units, world.rank, world.size, lambda share: world.count(1, f"units of {share}") - 1)
        with StageClock(device).running() as clock:
            summary = score_units(config, dataset.index, _noted(dealt, own), models, lambda images: None)
        stages = clock.seconds()
        world.gather(None)
        world.from_main(lambda: _check_scored(config))
        own_images = np.concatenate(own) if own else np.empty(0, np.int64)
        mine = RankFigures(
            summary=summary,
            stages=stages,
            flops=flops,
            peak_flops=peak,
            crops=_count_crops(config, dataset.index, own_images),
            warm_up_crops=_count_crops(warm_up, dataset.index, first),
            load_seconds=loaded - start,
            warm_up_seconds=warm - loaded,
            end_memory=resident_memory(),
        )
        ranks = world.gather(mine)
    if world.is_main:
        result.write_text(json.dumps(asdict(_of_all_ranks(config, ranks, device, len(first)))))


def _noted(units: Iterable[np.ndarray], into: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The units; adds each to a list when it is taken."""
    for unit in units:
        into.append(unit)
        yield unit


def _check_scored(config: Config) -> None:
    if failures := store_of(config).failures():
        image_id, stage, reason = failures[0]
        raise UserError(f"{len(failures)} images could not be scored, the first, {image_id}, in {stage}: {reason}")


def _count_crops(config: Config, index: ImageIndex, positions: np.ndarray) -> int:
    """How many different crop windows the boxes of the images at these positions have."""
    columns = (index.image_ids[positions], index.heights[positions], index.widths[positions])
    sizes = {
        image_id: (height, width) for image_id, height, width in zip(*map(np.ndarray.tolist, columns), strict=True)
    }
    store = store_of(config)
    crops = 0
    for path in store.part_paths():
        for image in store.read_part(path):
            if image.image_id in sizes and len(image.boxes_xyxy):
                size = sizes[image.image_id]
                windows = [windows_of(image.boxes_xyxy, scale, *size) for scale in config.clip.crop_scales]
                crops += len(np.unique(np.concatenate(windows), axis=0))
    return crops


def _of_all_ranks(
    config: Config, ranks: Sequence[RankFigures], device: torch.device, warm_up_images: int
) -> Measurement:
    images = sum(rank.summary.images for rank in ranks)
    seconds = max(rank.summary.seconds for rank in ranks)
    stages = {name: sum(rank.stages.get(name, 0.0) for rank in ranks) for name in (*STAGES, "wait")}
    first, crops = ranks[0], sum(rank.crops for rank in ranks)
    encoded = first.warm_up_crops
    if fills_clip_batches(config.clip, device):  # the operations on what fills a batch up are no useful work
        batch_size = clip_batch_size(config.clip, device)
        encoded = -(-encoded // batch_size) * batch_size
    useful = {
        "detector": first.flops.get("detector", 0.0) / warm_up_images * images,
        "refine": first.flops.get("refine", 0.0) / warm_up_images * images,
        "CLIP": first.flops.get("CLIP", 0.0) / max(encoded, 1) * crops,
    }
    return Measurement(
        name="job",
        precision="",  # the words that chose it are known to who started the run
        device=device.type,
        ranks=len(ranks),
        threads=config.run.threads,
        images=images,
        seconds=seconds,
        images_per_second=images / seconds,
        stages_ms={name: 1000 * stages[name] / images for name in STAGES},
        waiting_ms=1000 * stages["wait"] / images,
        peak_shares={name: useful[name] / first.peak_flops / stages[name] for name in useful if stages[name]},
        peak_tflops=first.peak_flops / 1e12,
        boxes_per_image=sum(rank.summary.boxes for rank in ranks) / images,
        crops_per_image=crops / images,
        load_seconds=max(rank.load_seconds for rank in ranks),
        warm_up_seconds=max(rank.warm_up_seconds for rank in ranks),
        peak_memory=max(rank.summary.peak_memory for rank in ranks),
        end_memory=max(rank.end_memory for rank in ranks),
        peak_gpu_memory=max(rank.summary.peak_gpu_memory for rank in ranks),
    )


if __name__ == "__main__":
    end_with(lambda: main(sys.argv[1:]))
