"""The base annotations of the JSON that is labelled, as boxes by image. Novel annotations are never decoded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plgen_ddp.boxes import corners
from plgen_ddp.coco import CocoFile


@dataclass(frozen=True, slots=True)
class BaseBoxes:
    """Base annotations without crowds, sorted by image.

    Attributes:
        image_ids: int64 (n,), ascending.
        boxes_xyxy: float64 (n, 4), original pixels.
        names: int64 (n,), index into the base names.
    """

    image_ids: np.ndarray
    boxes_xyxy: np.ndarray
    names: np.ndarray

    def of_image(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """(boxes float64 (m, 4), names int64 (m,)) of an image."""
        start, end = np.searchsorted(self.image_ids, [image_id, image_id + 1])
        return self.boxes_xyxy[start:end], self.names[start:end]


def read_base_boxes(coco: CocoFile, base_ids: Sequence[int]) -> BaseBoxes:
    """The annotations of these categories; a category's place in `base_ids` is the name's index."""
    place = {category_id: index for index, category_id in enumerate(base_ids)}
    rows = [row for row in coco.boxes(set(place)) if not row.iscrowd]
    image_ids = np.array([row.image_id for row in rows], np.int64)
    boxes = np.array([row.bbox for row in rows], np.float64).reshape(-1, 4)
    names = np.array([place[row.category_id] for row in rows], np.int64)
    order = np.argsort(image_ids, kind="stable")
    return BaseBoxes(image_ids[order], corners(boxes)[order], names[order])
