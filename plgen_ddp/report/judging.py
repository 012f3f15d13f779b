"""The labels of a file beside the novel objects of a ground truth, image by image."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plgen_ddp.boxes import ious, match_one_to_one
from plgen_ddp.coco_boxes import BoxRow, boxes_by_image, read_box_file, read_ground_truth
from plgen_ddp.errors import UserError
from plgen_ddp.label_quality import NO_BOXES, RIGHT_IOU, ImageBoxes


@dataclass(frozen=True, slots=True)
class NovelObjects:
    """The objects of the novel names in a ground truth, crowds left out.

    Attributes:
        path: the file.
        names: the novel names; labels and objects index them.
        of_image: the objects of each image that has any.
    """

    path: Path
    names: tuple[str, ...]
    of_image: dict[int, ImageBoxes]


@dataclass(frozen=True, slots=True)
class JudgedImage:
    """One image: its labels by falling score, and the objects of novel names."""

    image_id: int
    labels: ImageBoxes
    novel: ImageBoxes

    @property
    def right(self) -> np.ndarray:
        """Which labels are right, bool (n,): on an object of their name that no better label found."""
        overlap = ious(self.labels.boxes_xyxy, self.novel.boxes_xyxy)
        return match_one_to_one(overlap, self.labels.names[:, None] == self.novel.names[None, :], RIGHT_IOU)


def read_novel_objects(path: Path, novel: Iterable[str]) -> NovelObjects:
    """The objects of these names in a COCO-format JSON.

    Raises:
        UserError: unreadable, pseudo labels, a name without a category, or no object of a novel name.
    """
    real, names = read_ground_truth(path), tuple(novel)
    name_of = dict(zip(real.category_ids(names, path), names, strict=True))
    of_image = _by_image((box for box in real.annotations if not box.iscrowd), name_of, names)
    if not of_image:
        raise UserError(
            f"{path} has no annotation, or only crowds, of {', '.join(names[:5])}; --ground-truth takes a JSON with "
            "some, and --stand-ins compares on base names instead"
        )
    return NovelObjects(path, names, of_image)


def judge_images(labels: Path, objects: NovelObjects, image_ids: Iterable[int]) -> list[JudgedImage]:
    """The labels of these images in a labelled JSON, beside their objects.

    Raises:
        UserError: the JSON is unreadable.
    """
    made = read_box_file(labels, "labels")
    rows = sorted(made.pseudo_labels(), key=lambda row: -(row.confidence or 0))
    found = _by_image(rows, {category.id: category.name for category in made.categories}, objects.names)
    return [
        JudgedImage(image_id, found.get(image_id, NO_BOXES), objects.of_image.get(image_id, NO_BOXES))
        for image_id in image_ids
    ]


def _by_image(rows: Iterable[BoxRow], name_of: dict[int, str], names: tuple[str, ...]) -> dict[int, ImageBoxes]:
    """The boxes of the named categories by image; a box's name is its place in `names`."""
    place_of = {name: place for place, name in enumerate(names)}
    places = {category_id: place_of[name] for category_id, name in name_of.items() if name in place_of}
    return boxes_by_image((row for row in rows if row.category_id in places), places)
