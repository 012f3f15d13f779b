"""How a part of the store lays out its images, a row each: columns, and the way from `Regions` to them and back.

A region's values are in the order of its boxes. Columns:

    image_id        int64
    stage, reason   string, null unless the image failed
    boxes_xyxy      list<float32>, four a box, original pixels
    objectness      list<float32>, one a box
    foreground, last_move, agreement
                    list<float32>, one a box; null where the boxes' source has no such evidence
    scale_cosine    list<float32>, one a box; null where boxes are cropped at one scale
    embeddings      binary: little-endian float16, `dim` a box

A part of imported scores has no evidence and no embeddings. It has the likeliest name of each box instead, and keeps
the digits of the files that it comes from:

    image_id, stage, reason
    boxes_xyxy, objectness, top_score
                    list<float64>
    top_name        list<int32>

`plgen_ddp.records.Regions` says what the values mean.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from plgen_ddp.records import EVIDENCE, Failure, Regions

_IMAGE = [
    pa.field("image_id", pa.int64(), nullable=False),
    pa.field("stage", pa.string()),
    pa.field("reason", pa.string()),
]
SCHEMA = pa.schema(
    [
        *_IMAGE,
        pa.field("boxes_xyxy", pa.list_(pa.float32()), nullable=False),
        pa.field("objectness", pa.list_(pa.float32()), nullable=False),
        *(pa.field(name, pa.list_(pa.float32())) for name in EVIDENCE),
        pa.field("embeddings", pa.binary(), nullable=False),
    ]
)
IMPORTED_SCHEMA = pa.schema(
    [
        *_IMAGE,
        *(pa.field(name, pa.list_(pa.float64()), nullable=False) for name in ("boxes_xyxy", "objectness", "top_score")),
        pa.field("top_name", pa.list_(pa.int32()), nullable=False),
    ]
)


def to_table(images: Sequence[Regions]) -> pa.Table:
    """The part that holds these images: imported scores where one of them has names."""
    schema = SCHEMA if all(image.top_name is None for image in images) else IMPORTED_SCHEMA

    def column(field: pa.Field) -> pa.Array:
        if field.name in ("stage", "reason"):
            return pa.array([getattr(image.failure, field.name, None) for image in images], field.type)
        values = [getattr(image, field.name) for image in images]
        if field.name == "image_id":
            return pa.array(values, field.type)
        if field.name == "embeddings":
            return pa.array([array.astype("<f2").tobytes() for array in values], field.type)
        return _lists(values, field.type.value_type.to_pandas_dtype())

    return pa.Table.from_arrays([column(field) for field in schema], schema=schema)


def regions_of(table: pa.Table, dim: int, *, imported: bool) -> Iterator[Regions]:
    """The images of a part.

    Args:
        table: all columns of a part, or all but its embeddings.
        dim: length of an embedding; 0 without embeddings.
        imported: whether it is a part of imported scores.
    """
    image_ids, stages, reasons = (table.column(name).to_pylist() for name in ("image_id", "stage", "reason"))
    listed = ("top_name", "top_score") if imported else EVIDENCE
    lists = {name: _lists_of(table, name) for name in ("boxes_xyxy", "objectness", *listed)}
    embeddings_of = _embeddings_of(table, dim)
    for row, (image_id, stage, reason) in enumerate(zip(image_ids, stages, reasons, strict=True)):
        boxes, objectness = lists["boxes_xyxy"](row), lists["objectness"](row)
        assert boxes is not None and objectness is not None, "the schema allows no null here"
        yield Regions(
            image_id,
            boxes.reshape(-1, 4),
            objectness,
            embeddings_of(row, len(objectness)),
            **{name: lists[name](row) for name in listed},
            failure=None if reason is None else Failure(stage, reason),
        )


def wrong_values(table: pa.Table, dim: int) -> str | None:
    """What is wrong with a part, in words to follow its path; None where nothing is.

    No writer of parts leaves a number that is NaN or infinite, or columns of different lengths. `image_of_nan` looks at
    the embeddings' numbers.
    """
    boxes = pc.list_value_length(table.column("objectness"))
    for field in table.schema:
        column = table.column(field.name)
        if pa.types.is_list(field.type):
            values = pc.list_flatten(column).to_numpy()
            if not np.isfinite(values).all():
                return f"holds NaN or an infinite number in {field.name}"
            length, each = pc.list_value_length(column), 4 if field.name == "boxes_xyxy" else 1
        elif field.name == "embeddings":
            length, each = pc.binary_length(column), 2 * dim
        else:
            continue
        if pc.any(pc.not_equal(length, pc.multiply(boxes, each))).as_py():
            return f"is damaged: {field.name} has another length than its boxes"
    return None


def image_of_nan(table: pa.Table) -> int | None:
    """The id of the first image with an embedding that is NaN or infinite."""
    if "embeddings" not in table.column_names:
        return None
    _, offsets, data = _whole(table, "embeddings").buffers()
    # All bits of the exponent are set: NumPy's own test takes twenty times as long on float16.
    wrong = (np.frombuffer(data or b"", "<u2") & 0x7C00) == 0x7C00
    if not wrong.any():
        return None
    row = int(np.searchsorted(np.frombuffer(offsets, np.int32), 2 * wrong.argmax(), side="right")) - 1
    return int(table.column("image_id")[row].as_py())


def _lists(arrays: Sequence[np.ndarray | None], kind: type[np.generic]) -> pa.Array:
    """A column of lists of numbers; None becomes null."""
    flat = [np.empty(0, kind) if array is None else array.reshape(-1).astype(kind) for array in arrays]
    offsets = np.cumsum([0, *map(len, flat)]).astype(np.int32)
    missing = pa.array([array is None for array in arrays], pa.bool_())
    return pa.ListArray.from_arrays(offsets, np.concatenate(flat), mask=missing)


def _lists_of(table: pa.Table, name: str) -> Callable[[int], np.ndarray | None]:
    """Row to the values of a column of lists; None for null. They are a view of the column."""
    column = _whole(table, name)
    values, offsets = column.values.to_numpy(), column.offsets.tolist()
    present = column.is_valid().tolist()
    return lambda row: values[offsets[row] : offsets[row + 1]] if present[row] else None


def _embeddings_of(table: pa.Table, dim: int) -> Callable[[int, int], np.ndarray]:
    """Row and its number of boxes to its embeddings float16 (n, dim), a view of the column."""
    if "embeddings" not in table.column_names:
        return lambda row, count: np.empty((count, 0), np.float16)
    column = _whole(table, "embeddings")
    _, offsets, data = column.buffers()
    starts = np.frombuffer(offsets, np.int32)[column.offset :].tolist()
    values = np.frombuffer(data or b"", "<f2")
    return lambda row, count: values[starts[row] // 2 : starts[row + 1] // 2].reshape(count, dim)


def _whole(table: pa.Table, name: str) -> pa.Array:
    """A column without chunks."""
    column = table.column(name)
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)
