"""The timed reference recipe: one image after the other in one process, as VL-PLM and MarvelOVD run it.

    python -m plgen_ddp.benchmark.timed_reference RESULT.json [section.key=value ...]

The precision is the published one: CLIP in fp16 on CUDA, otherwise fp32. Before the clock starts, it scores a first
image.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import torch
from PIL import Image
from torch import Tensor

from plgen_ddp.benchmark.inputs import preset
from plgen_ddp.benchmark.measurement import STAGES, Measurement, resident_memory
from plgen_ddp.benchmark.reference_recipe import reference_regions
from plgen_ddp.coco import CocoFile
from plgen_ddp.config import Config
from plgen_ddp.console import one_line_errors
from plgen_ddp.device import peak_gpu_memory, peak_memory, prepare_device
from plgen_ddp.encoders.clip_weights import read_clip_weights
from plgen_ddp.encoders.openai_clip import find_clip, published_digests
from plgen_ddp.image_files import ImageIndex, index_images
from plgen_ddp.options import given
from plgen_ddp.processor import available_cores
from plgen_ddp.score.detector_weights import load_detector_weights, read_detector_weights
from plgen_ddp.score.job import scoring_requires
from plgen_ddp.score.timing import StageClock


def main(words: Sequence[str]) -> None:
    """Takes the path of the result and the words for the configuration."""
    result, *overrides = words
    with one_line_errors():
        time_reference(preset("vlplm", overrides, scoring_requires), Path(result))


def time_reference(config: Config, result: Path) -> None:
    """Scores the images of `config` and writes the `Measurement` to `result`."""
    threads = available_cores()
    device = prepare_device(replace(config.run, threads=threads), 0)
    torch.backends.cudnn.allow_tf32 = True  # PyTorch's default, under which both projects run
    start = time.perf_counter()
    recipe = _Recipe(config, device)
    images = _images(config)
    loaded = time.perf_counter()

    recipe.score(images.path(0), result.parent)
    warm = time.perf_counter()
    recipe.laps.clock = StageClock(device)
    boxes = sum(recipe.score(images.path(position), result.parent) for position in range(len(images)))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - warm
    stages = recipe.laps.clock.seconds()
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
        peak_gpu_memory=peak_gpu_memory(device),
    )
    result.write_text(json.dumps(asdict(measured)))


def _images(config: Config) -> ImageIndex:
    annotations = Path(given(config.data.annotations))
    images = CocoFile(annotations, "data.annotations").images()
    root, links = given(config.data.image_root), config.data.follow_links
    return index_images(images, root, annotations, follow_links=links).first(config.data.limit)


class _Recipe:
    """Both models as their own libraries load them, and the recipe's stage 1 of an image with the clock running."""

    def __init__(self, config: Config, device: torch.device) -> None:
        import clip
        from detectron2.config import get_cfg
        from detectron2.modeling import build_model

        self._cfg = get_cfg()
        self._cfg.merge_from_file(config.detector.config, allow_unsafe=False)
        self._cfg.MODEL.DEVICE = str(device)
        self._detector = build_model(self._cfg).eval()
        weights = Path(given(config.detector.weights))
        load_detector_weights(self._detector, read_detector_weights(weights)[0], weights)
        self._clip: Any
        self._preprocess: Callable[[Image.Image], Tensor]
        read = read_clip_weights(find_clip(config.clip), published_digests(), config.clip.allow_torchscript)
        self._clip = clip.model.build_model(read.state).to(device)
        if device.type == "cpu":
            self._clip.float()  # as clip.load does
        self._preprocess = clip.clip._transform(self._clip.visual.input_resolution)
        self.laps = _Laps(StageClock(device))
        self.laps.follow(self._detector, self._clip)

    def score(self, path: Path, output: Path) -> int:
        """Scores one image, writes its boxes as JSON into `output`, and returns how many there are."""
        self.laps.begin()
        image_bgr = cv2.imread(str(path))
        assert image_bgr is not None, "the benchmark wrote or checked its images"
        self.laps.end("decode")
        found = reference_regions(self._detector, self._cfg, self._clip, self._preprocess, image_bgr)
        self.laps.end("crop")
        row = {"bbox": found.boxes_xyxy.tolist(), "objectness": found.objectness.tolist()}
        (output / "proposals.json").write_text(json.dumps(row))
        self.laps.end("write")
        return len(found.boxes_xyxy)


class _Laps:
    """Splits the time of an image at the ends of the reference's own modules.

    The time since the mark before belongs to the stage that ends. Copies to a GPU fall into detector and crop.
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


if __name__ == "__main__":
    main(sys.argv[1:])
