"""What evaluation and exports read of a COCO-format JSON, labelled or not: images, categories, boxes; no polygons."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np

from plgen_ddp.boxes import corners
from plgen_ddp.coco import Category, read_json
from plgen_ddp.errors import UserError, suggestion
from plgen_ddp.json_text import UNREADABLE
from plgen_ddp.label_quality import ImageBoxes


class ImageRow(msgspec.Struct):
    """An entry of `images`; sizes are in pixels. Only the id is certain to be there."""

    id: int
    width: int | None = None
    height: int | None = None
    file_name: str | None = None
    coco_url: str | None = None

    def name(self) -> str:
        """The name of its file, without folders."""
        return PurePosixPath(self.file_name or self.coco_url or "").name


def image_difference(first: ImageRow, second: ImageRow) -> tuple[str, str] | None:
    """How two files contradict each other about an image of one id: its size or its name in each. None: the same image.

    An id alone does not say that both files mean the same image. A size or a name that one of them lacks is no
    contradiction.
    """
    sizes = [(image.width, image.height) for image in (first, second)]
    if sizes[0] != sizes[1] and all(None not in size for size in sizes):
        one, other = (f"{width} x {height}" for width, height in sizes)
        return one, other
    one, other = first.name(), second.name()
    stems = [name.rpartition(".")[0] or name for name in (one, other)]
    # The same photo is COCO_val2014_000000000042.jpg in one release and 000000000042.jpg in another.
    if stems[0].endswith(stems[1]) or stems[1].endswith(stems[0]):
        return None
    return one, other


class BoxRow(msgspec.Struct, gc=False):
    """An annotation; `confidence` marks a pseudo label."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]  # xywh, original pixels
    id: int | str | None = None
    iscrowd: int = 0
    area: float | None = None
    confidence: float | None = None
    clip_score: float | None = None
    rpn_score: float | None = None
    box_score: float | None = None


class BoxFile(msgspec.Struct):
    """A COCO-format JSON."""

    images: list[ImageRow]
    categories: list[Category]
    annotations: list[BoxRow] = []
    info: Any = None

    def category_ids(self, names: Sequence[str], path: Path) -> list[int]:
        """The category id of each name; `path` is the file's, for the message.

        Raises:
            UserError: the file has no category of a name.
        """
        ids = {category.name: category.id for category in self.categories}
        for name in names:
            if name not in ids:
                raise UserError(f"{path} has no category {name!r}{suggestion(name, ids)}")
        return [ids[name] for name in names]

    def pseudo_labels(self) -> list[BoxRow]:
        """The annotations with `confidence`, in the file's order."""
        return [box for box in self.annotations if box.confidence is not None]

    def recorded(self, *keys: str) -> Any:
        """What this package recorded in the file's `info` under nested keys; None where it did not."""
        value = self.info
        for key in ("plgen_ddp", *keys):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def made_for(self) -> list[str] | None:
        """The novel names that the file says it was labelled with."""
        names = self.recorded("label", "novel")
        return names if isinstance(names, list) and names and all(isinstance(name, str) for name in names) else None


def read_box_file(path: Path, what: str) -> BoxFile:
    """Reads a file; `what` it is, for messages.

    Raises:
        UserError: unreadable, or not a COCO-format JSON.
    """
    try:
        return msgspec.json.decode(read_json(path), type=BoxFile)
    except OSError as error:
        raise UserError(f"cannot read the {what} {path}: {error.strerror}") from None
    except UNREADABLE as error:
        raise UserError(f"the {what} {path} is not a COCO-format JSON: {error}") from None


def read_ground_truth(path: Path) -> BoxFile:
    """Reads a file of real annotations.

    Raises:
        UserError: what `read_box_file` raises, or a file of pseudo labels.
    """
    file = read_box_file(path, "ground truth")
    if file.made_for() is not None and file.pseudo_labels():
        raise UserError(f"{path} is a file of pseudo labels; --ground-truth takes real annotations")
    return file


def boxes_by_image(rows: Iterable[BoxRow], number_of: Mapping[int, int]) -> dict[int, ImageBoxes]:
    """The boxes of each image that has any, in the rows' order; a row without `confidence` scores 1.

    Args:
        number_of: what `ImageBoxes.names` has for each category id.
    """
    kept = list(rows)
    image_ids = np.array([row.image_id for row in kept], np.int64)
    boxes = corners(np.array([row.bbox for row in kept], np.float64).reshape(-1, 4))
    names = np.array([number_of[row.category_id] for row in kept], np.int64)
    scores = np.array([1.0 if row.confidence is None else row.confidence for row in kept], np.float64)
    order = np.argsort(image_ids, kind="stable")
    ids, starts = np.unique(image_ids[order], return_index=True)
    parts = np.split(order, starts[1:])
    return {
        int(image_id): ImageBoxes(boxes[part], names[part], scores[part])
        for image_id, part in zip(ids, parts, strict=False)
    }
