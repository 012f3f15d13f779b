"""The labels of a file beside the objects of a ground truth, image by image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from plgen_ddp.boxes import ious, match_one_to_one
from plgen_ddp.coco import Category, CocoFile, read_json
from plgen_ddp.errors import UserError, suggestion
from plgen_ddp.label.base_annotations import BaseBoxes, read_base_boxes
from plgen_ddp.label_quality import RIGHT_IOU, ImageBoxes


class _Label(msgspec.Struct):
    """What is read of an annotation; `confidence` marks a pseudo label."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    confidence: float | None = None


class _Image(msgspec.Struct):
    id: int


class LabelFile(msgspec.Struct):
    """What is read of a labelled JSON."""

    images: list[_Image]
    categories: list[Category]
    annotations: list[_Label]
    info: dict[str, Any]

    @property
    def threshold(self) -> float:
        """The score threshold that it was made with."""
        return float(self.info["plgen_ddp"]["label"]["score_threshold"])


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of a ground truth, crowds left out.

    Attributes:
        path: the file.
        image_ids: of all its images.
        names: the novel names; labels and novel objects index them.
        novel, base: the objects; a base object's index is its place in the base names, which nothing asks for.
    """

    path: Path
    image_ids: frozenset[int]
    names: tuple[str, ...]
    novel: BaseBoxes
    base: BaseBoxes


@dataclass(frozen=True, slots=True)
class JudgedImage:
    """One image: its labels by falling score, the objects of novel names and those of base names."""

    image_id: int
    labels: ImageBoxes
    novel: ImageBoxes
    base: ImageBoxes

    @property
    def right(self) -> np.ndarray:
        """Which labels are right, bool (n,): on an object of their name that no better label found."""
        overlap = ious(self.labels.boxes_xyxy, self.novel.boxes_xyxy)
        return match_one_to_one(overlap, self.labels.names[:, None] == self.novel.names[None, :], RIGHT_IOU)


def read_objects(path: Path, novel: Sequence[str], base: Sequence[str]) -> Objects:
    """The objects of these names in a COCO-format JSON.

    Raises:
        UserError: unreadable, a name without a category, or no object of a novel name.
    """
    coco = CocoFile(path, "--ground-truth")
    id_of = {category.name: category.id for category in coco.categories()}
    for name in novel:
        if name not in id_of:
            raise UserError(f"--ground-truth: {path} has no category {name!r}{suggestion(name, id_of)}")
    found = read_base_boxes(coco, [id_of[name] for name in novel])
    if not len(found.names):
        raise UserError(
            f"{path} has no annotation, or only crowds, of {', '.join(novel[:5])}; --ground-truth takes a JSON with "
            "some, and --stand-ins compares on base names instead"
        )
    others = read_base_boxes(coco, [id_of[name] for name in base if name in id_of])
    return Objects(path, frozenset(image.id for image in coco.images()), tuple(novel), found, others)


def read_labels(path: Path) -> LabelFile:
    """The labelled JSON that `label_store` has written."""
    return msgspec.json.decode(read_json(path), type=LabelFile)


def judged_images(made: LabelFile, objects: Objects) -> Iterator[JudgedImage]:
    """The images that a labelled file and the ground truth share, in ascending id."""
    place = {name: index for index, name in enumerate(objects.names)}
    name_of = {category.id: place[category.name] for category in made.categories if category.name in place}
    rows = [row for row in made.annotations if row.confidence is not None and row.category_id in name_of]
    rows.sort(key=lambda row: (row.image_id, -(row.confidence or 0)))
    ids = np.array([row.image_id for row in rows], np.int64)
    corners = np.array([row.bbox for row in rows], np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    names = np.array([name_of[row.category_id] for row in rows], np.int64)
    scores = np.array([row.confidence for row in rows], np.float64)
    for image_id in sorted(objects.image_ids.intersection(image.id for image in made.images)):
        own = slice(*np.searchsorted(ids, [image_id, image_id + 1]))
        yield JudgedImage(
            image_id,
            ImageBoxes(corners[own], names[own], scores[own]),
            _of_image(objects.novel, image_id),
            _of_image(objects.base, image_id),
        )


def _of_image(boxes: BaseBoxes, image_id: int) -> ImageBoxes:
    corners, names = boxes.of_image(image_id)
    return ImageBoxes(corners, names, np.ones(len(names)))
