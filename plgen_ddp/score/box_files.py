"""Boxes from a file that another detector wrote: a COCO results list (JSON), or Parquet with the same columns.

    image_id    integer
    bbox        [x, y, width, height], original pixels
    score       number in [0, 1]

Other keys and columns are ignored. This file knows no detector, and stage 1 then imports none.
"""

import mmap
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from plgen_ddp.coco import Id, Image
from plgen_ddp.config import DetectorConfig
from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError, one_line
from plgen_ddp.files import file_sha256
from plgen_ddp.json_text import UNREADABLE
from plgen_ddp.options import deciding
from plgen_ddp.score.images import ImageBatch
from plgen_ddp.score.proposals import Proposals

_COLUMNS = ("image_id", "bbox", "score")
# Boxes that are Python objects at one time; as columns they take 28 bytes each.
_CHUNK = 100_000
# Images of one size, rounded up to this, share batches: a batch is padded to its largest image.
_SIZE_STEP = 64
# The options of `detector` that a file of boxes does not replace.
_OPTIONS = ("max_boxes", "min_box_size", "min_objectness")
# From this share of boxes on that end beyond their image, they may mean something else than xywh.
_MANY_CLIPPED = 0.1


@dataclass(frozen=True, slots=True)
class BoxColumns:
    """The boxes of a file in columns.

    Attributes:
        image_ids: int64 (n,).
        boxes_xyxy: float32 (n, 4), original pixels, as in the file: not checked, not clipped.
        scores: float32 (n,).
    """

    image_ids: np.ndarray
    boxes_xyxy: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, rows: np.ndarray | slice) -> "BoxColumns":
        return BoxColumns(self.image_ids[rows], self.boxes_xyxy[rows], self.scores[rows])


def read_boxes(path: Path) -> BoxColumns:
    """The boxes of `proposals.source`, in the file's order. A missing number is NaN.

    Raises:
        UserError: neither a COCO results list nor Parquet with its columns.
    """
    with path.open("rb") as file:
        parquet = file.read(4) == b"PAR1"
    chunks = list(_parquet_chunks(path) if parquet else _json_chunks(path))
    if not chunks:
        return BoxColumns(np.empty(0, np.int64), np.empty((0, 4), np.float32), np.empty(0, np.float32))
    return BoxColumns(*(np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in BoxColumns.__slots__))


def check_boxes(boxes: BoxColumns, path: Path, images: Sequence[Image]) -> None:
    """Checks that the file describes these images: all of the dataset, in ascending id.

    A box that reaches over the edge of its image, or has a side of 0, is not wrong: one is clipped, the other dropped
    as smaller than `detector.min_box_size`. Prints a note where many reach over the edge.

    Raises:
        UserError: boxes of unknown images, NaN or infinite, of a negative size, outside their image, or with scores
            outside [0, 1]. The message counts each kind.
    """
    if not len(boxes):
        return
    image_ids = np.array([image.id for image in images], np.int64)
    extents = np.array([(image.width, image.height) for image in images], np.float32)
    place = np.minimum(np.searchsorted(image_ids, boxes.image_ids), len(images) - 1)
    known = image_ids[place] == boxes.image_ids
    low, high, edge = boxes.boxes_xyxy[:, :2], boxes.boxes_xyxy[:, 2:], extents[place]
    finite = np.isfinite(boxes.boxes_xyxy).all(axis=1) & np.isfinite(boxes.scores)
    sized = (high > low).all(axis=1)
    wrong = {
        "of images that data.annotations lacks": ~known,
        "NaN, null or infinite": ~finite,
        "of a negative width or height": finite & (high < low).any(axis=1),
        "outside their image": known & finite & sized & ((low >= edge) | (high <= 0)).any(axis=1),
        "with a score outside [0, 1] (logits need a sigmoid)": finite & ((boxes.scores < 0) | (boxes.scores > 1)),
    }
    found = [(kind, np.flatnonzero(rows)) for kind, rows in wrong.items() if rows.any()]
    if found:
        kinds = "; ".join(f"{len(rows)} {kind}, the first {_describe(boxes, int(rows[0]))}" for kind, rows in found)
        raise UserError(
            f"proposals.source: of {len(boxes)} boxes in {path}, {kinds}; it must be a file for the images of "
            "data.annotations, each bbox [x, y, width, height] in pixels"
        )
    clipped = int((high > edge + 1).any(axis=1).sum())
    if clipped > _MANY_CLIPPED * len(boxes):
        print_line(
            f"note: proposals.source: {clipped} of {len(boxes)} boxes end beyond their image and are clipped; "
            "bbox means [x, y, width, height] in pixels",
            error=True,
        )


class BoxFile:
    """A file of boxes as a `ProposalSource`: the first `detector.max_boxes` of each image by score."""

    def __init__(self, path: Path, options: DetectorConfig, device: torch.device) -> None:
        """Reads `path`, which `check_boxes` has found right.

        Args:
            options: `max_boxes` is taken here, `min_box_size` and `min_objectness` where the boxes are cropped.
            device: where `__call__` expects the pixels. The boxes stay on the host, where crops are planned.
        """
        self._path = path
        self._options = options
        self.device = device
        boxes = read_boxes(path)
        boxes = boxes[np.lexsort((-boxes.scores, boxes.image_ids))]  # stable: the file's order decides between equals
        first_of_image = np.searchsorted(boxes.image_ids, boxes.image_ids)
        self._boxes = boxes[np.arange(len(boxes)) - first_of_image < options.max_boxes]

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The size itself, rounded up so that many images share it. No network sees these pixels, only crops."""
        return -(-height // _SIZE_STEP) * _SIZE_STEP, -(-width // _SIZE_STEP) * _SIZE_STEP

    def __call__(self, batch: ImageBatch) -> list[Proposals]:
        """The boxes of each image of the batch, on the host; none for an image that the file does not know."""
        starts, ends = (np.searchsorted(self._boxes.image_ids, batch.image_ids, side) for side in ("left", "right"))
        found = (self._boxes[start:end] for start, end in zip(starts, ends, strict=True))
        return [
            Proposals(image_id, torch.from_numpy(own.boxes_xyxy), torch.from_numpy(own.scores))
            for image_id, own in zip(batch.image_ids, found, strict=True)
        ]

    def identity(self) -> dict[str, Any]:
        """What decides the boxes: the file by content, and the options of `detector` that it does not replace."""
        options = deciding(self._options)
        return {"source": file_sha256(self._path)} | {name: options[name] for name in _OPTIONS}


class _Result(msgspec.Struct, gc=False):
    """An entry of a COCO results list. Python's json writes NaN, others null for it."""

    image_id: Id
    bbox: tuple[float | None, float | None, float | None, float | None]
    score: float | None


def _json_chunks(path: Path) -> Iterator[BoxColumns]:
    """First each entry's text, then chunk by chunk its numbers: a list of ten million results would take 3 GB."""
    with path.open("rb") as file:
        try:
            # Mapped, so that the ranks of a node share one copy. The entries are views of it and keep it open.
            entries = _entries(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (ValueError, *UNREADABLE) as error:  # an empty file cannot be mapped
            raise _not_boxes(path, one_line(error)) from None
    decoder = msgspec.json.Decoder(_Result)
    for start in range(0, len(entries), _CHUNK):
        results: list[_Result] = []
        try:
            results.extend(map(decoder.decode, entries[start : start + _CHUNK]))
        except UNREADABLE as error:
            raise _not_boxes(path, f"entry {start + len(results)}: {one_line(error)}") from None
        yield _columns(
            np.array([result.image_id for result in results], np.int64),
            np.array([result.bbox for result in results], np.float64),
            np.array([result.score for result in results], np.float64),
        )


def _entries(content: mmap.mmap) -> list[msgspec.Raw]:
    decoder = msgspec.json.Decoder(list[msgspec.Raw])
    try:
        return decoder.decode(content)
    except msgspec.DecodeError:
        mended = re.sub(rb"-?Infinity|NaN", b"null", content)  # no JSON, and yet written by Python
        return decoder.decode(mended)


def _parquet_chunks(path: Path) -> Iterator[BoxColumns]:
    try:
        file = pq.ParquetFile(path)
        if missing := [name for name in _COLUMNS if name not in file.schema_arrow.names]:
            raise _not_boxes(path, f"no column {', '.join(missing)}")
        kind = file.schema_arrow.field("bbox").type
        if not any(
            is_list(kind) for is_list in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        ):
            raise _not_boxes(path, f"bbox is {kind}, not a list of four numbers")
        for chunk in file.iter_batches(_CHUNK, columns=list(_COLUMNS)):
            lists = chunk.column("bbox")
            if pa.types.is_fixed_size_list(lists.type):
                lists = lists.cast(pa.list_(lists.type.value_type))
            lengths = set(lists.value_lengths().to_pylist())
            if lengths - {4} or chunk.column("image_id").null_count:
                raise _not_boxes(path, "each row needs an image_id and four numbers in bbox")
            yield _columns(
                chunk.column("image_id").cast(pa.int64()).to_numpy(zero_copy_only=False),
                lists.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False).reshape(-1, 4),
                chunk.column("score").cast(pa.float64()).to_numpy(zero_copy_only=False),
            )
    except pa.ArrowException as error:
        raise _not_boxes(path, one_line(error)) from None


def _columns(image_ids: np.ndarray, boxes_xywh: np.ndarray, scores: np.ndarray) -> BoxColumns:
    low, size = boxes_xywh[:, :2], boxes_xywh[:, 2:]
    with np.errstate(over="ignore"):  # it becomes infinite, and is counted
        corners = np.concatenate([low, low + size], axis=1).astype(np.float32)
        return BoxColumns(image_ids, corners, scores.astype(np.float32))


def _not_boxes(path: Path, reason: str) -> UserError:
    return UserError(
        f"proposals.source: {path} is neither a COCO results list (a JSON list of image_id, bbox, score) nor Parquet "
        f"with these columns: {reason}"
    )


def _describe(boxes: BoxColumns, row: int) -> str:
    x0, y0, x1, y1 = boxes.boxes_xyxy[row].tolist()
    xywh = ", ".join(f"{value:g}" for value in (x0, y0, x1 - x0, y1 - y0))
    return f"[{xywh}] with score {boxes.scores[row]:g} of image {boxes.image_ids[row]}"
