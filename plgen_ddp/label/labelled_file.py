"""A labelled JSON as it lies on disk: what its `info` says, its pseudo labels, and all other annotations."""

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from plgen_ddp.coco import CocoFile, Id
from plgen_ddp.errors import UserError
from plgen_ddp.json_text import UNREADABLE

# Annotations that are decoded at once: all of a train2017 as Python's objects would take a gigabyte.
_CHUNK = 10_000


class _Names(msgspec.Struct):
    novel: list[str]
    base: list[str] | str


class _Record(msgspec.Struct):
    """What `info` must say of a labelled file."""

    label: _Names
    images: int
    pseudo_labels: int
    pseudo_label_ids: list[int]  # the first and the last, falling; empty without any


class Entry(msgspec.Struct, gc=False):
    """Of an entry that has an id."""

    id: int


class _Keys(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    id: int | str | None = None


class _Box(msgspec.Struct, gc=False):
    bbox: tuple[float, float, float, float]  # xywh, original pixels
    confidence: float = np.nan


@dataclass(frozen=True, slots=True)
class Annotations:
    """Annotations of a JSON in columns, in the file's order.

    Attributes:
        text_hashes: int64 (n,). In one process, equal raw texts have equal hashes, and others practically never.
        ids: int64 (n,), or objects where the file has other ids, or none.
        image_ids, category_ids: int64 (n,).
    """

    text_hashes: np.ndarray
    ids: np.ndarray
    image_ids: np.ndarray
    category_ids: np.ndarray

    def where(self, wanted: np.ndarray) -> "Annotations":
        """Those where the bool (n,) is true."""
        return Annotations(
            self.text_hashes[wanted], self.ids[wanted], self.image_ids[wanted], self.category_ids[wanted]
        )


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """A labelled JSON; the ids in its `info` say which of its annotations are pseudo labels.

    Attributes:
        novel: the names that it was made for.
        base: the names whose annotations it keeps; None: all that are not novel.
        images, pseudo_labels: how many `info` says that there are.
        ids, image_ids, category_ids: int64 (n,), of the pseudo labels.
        boxes_xywh: float64 (n, 4), original pixels; NaN where a pseudo label has no readable box.
        confidences: float64 (n,); NaN where one has none.
        listed: bool (n,), which annotations of the file are the pseudo labels. others: all other annotations.
        listed_images: id and raw text of each image of the file.
        categories: of the file, without `text_emb`.
        keys: of the file, at its top level.
    """

    coco: CocoFile
    novel: tuple[str, ...]
    base: tuple[str, ...] | None
    images: int
    pseudo_labels: int
    ids: np.ndarray
    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes_xywh: np.ndarray
    confidences: np.ndarray
    listed: np.ndarray
    others: Annotations
    listed_images: list[tuple[int, bytes]]
    categories: list[dict[str, Any]]
    keys: set[str]


def check_unlabelled(coco: CocoFile, key: str, wanted: str) -> None:
    """Checks that a JSON holds no pseudo labels where real annotations are needed.

    Args:
        key: of the option or argument that gave it. wanted: what to give there, for the message.

    Raises:
        UserError: its `info` says that it was labelled.
    """
    if "label" in (coco.provenance() or {}):
        raise UserError(f"{key}: {coco.path} is a file of pseudo labels; give {wanted}")


def read_labelled(coco: CocoFile) -> LabelledFile:
    """Reads a labelled JSON, and lets go of its text.

    Raises:
        UserError: its `info` does not say which annotations are pseudo labels, or an entry is not COCO's.
    """
    try:
        record = msgspec.convert(coco.provenance(), _Record)
    except msgspec.ValidationError:
        raise UserError(
            f"{coco.path}: its `info` does not say which annotations are pseudo labels; "
            "launch/label.py of this version writes that"
        ) from None
    annotations, texts = read_annotations(coco)
    first, last = max(record.pseudo_label_ids, default=-1), min(record.pseudo_label_ids, default=0)
    if annotations.ids.dtype == object:
        listed = np.array([isinstance(own, int) and last <= own <= first for own in annotations.ids], bool)
    else:
        listed = (annotations.ids >= last) & (annotations.ids <= first)
    labels = annotations.where(listed)
    boxes, confidences = boxes_of(list(itertools.compress(texts, listed.tolist())))
    del texts
    images = zip(coco.entries("images", Entry), coco.entries("images", msgspec.Raw), strict=True)
    listed_images = [(entry.id, bytes(text)) for entry, text in images]
    categories, keys = categories_of(coco), coco.keys()
    coco.release()
    return LabelledFile(
        coco=coco,
        novel=tuple(record.label.novel),
        base=None if isinstance(record.label.base, str) else tuple(record.label.base),
        images=record.images,
        pseudo_labels=record.pseudo_labels,
        ids=labels.ids.astype(np.int64),
        image_ids=labels.image_ids,
        category_ids=labels.category_ids,
        boxes_xywh=boxes,
        confidences=confidences,
        listed=listed,
        others=annotations.where(~listed),
        listed_images=listed_images,
        categories=categories,
        keys=keys,
    )


def read_annotations(coco: CocoFile) -> tuple[Annotations, list[msgspec.Raw]]:
    """All annotations of a JSON, and the raw text of each, which keeps the whole text in memory.

    Raises:
        UserError: one is not COCO's.
    """
    texts = coco.entries("annotations", msgspec.Raw)
    columns, text_hashes = np.empty((2, len(texts)), np.int64), np.fromiter(map(hash, map(bytes, texts)), np.int64)
    ids: list[np.ndarray] = []
    try:
        for start in range(0, len(texts), _CHUNK):
            keys = msgspec.json.decode(b"[" + b",".join(texts[start : start + _CHUNK]) + b"]", type=list[_Keys])
            columns[0, start : start + len(keys)] = [key.image_id for key in keys]
            columns[1, start : start + len(keys)] = [key.category_id for key in keys]
            ids.append(_ids([key.id for key in keys]))
    except UNREADABLE as error:
        raise UserError(f"{coco.path}: an annotation is not COCO's: {error}") from None
    every_id = np.concatenate(ids or [np.empty(0, np.int64)])
    return Annotations(text_hashes, every_id, columns[0], columns[1]), texts


def boxes_of(texts: Sequence[msgspec.Raw]) -> tuple[np.ndarray, np.ndarray]:
    """(boxes float64 (n, 4), xywh in original pixels, confidences float64 (n,)) of annotations.

    A row is NaN where an annotation has no readable box, a confidence where it has none.
    """
    boxes, confidences = np.full((len(texts), 4), np.nan), np.full(len(texts), np.nan)
    for start in range(0, len(texts), _CHUNK):
        rows = _boxes(texts[start : start + _CHUNK])
        boxes[start : start + len(rows)] = [(np.nan,) * 4 if row is None else row.bbox for row in rows]
        confidences[start : start + len(rows)] = [np.nan if row is None else row.confidence for row in rows]
    return boxes, confidences


def categories_of(coco: CocoFile) -> list[dict[str, Any]]:
    """The categories of a JSON without `text_emb`, which labelling may give them."""
    rows = coco.entries("categories", dict[str, Any])
    return [{key: value for key, value in row.items() if key != "text_emb"} for row in rows]


def _ids(ids: list[int | str | None]) -> np.ndarray:
    if set(map(type, ids)) <= {int}:  # NumPy would read "7" as a number
        with contextlib.suppress(OverflowError):
            return np.array(ids, np.int64)
    return np.array(ids, object)


def _boxes(texts: Sequence[msgspec.Raw]) -> Sequence[_Box | None]:
    try:
        return msgspec.json.decode(b"[" + b",".join(texts) + b"]", type=list[_Box])
    except UNREADABLE:
        return [_box(text) for text in texts]


def _box(text: msgspec.Raw) -> _Box | None:
    try:
        return msgspec.json.decode(text, type=_Box)
    except UNREADABLE:
        return None
