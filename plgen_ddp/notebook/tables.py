"""What a notebook shows, as Arrow tables. Every box is four columns: x, y, width and height, original pixels."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from plgen_ddp.coco import Image
from plgen_ddp.errors import UserError
from plgen_ddp.notebook.search import FoundBoxes
from plgen_ddp.records import EVIDENCE, PseudoLabels, Regions

if TYPE_CHECKING:
    from pandas import DataFrame

_SIDES = ("x", "y", "width", "height")
# A file name is stored once, not once a box: a train2017 has twelve million boxes.
_FILE_NAME = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class ImageList:
    """What the JSON says about images, in columns.

    Attributes:
        image_ids: int64 (n,), ascending.
        file_names: string (n,). widths, heights: int64 (n,), pixels.
    """

    image_ids: np.ndarray
    file_names: pa.Array
    widths: pa.Array
    heights: pa.Array

    @classmethod
    def of(cls, images: Sequence[Image]) -> "ImageList":
        """Of images in ascending id; none at all where the JSON is not at hand."""
        return cls(
            np.array([image.id for image in images], np.int64),
            pa.array([image.file_name for image in images], pa.string()),
            pa.array([image.width for image in images], pa.int64()),
            pa.array([image.height for image in images], pa.int64()),
        )

    def rows(self, image_ids: np.ndarray) -> pa.Array:
        """Where each of some ids, int64 (m,), is in the list: int32 (m,), null where it is not."""
        if not len(self.image_ids):
            return pa.nulls(len(image_ids), pa.int32())
        place = np.searchsorted(self.image_ids, image_ids).clip(max=len(self.image_ids) - 1)
        return pa.array(place, pa.int32(), mask=self.image_ids[place] != image_ids)


def image_table(image_ids: np.ndarray, boxes: np.ndarray, failures: Mapping[int, str], known: ImageList) -> pa.Table:
    """A row an image: image_id, file_name, width, height, boxes, failure.

    Args:
        image_ids: int64 (n,). boxes: int64 (n,), how many each has.
        failures: why an image could not be scored, by its id.
    """
    rows = known.rows(image_ids)
    return pa.table(
        {
            "image_id": image_ids,
            "file_name": known.file_names.take(rows),
            "width": known.widths.take(rows),
            "height": known.heights.take(rows),
            "boxes": boxes,
            "failure": pa.array([failures.get(image_id) for image_id in image_ids.tolist()], pa.string()),
        }
    )


def region_table(images: Sequence[Regions], known: ImageList, names: Sequence[str] | None) -> pa.Table:
    """A row a box: image_id, file_name, box (its place in the image), the four sides, and what stage 1 knows about it.

    Args:
        names: of imported scores, which have `top_name` and `top_score` in the place of evidence.
    """
    counts = [len(image.objectness) for image in images]
    image_ids = np.repeat(np.array([image.image_id for image in images], np.int64), counts)
    corners = np.concatenate([np.empty((0, 4)), *(image.boxes_xyxy for image in images)], dtype=np.float64)
    columns = {
        "image_id": image_ids,
        "file_name": pa.DictionaryArray.from_arrays(known.rows(image_ids), known.file_names),
        "box": np.concatenate([np.empty(0, np.int32), *(np.arange(count, dtype=np.int32) for count in counts)]),
        **_sides(corners),
        "objectness": _column(images, "objectness", np.float32 if names is None else np.float64),
    }
    if names is None:
        columns |= {name: _column(images, name, np.float32) for name in EVIDENCE}
    else:
        columns["top_name"] = pa.array(list(names), pa.string()).take(_column(images, "top_name", np.int32))
        columns["top_score"] = _column(images, "top_score", np.float64)
    return pa.table(columns)


def ascending(table: pa.Table) -> pa.Table:
    """The rows by rising image id; the order within an image stays."""
    order = np.argsort(table.column("image_id").to_numpy(), kind="stable")
    return table.take(order).combine_chunks()


def found_table(found: FoundBoxes, known: ImageList) -> pa.Table:
    """A row a box by falling cosine: image_id, file_name, box, the four sides, cosine, objectness."""
    return pa.table(
        {
            "image_id": found.image_ids,
            "file_name": known.file_names.take(known.rows(found.image_ids)),
            "box": found.places,
            **_sides(found.boxes_xyxy),
            "cosine": found.cosines,
            "objectness": found.objectness,
        }
    )


def label_table(labels: PseudoLabels, known: ImageList, names: Mapping[int, str]) -> pa.Table:
    """A row a pseudo label: the columns that launch/export.py writes, but for the id.

    Args:
        names: of the categories, by id.
    """
    return pa.table(
        {
            "image_id": labels.image_ids,
            "file_name": known.file_names.take(known.rows(labels.image_ids)),
            "category_id": labels.category_ids,
            "name": pa.array([names[category_id] for category_id in labels.category_ids.tolist()], pa.string()),
            **{side: labels.boxes_xywh[:, place] for place, side in enumerate(_SIDES)},
            "score": labels.scores,
            "clip_score": labels.clip_scores,
            "rpn_score": labels.objectness,
            "box_score": labels.box_scores,
        }
    )


def to_frame(table: pa.Table) -> "DataFrame":
    """The table as a pandas frame.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        importlib.import_module("pandas")
    except ImportError:
        raise UserError(
            "pandas is not installed; pip install 'plgen_ddp[notebook]' adds it (to_arrow() and regions() need none)"
        ) from None
    return table.to_pandas()


def _sides(corners: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of boxes xyxy (n, 4), float64: width and height are then exactly those of labels."""
    sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    return {side: np.ascontiguousarray(sides[:, place]) for place, side in enumerate(_SIDES)}


def _column(images: Sequence[Regions], name: str, kind: type[np.generic]) -> pa.Array:
    """A value of every box; null in images whose boxes have none."""
    values = [getattr(image, name) for image in images]
    counts = [len(image.objectness) for image in images]
    flat = [np.empty(0, kind)]
    flat += [np.zeros(count, kind) if own is None else own for own, count in zip(values, counts, strict=True)]
    missing = np.repeat(np.array([own is None for own in values], bool), counts)
    return pa.array(np.concatenate(flat, dtype=kind), mask=missing)
