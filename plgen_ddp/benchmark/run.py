"""What a run costs: the job beside the reference recipe, on the same images, in the same run, stage by stage.

Everything timed is a process of its own, or several under torchrun: memory is then that of the run alone. The job is
`launch/score.py --no-label` with a clock running: its own loader, models, writer and store on disk. The reference is
the tests' oracle, one image at a time, as VL-PLM and MarvelOVD run. Weights are seeded, not trained: sizes and counts
are those of the real ones, labels mean nothing.

Before the clock starts, both score a first image (on CUDA, the job a first batch); what that took is told apart.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import box_iou

from plgen_ddp.benchmark.reference_recipe import reference_regions
from plgen_ddp.benchmark.seeded_models import (
    generated_scene,
    write_full_clip,
    write_full_detector,
    write_tiny_clip,
    write_tiny_detector,
)
from plgen_ddp.coco import CocoFile
from plgen_ddp.config import ClipConfig, Config, given, load_config
from plgen_ddp.console import one_line_errors
from plgen_ddp.device import DTYPES, peak_memory, prepare_device, resolve_precision
from plgen_ddp.encoders.loading import load_encoder
from plgen_ddp.errors import UserError
from plgen_ddp.image_files import ImageIndex, index_images
from plgen_ddp.label.job import available_cores, store_of
from plgen_ddp.label.labels import label_image
from plgen_ddp.label.text_embeddings import TextEmbeddings
from plgen_ddp.label.vocabulary import read_templates, read_vocabulary
from plgen_ddp.records import PseudoLabels, RankSummary
from plgen_ddp.score.images import units_of_rank
from plgen_ddp.score.job import (
    clip_batch_size,
    fetch,
    fills_clip_batches,
    load_models,
    plan_work,
    read_dataset,
    score_units,
)
from plgen_ddp.score.regions import windows_of
from plgen_ddp.score.timing import StageClock
from plgen_ddp.store import RegionStore
from plgen_ddp.world import World

T = TypeVar("T")

STAGES = ("decode", "copy", "detector", "refine", "crop", "CLIP", "write")
PRESETS = ("marvelovd", "vlplm")

# (height, width), COCO's most frequent, about as frequent.
_COCO_SIZES = (
    (480, 640), (427, 640), (640, 480), (480, 640), (375, 500),
    (427, 640), (480, 640), (640, 427), (480, 640), (426, 640),
)  # fmt: skip
# Beyond so many, generated files are used again under new ids: decoding them costs the same.
_DISTINCT_IMAGES = 256

_REPOSITORY = Path(__file__).parents[2]
# Two proposals are one where their IoU is above this.
_SAME_BOX_IOU = 0.95


@dataclass(frozen=True)
class Inputs:
    """The files that all measurements share. overrides: words for `load_config`."""

    folder: Path
    annotations: Path
    overrides: tuple[str, ...]
    distinct_images: int


@dataclass(frozen=True)
class Measurement:
    """One timed run.

    name: reference or job. precision: of detector and CLIP, one word where they agree. threads: CPU threads a rank.
    seconds: of the slowest rank, from the first image to the last part on disk. stages_ms: milliseconds an image,
    summed over ranks; decode is spent in other threads, and so is write. waiting_ms: likewise, the rank's time without
    a batch to work on. peak_shares: of a stage, what its products would have taken at `peak_tflops` (1e12 operations a
    second and rank), over its time. crops_per_image: encoded by CLIP, after equal windows were merged. Memory: bytes,
    of the largest rank; end_memory is what is resident at the end of scoring. load_seconds: of reading the JSON,
    loading models and, with `clip.compile`, compiling. warm_up_seconds: of the first image or batch, with whatever is
    tuned there.
    """

    name: str
    precision: str
    device: str
    ranks: int
    threads: int
    images: int
    seconds: float
    images_per_second: float
    stages_ms: dict[str, float]
    waiting_ms: float
    peak_shares: dict[str, float]
    peak_tflops: float
    boxes_per_image: float
    crops_per_image: float
    load_seconds: float
    warm_up_seconds: float
    peak_memory: int
    end_memory: int
    peak_gpu_memory: int


@dataclass(frozen=True)
class Agreement:
    """How far the regions of one precision are those of another.

    same_boxes: share of boxes with an IoU above 0.95 with a box of that image in the reference. changed_labels: for
    each preset, the share of both sides' pseudo labels without a counterpart of the same name and such an IoU on the
    other; labels: how many the reference gives.
    """

    precision: str
    reference: str
    boxes: int
    same_boxes: float
    changed_labels: dict[str, float]
    labels: dict[str, int]


# -------------------------------------------------------------------------------------------------------------- inputs


def prepare(folder: Path, count: int, images: Path | None, *, tiny: bool, overrides: Sequence[str] = ()) -> Inputs:
    """Writes models, images and their COCO-format JSON into `folder`; models and images that are there are used again.

    Args:
        count: images in the JSON. Where there are fewer files, files stand in it several times.
        images: a folder of real JPEGs; generated ones by default.
        overrides: further `section.key=value` words for the job.

    Raises:
        UserError: `images` is no folder with JPEGs.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--work: {folder} is no folder")
    models = folder / ("tiny" if tiny else "full")
    if not (models / "clip.pt").is_file():
        print(f"writing {'tiny' if tiny else 'full-size'} models with seeded weights", file=sys.stderr, flush=True)
        (write_tiny_detector if tiny else write_full_detector)(models)
        (write_tiny_clip if tiny else write_full_clip)(models)
    root = images or folder / "images"
    files = sorted(images.glob("*.jpg"))[:count] if images else _generate(root, min(count, _DISTINCT_IMAGES))
    if not files:
        raise UserError(f"--images: no *.jpg in {images}")
    sizes = []
    for file in files:
        try:
            with Image.open(file) as image:
                sizes.append(image.size)
        except UnidentifiedImageError:
            raise UserError(f"--images: {file} is no image") from None
    annotations = folder / f"instances_{count}.json"
    rows = [
        {
            "id": number + 1,
            "file_name": files[number % len(files)].name,
            "width": sizes[number % len(files)][0],
            "height": sizes[number % len(files)][1],
        }
        for number in range(count)
    ]
    annotations.write_text(json.dumps({"images": rows, "annotations": [], "categories": []}))
    words = (
        f"data.annotations={annotations}",
        f"data.image_root={root}",
        f"detector.config={models / 'detector.yaml'}",
        f"detector.weights={models / 'detector.pth'}",
        f"clip.model={models / 'clip.pt'}",
    )
    return Inputs(folder, annotations, (*words, *overrides), len(files))


def _generate(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(count):
        file = folder / f"{number + 1:012d}.jpg"
        if not file.is_file():
            cv2.imwrite(str(file), generated_scene(number, *_COCO_SIZES[number % len(_COCO_SIZES)]))
        files.append(file)
    return files


def usable_precisions(precisions: Sequence[str], device: torch.device) -> tuple[list[str], list[str]]:
    """Those of `precisions` that `device` computes in, and for each of the others a line that says why not.

    A precision is fp32, bf16 or fp16, or two of them, `detector+CLIP`.
    """
    usable, refused = [], []
    for precision in precisions:
        words = precision.split("+")
        if len(words) > 2 or not set(words) <= set(DTYPES):
            raise UserError(f"--precisions: {precision!r} is not one of {', '.join(DTYPES)}, or two joined by +")
        if device.type == "cpu" and "fp16" in words:
            refused.append(f"{precision} left out: a CPU has no fast half precision")
        elif device.type == "cpu" and "bf16" in words and resolve_precision("auto", device) != "bf16":
            refused.append(f"{precision} left out: this CPU has no bfloat16 instructions")
        else:
            usable.append(precision)
    return usable, refused


# ------------------------------------------------------------------------------------------------------------ measuring


def measure_job(inputs: Inputs, precision: str, ranks: int, name: str) -> tuple[Measurement, RegionStore]:
    """Scores all images on `ranks` ranks, as torchrun with launch/score.py does; also the store that this made.

    Args:
        name: of the run's folder, which must be new.
    """
    detector, _, clip = precision.partition("+")
    output = inputs.folder / name
    words = (
        *inputs.overrides,
        f"run.output={output}",
        f"detector.precision={detector}",
        f"clip.precision={clip or detector}",
    )
    print(f"timing the job in {precision} on {ranks} rank{'s' if ranks > 1 else ''}", file=sys.stderr, flush=True)
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "--module"]
    # One thread a rank at the start too: run.threads says later what it may have.
    measured = _child(
        [*start, "plgen_ddp.benchmark.run", "job", output / "result.json", *words], {"OMP_NUM_THREADS": "1"}
    )
    return replace(measured, precision=precision), RegionStore(output / "store")


def measure_reference(inputs: Inputs, count: int, name: str) -> Measurement:
    """Runs the reference recipe on the first `count` images, with all of the machine's cores."""
    print(f"timing the reference on {count} images", file=sys.stderr, flush=True)
    output = inputs.folder / name
    words = (*inputs.overrides, f"run.output={output}", f"data.limit={count}")
    return _child(["-m", "plgen_ddp.benchmark.run", "reference", output / "result.json", *words], {})


def _child(words: Sequence[str | Path], environment: dict[str, str]) -> Measurement:
    result = next(Path(word) for word in words if str(word).endswith("result.json"))
    if result.exists():
        raise UserError(f"--work: {result.parent} holds an earlier run; choose another folder")
    result.parent.mkdir(parents=True)
    search = os.pathsep.join(filter(None, [str(_REPOSITORY), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *map(str, words)], env=os.environ | {"PYTHONPATH": search} | environment, check=False
    )
    if done.returncode:
        raise UserError(f"a timed run failed with exit status {done.returncode}; its message is above")
    return Measurement(**json.loads(result.read_text()))


def _config(words: Sequence[str]) -> Config:
    return load_config("coco_vlplm", words)


@dataclass(frozen=True)
class _RankResult:
    summary: RankSummary
    stages: dict[str, float]
    flops: dict[str, float]
    peak_flops: float
    crops: int
    warm_up_crops: int
    load_seconds: float
    warm_up_seconds: float
    end_memory: int


def _run_job_rank(config: Config, result: Path) -> None:
    """One rank of the job: launch/score.py's steps up to the complete store, with clocks."""
    with World.from_env() as world:
        start = time.perf_counter()
        dataset = world.from_main(lambda: read_dataset(config))
        weights = world.once_a_node(lambda: fetch(config))
        device = world.everywhere(lambda: prepare_device(config.run, world.local_rank))
        models = world.everywhere(lambda: load_models(config, weights, device))
        units = world.from_main(lambda: plan_work(config, dataset, models)).units
        own = units_of_rank(units, world.rank, world.size)
        loaded = time.perf_counter()

        first = units[0][: config.run.images_per_batch if device.type == "cuda" else 1]
        warm_up = replace(config, run=replace(config.run, output=str(result.parent / f"warm_up_{world.rank}")))
        store_of(warm_up).open_for_scoring(store_of(config).manifest())
        flops = _count_flops(lambda: score_units(warm_up, dataset.index, [first], models, lambda images: None))
        warm = time.perf_counter()
        peak = measured_peak(device, DTYPES[models.encoder.precision if device.type == "cpu" else "fp16"])

        world.gather(None)
        world.from_main(lambda: None)  # all start together
        with StageClock(device).running() as clock:
            summary = score_units(config, dataset.index, own, models, lambda images: None)
        stages = clock.seconds()
        world.gather(None)
        world.from_main(lambda: _check_scored(config))
        own_images = np.concatenate(own) if own else np.empty(0, np.int64)
        mine = _RankResult(
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
        result.write_text(json.dumps(asdict(_summed(config, ranks, device, len(first)))))


def _check_scored(config: Config) -> None:
    if failures := store_of(config).failures():
        image_id, stage, reason = failures[0]
        raise UserError(f"{len(failures)} images could not be scored, the first, {image_id}, in {stage}: {reason}")


def _summed(config: Config, ranks: Sequence[_RankResult], device: torch.device, warm_up_images: int) -> Measurement:
    images = sum(rank.summary.images for rank in ranks)
    seconds = max(rank.summary.seconds for rank in ranks)
    stages = {name: sum(rank.stages.get(name, 0.0) for rank in ranks) for name in (*STAGES, "wait")}
    first, crops = ranks[0], sum(rank.crops for rank in ranks)
    encoded = first.warm_up_crops
    if fills_clip_batches(config.clip, device):  # what that costs is no useful work
        batch_size = clip_batch_size(config.clip, device)
        encoded = -(-encoded // batch_size) * batch_size
    useful = {
        "detector": first.flops.get("detector", 0.0) / warm_up_images * images,
        "refine": first.flops.get("refine", 0.0) / warm_up_images * images,
        "CLIP": first.flops.get("CLIP", 0.0) / max(encoded, 1) * crops,
    }
    return Measurement(
        name="job",
        precision="",
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


def _run_reference(config: Config, result: Path) -> None:
    """The reference recipe, image by image, with the precision it is published in: CLIP in fp16 on CUDA, else fp32."""
    import clip
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    threads = available_cores()
    device = prepare_device(replace(config.run, threads=threads), 0)
    torch.backends.cudnn.allow_tf32 = True  # PyTorch's default, under which both projects run
    start = time.perf_counter()
    cfg = get_cfg()
    cfg.merge_from_file(config.detector.config, allow_unsafe=False)
    cfg.MODEL.DEVICE = str(device)
    detector = build_model(cfg).eval()
    DetectionCheckpointer(detector).load(config.detector.weights)
    clip_model, preprocess = clip.load(config.clip.model, device=device)
    images = index_images(
        CocoFile(given(config.data.annotations), "data.annotations").images(),
        given(config.data.image_root),
        Path(given(config.data.annotations)),
    ).first(config.data.limit)
    loaded = time.perf_counter()

    laps = _Laps(StageClock(device))
    laps.follow(detector, clip_model)
    boxes = 0

    def one_image(position: int) -> None:
        nonlocal boxes
        laps.begin()
        image_bgr = cv2.imread(str(images.path(position)))
        assert image_bgr is not None, "the benchmark wrote or checked its images"
        laps.end("decode")
        found = reference_regions(detector, cfg, clip_model, preprocess, image_bgr)
        boxes += len(found.boxes_xyxy)
        laps.end("crop")
        row = {"bbox": found.boxes_xyxy.tolist(), "objectness": found.objectness.tolist()}
        (result.parent / "proposals.json").write_text(json.dumps(row))
        laps.end("write")

    one_image(0)
    warm = time.perf_counter()
    boxes, laps.clock = 0, StageClock(device)
    for position in range(len(images)):
        one_image(position)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - warm
    stages = laps.clock.seconds()
    measured = Measurement(
        name="reference",
        precision="fp32+fp16" if device.type == "cuda" else "fp32",
        device=device.type,
        ranks=1,
        threads=threads,
        images=len(images),
        seconds=seconds,
        images_per_second=len(images) / seconds,
        stages_ms={name: 1000 * stages.get(name, 0.0) / len(images) for name in STAGES},
        waiting_ms=0.0,
        peak_shares={},
        peak_tflops=0.0,
        boxes_per_image=boxes / len(images),
        crops_per_image=2 * boxes / len(images),
        load_seconds=loaded - start,
        warm_up_seconds=warm - loaded,
        peak_memory=peak_memory(),
        end_memory=resident_memory(),
        peak_gpu_memory=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
    )
    result.write_text(json.dumps(asdict(measured)))


class _Laps:
    """Splits one image's time at the ends of the reference's own modules: all since the mark before is the stage's.

    Its copies to a GPU fall into detector and crop.
    """

    def __init__(self, clock: StageClock) -> None:
        self.clock = clock
        self._last = clock.mark()

    def begin(self) -> None:
        self._last = self.clock.mark()

    def end(self, stage: str) -> None:
        now = self.clock.mark()
        self.clock.add(stage, self._last, now)
        self._last = now

    def follow(self, detector: Any, clip_model: Any) -> None:
        detector.proposal_generator.register_forward_hook(lambda *_: self.end("detector"))
        detector.roi_heads.box_predictor.register_forward_hook(lambda *_: self.end("refine"))
        clip_model.visual.register_forward_pre_hook(lambda *_: self.end("crop"))
        clip_model.visual.register_forward_hook(lambda *_: self.end("CLIP"))


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """What one large matrix product in `dtype` reaches on `device`, the best of several: operations a second."""
    side, times = (8192, 20) if device.type == "cuda" else (2048, 5)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(times):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


class _FlopClock(StageClock):
    """Counts operations by stage where a `StageClock` counts seconds."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__(torch.device("cpu"))
        self._counter = counter

    def mark(self) -> float:
        return float(self._counter.get_total_flops())


def _count_flops(work: Callable[[], object]) -> dict[str, float]:
    """The operations of matrix products and convolutions in `work`, by stage; a multiply-add is two.

    torch does not count attention's own products on a CPU, a hundredth of ViT-B/32's.
    """
    with FlopCounterMode(display=False) as counter, _FlopClock(counter).running() as clock:
        work()
    return clock.seconds()


def _count_crops(config: Config, index: ImageIndex, positions: np.ndarray) -> int:
    """How many different crop windows the embedded boxes of these images have."""
    sizes = {
        image_id: extent
        for image_id, *extent in zip(
            index.image_ids[positions].tolist(),
            index.heights[positions].tolist(),
            index.widths[positions].tolist(),
            strict=True,
        )
    }
    store = store_of(config)
    crops = 0
    for path in store.part_paths():
        for image in store.read_part(path):
            if image.image_id in sizes and len(image.boxes_xyxy):
                embedded = image.boxes_xyxy
                scales = [windows_of(embedded, scale, *sizes[image.image_id]) for scale in config.clip.crop_scales]
                crops += len(np.unique(np.concatenate(scales), axis=0))
    return crops


def resident_memory() -> int:
    """Bytes of this process in memory now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


# ------------------------------------------------------------------------------------------------------------ agreement


def compare_stores(inputs: Inputs, stores: dict[str, RegionStore], reference: str) -> list[Agreement]:
    """Each store's regions and pseudo labels, for both presets' names and thresholds, against those of `reference`.

    Args:
        stores: by precision, of the same images.
    """
    regions = {precision: _regions(store) for precision, store in stores.items()}
    labels = {precision: dict(_labels(inputs, store)) for precision, store in stores.items()}
    expected = regions[reference]
    return [
        Agreement(
            precision=precision,
            reference=reference,
            boxes=sum(map(len, found.values())),
            same_boxes=same_boxes(found, expected),
            changed_labels={name: changed_labels(labels[precision][name], labels[reference][name]) for name in PRESETS},
            labels={name: len(labels[reference][name]) for name in PRESETS},
        )
        for precision, found in regions.items()
        if precision != reference
    ]


def same_boxes(found: dict[int, Tensor], expected: dict[int, Tensor]) -> float:
    """The share of boxes xyxy (n, 4), by image, that have an IoU above 0.95 with an expected one of that image."""
    same = sum(
        int((box_iou(boxes, expected[image_id]).amax(dim=1) > _SAME_BOX_IOU).sum())
        for image_id, boxes in found.items()
        if len(boxes) and len(expected[image_id])
    )
    return same / max(1, sum(map(len, found.values())))


def changed_labels(found: PseudoLabels, expected: PseudoLabels) -> float:
    """The share of both sides' pseudo labels without one of the same image, name and, by IoU above 0.95, box."""
    matched = 0
    for image_id in np.intersect1d(found.image_ids, expected.image_ids):
        sides = []
        for labels in (found, expected):
            own = labels.image_ids == image_id
            low, size = np.split(labels.boxes_xywh[own], 2, axis=1)
            sides.append((labels.category_ids[own], torch.from_numpy(np.concatenate([low, low + size], axis=1))))
        (names, boxes), (other_names, other_boxes) = sides
        same = torch.from_numpy(names[:, None] == other_names) & (box_iou(boxes, other_boxes) > _SAME_BOX_IOU)
        matched += int(same.any(dim=1).sum()) + int(same.any(dim=0).sum())
    count = len(found) + len(expected)
    return 1 - matched / count if count else 0.0


def _regions(store: RegionStore) -> dict[int, Tensor]:
    return {
        image.image_id: torch.from_numpy(image.boxes_xyxy.copy())
        for path in store.part_paths()
        for image in store.read_part(path)
    }


def _preset(name: str, overrides: Sequence[str]) -> Config:
    return load_config(f"coco_{name}", overrides)


def _labels(inputs: Inputs, store: RegionStore) -> Iterator[tuple[str, PseudoLabels]]:
    images = [image for path in store.part_paths() for image in store.read_part(path) if image.failure is None]
    manifest = store.manifest()
    for preset in PRESETS:
        config = _preset(preset, inputs.overrides)
        vocabulary = read_vocabulary(config)
        cache = TextEmbeddings(inputs.folder / "vocabulary", read_templates(config), manifest.dim)

        def text_encoder(options: ClipConfig = config.clip) -> Callable[[Sequence[str]], Tensor]:
            return load_encoder(options, Path(options.model), torch.device("cpu"), "fp32").encode_texts

        texts = cache.embed(vocabulary.words(), text_encoder)[: len(vocabulary.novel)]
        ids = np.arange(len(vocabulary.novel))
        labels = [label_image(image, texts, ids, manifest.similarity, config.label) for image in images]
        yield preset, PseudoLabels.concatenate(labels)


# ----------------------------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True)
class Options:
    """What to measure. overrides: `section.key=value` words for the job.

    ranks: None is one a core on a CPU, and one on CUDA: both sides then have the whole CPU, or one GPU. scaling:
    numbers of ranks. growth: factors of `images`. Both run in the last of the precisions.
    """

    work: Path
    images: int = 8
    reference_images: int = 8
    images_folder: Path | None = None
    precisions: tuple[str, ...] = ("fp32", "bf16", "fp16")
    ranks: int | None = None
    scaling: tuple[int, ...] = ()
    growth: tuple[int, ...] = ()
    agreement: bool = False
    tiny: bool = False
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What was measured; notes: what a reader of the figures must know."""

    hardware: str
    notes: tuple[str, ...]
    runs: tuple[Measurement, ...]
    scaling: tuple[Measurement, ...]
    growth: tuple[Measurement, ...]
    agreement: tuple[Agreement, ...]

    def markdown(self) -> str:
        tables = [runs_table(self.runs)]
        tables += [scaling_table(self.scaling)] if self.scaling else []
        tables += [growth_table(self.growth)] if self.growth else []
        tables += [agreement_table(self.agreement)] if self.agreement else []
        return "\n\n".join(["\n".join([self.hardware, *self.notes]), *tables])


def run(options: Options) -> Report:
    """Measures one after the other, so that nothing timed shares the machine.

    Raises:
        UserError: an option that makes no sense here, or a measurement that failed.
    """
    on_cpu = "run.device=cpu" in options.overrides or not torch.cuda.is_available()
    device = torch.device("cpu" if on_cpu else "cuda")
    places = available_cores() if on_cpu else torch.cuda.device_count()
    precisions, refused = usable_precisions(options.precisions, device)
    if not precisions:
        raise UserError(f"--precisions: {'; '.join(refused)}")
    if options.agreement:
        if len(precisions) < 2:
            raise UserError(
                "--agreement compares precisions with the first one; give two or more that this machine has"
            )
        for preset in PRESETS:  # what is wrong with the names must show now
            read_vocabulary(_preset(preset, options.overrides))
    _config(options.overrides)  # what is wrong with them must show now
    inputs = prepare(
        options.work, options.images, options.images_folder, tiny=options.tiny, overrides=options.overrides
    )
    reference_images = min(options.images, options.reference_images)
    notes = [f"reference: the first {reference_images} of the {options.images} images", *refused]
    if inputs.distinct_images < options.images:
        notes.append(f"images: {inputs.distinct_images} files, in turn")

    ranks = options.ranks or (places if on_cpu else 1)
    runs = [measure_reference(inputs, reference_images, "reference")]
    stores = {}
    for precision in precisions:
        measured, stores[precision] = measure_job(inputs, precision, ranks, f"job-{precision}")
        runs.append(measured)
    last = precisions[-1]
    scaling = []
    for size in options.scaling:
        if size > places:
            notes.append(f"{size} ranks left out: {places} {'cores' if on_cpu else 'GPUs'} here")
        else:
            scaling.append(measure_job(inputs, last, size, f"scaling-{size}")[0])
    growth = []
    for factor in options.growth:
        larger = prepare(
            options.work, factor * options.images, options.images_folder, tiny=options.tiny, overrides=options.overrides
        )
        growth.append(measure_job(larger, last, ranks, f"growth-{factor}")[0])
    agreement = compare_stores(inputs, stores, precisions[0]) if options.agreement else []
    return Report(hardware(), tuple(notes), tuple(runs), tuple(scaling), tuple(growth), tuple(agreement))


# --------------------------------------------------------------------------------------------------------------- tables


def hardware() -> str:
    """What the figures were taken on, in a line: processor, cores, instructions, GPU, torch, commit."""
    processor, flags = platform.processor() or platform.machine(), ""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        fields = dict(
            line.split(":", 1) for line in information.read_text().split("\n\n")[0].splitlines() if ":" in line
        )
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        processor = fields.get("model name", processor)
        wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")
        flags = ", ".join(flag for flag in wanted if flag in fields.get("flags", "").split())
    words = [f"{os.cpu_count()} cores of {processor}" + (f" ({flags})" if flags else "")]
    if torch.cuda.is_available():
        words.append(f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}")
    words.append(f"torch {torch.__version__}, Python {platform.python_version()}")
    if commit := _commit():
        words.append(f"commit {commit}")
    return "; ".join(words)


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(_REPOSITORY), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "--short", "HEAD")
        return commit + (" with changes" if commit and git("status", "--porcelain", "--untracked-files=no") else "")
    except OSError:  # no git here
        return ""


def runs_table(runs: Sequence[Measurement]) -> str:
    """A Markdown table, a row a run; the ratio is against the first row's images a second."""
    columns: dict[str, Callable[[Measurement], str]] = {
        "run": lambda run: run.name,
        "precision": lambda run: run.precision,
        "ranks x threads": lambda run: f"{run.ranks} x {run.threads}",
        "images": lambda run: f"{run.images}",
        "images/s": lambda run: f"{run.images_per_second:.3g}",
        "ratio": lambda run: f"{run.images_per_second / runs[0].images_per_second:.2f}",
    }
    for name in STAGES:
        columns[f"{name} ms"] = lambda run, name=name: _stage_cell(run, name)  # type: ignore[misc]
    columns |= {
        "waiting ms": lambda run: f"{run.waiting_ms:.1f}",
        "boxes": lambda run: f"{run.boxes_per_image:.0f}",
        "crops": lambda run: f"{run.crops_per_image:.0f}",
        "load s": lambda run: f"{run.load_seconds:.1f}",
        "warm-up s": lambda run: f"{run.warm_up_seconds:.1f}",
        "memory GB": lambda run: f"{run.peak_memory / 1e9:.2f}",
    }
    if any(run.device == "cuda" for run in runs):
        columns["GPU GB"] = lambda run: f"{run.peak_gpu_memory / 1e9:.1f}"
    return _markdown(columns, runs)


def _stage_cell(run: Measurement, name: str) -> str:
    share = f" ({run.peak_shares[name]:.0%})" if name in run.peak_shares else ""
    return f"{run.stages_ms[name]:.1f}{share}"


def scaling_table(runs: Sequence[Measurement]) -> str:
    """The same work on several numbers of ranks, against the first."""
    return _markdown(
        {
            "ranks": lambda run: f"{run.ranks}",
            "images": lambda run: f"{run.images}",
            "seconds": lambda run: f"{run.seconds:.1f}",
            "images/s": lambda run: f"{run.images_per_second:.3g}",
            "ratio": lambda run: f"{run.images_per_second / runs[0].images_per_second:.2f}",
            "memory of a rank GB": lambda run: f"{run.peak_memory / 1e9:.3f}",
        },
        runs,
    )


def growth_table(runs: Sequence[Measurement]) -> str:
    """The same job on more and more images, against the first."""
    return _markdown(
        {
            "images": lambda run: f"{run.images}",
            "seconds": lambda run: f"{run.seconds:.1f}",
            "ratio": lambda run: f"{run.seconds / runs[0].seconds:.2f}",
            "memory of a rank GB": lambda run: f"{run.peak_memory / 1e9:.3f}",
            "memory at the end GB": lambda run: f"{run.end_memory / 1e9:.3f}",
        },
        runs,
    )


def agreement_table(agreements: Sequence[Agreement]) -> str:
    """Each precision against the first."""
    columns: dict[str, Callable[[Agreement], str]] = {
        "precision": lambda found: found.precision,
        "against": lambda found: found.reference,
        "boxes": lambda found: f"{found.boxes}",
        "with IoU above 0.95": lambda found: f"{found.same_boxes:.2%}",
    }
    for name in PRESETS:
        columns[f"PLs changed, {name}"] = lambda found, name=name: (  # type: ignore[misc]
            f"{found.changed_labels[name]:.2%} (of {found.labels[name]})"
        )
    return _markdown(columns, agreements)


def _markdown(columns: Mapping[str, Callable[[T], str]], things: Sequence[T]) -> str:
    """A row a thing; a column a heading, with what gives a thing's cell."""
    rows = [[cell(thing) for cell in columns.values()] for thing in things]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(columns), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])


def main(words: Sequence[str]) -> None:
    """One timed process: `job` or `reference`, the file for its `Measurement`, and `load_config`'s words."""
    kind, result, *overrides = words
    with one_line_errors():
        {"job": _run_job_rank, "reference": _run_reference}[kind](_config(overrides), Path(result))


if __name__ == "__main__":
    main(sys.argv[1:])
