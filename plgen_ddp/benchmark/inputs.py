"""The files that all runs of one benchmark share: seeded models, images, and their COCO-format JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
from PIL import Image, UnidentifiedImageError

from plgen_ddp.benchmark.seeded_models import (
    generated_scene,
    write_full_clip,
    write_full_detector,
    write_tiny_clip,
    write_tiny_detector,
)
from plgen_ddp.config import Config, load_config
from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError
from plgen_ddp.image_rules import DEFAULT_RULES
from plgen_ddp.options import Required
from plgen_ddp.safe_reading import open_image

# (height, width): COCO's most frequent sizes, each about as often as there.
_COCO_SIZES = (
    (480, 640), (427, 640), (640, 480), (480, 640), (375, 500),
    (427, 640), (480, 640), (640, 427), (480, 640), (426, 640),
)  # fmt: skip
# Where more images are wanted, generated files come again under new ids: decoding them costs the same.
_DISTINCT_IMAGES = 256


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a timed run needs.

    Attributes:
        folder: holds the inputs and receives the runs.
        images: rows of the JSON.
        distinct_images: image files behind these rows; fewer where a file is used several times.
        overrides: `section.key=value` words that name the inputs, then the user's own.
    """

    folder: Path
    images: int
    distinct_images: int
    overrides: tuple[str, ...]


def prepare(folder: Path, count: int, images: Path | None, *, tiny: bool, overrides: Sequence[str] = ()) -> Inputs:
    """Writes models, images and their JSON into `folder`. Models and images that are already there are used again.

    Args:
        count: images in the JSON. Where there are fewer files, files are used several times.
        images: a folder of real JPEGs; None generates images in COCO's sizes.
        tiny: the tiny models instead of R50-FPN and ViT-B/32.
        overrides: further `section.key=value` words for the job.

    Raises:
        UserError: `folder` is a file, or `images` is no folder with JPEGs.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--work: {folder} is a file; choose a folder")
    root = images or folder / "images"
    files = sorted(images.glob("*.jpg"))[:count] if images else _generate(root, min(count, _DISTINCT_IMAGES))
    if not files:
        raise UserError(f"--images: no *.jpg in {images}")
    sizes = [_size(file) for file in files]
    rows = []
    for number in range(count):
        width, height = sizes[number % len(files)]
        rows.append({"id": number + 1, "file_name": files[number % len(files)].name, "width": width, "height": height})
    folder.mkdir(parents=True, exist_ok=True)
    annotations = folder / f"instances_{count}.json"
    annotations.write_text(json.dumps({"images": rows, "annotations": [], "categories": []}))
    models = _models(folder, tiny=tiny)
    words = (
        f"data.annotations={annotations}",
        f"data.image_root={root}",
        f"detector.config={models / 'detector.yaml'}",
        f"detector.weights={models / 'detector.pth'}",
        f"clip.model={models / 'clip.pt'}",
    )
    return Inputs(folder, count, len(files), (*words, *overrides))


def preset(name: str, overrides: Sequence[str], required: Required = ()) -> Config:
    """The packaged configuration for COCO of this name ("vlplm", "marvelovd"), changed by the words.

    Raises:
        UserError: a word that is no option, or a required key without a value.
    """
    return load_config(f"coco_{name}", overrides, required)


def _models(folder: Path, *, tiny: bool) -> Path:
    models = folder / ("tiny" if tiny else "full")
    if not (models / "clip.pt").is_file():
        print_line(f"writing {'tiny' if tiny else 'full-size'} models with seeded weights", error=True)
        (write_tiny_detector if tiny else write_full_detector)(models)
        (write_tiny_clip if tiny else write_full_clip)(models)
    return models


def _generate(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(count):
        file = folder / f"{number + 1:012d}.jpg"
        if not file.is_file():
            cv2.imwrite(str(file), generated_scene(number, *_COCO_SIZES[number % len(_COCO_SIZES)]))
        files.append(file)
    return files


def _size(file: Path) -> tuple[int, int]:
    """(width, height) of an image file, pixels."""
    try:
        with open_image(file, file.parent, DEFAULT_RULES) as opened, Image.open(opened) as image:
            return image.size
    except UnidentifiedImageError:
        raise UserError(f"--images: {file} is no image") from None
    except OSError as error:
        raise UserError(f"--images: cannot read {file}: {error.strerror}") from None
