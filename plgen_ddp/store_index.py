"""Which images the parts of a store hold, kept in one file beside them: a store of 27,000 parts is known in a second.

    <folder>/index.parquet      a row a part: its name, size, time, image ids, failures, boxes, origin

The parts are what counts, and the index follows them. A part whose name, size or time differs from the index is read
anew, one that is gone is forgotten, and a damaged or missing index is made again. A part that was written a moment ago
is always read: until the clock has moved on, another one could take its place under the same time.
"""

import contextlib
import io
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from plgen_ddp.errors import UserError
from plgen_ddp.files import write_atomically
from plgen_ddp.processor import available_cores

# Fewer parts are read as fast as an index of them.
_FEWEST_PARTS = 256
# Longer than the steps of any file system's clock, nanoseconds.
_SETTLED = 3_000_000_000

_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.int64(), nullable=False),  # nanoseconds
        pa.field("image_ids", pa.list_(pa.int64()), nullable=False),
        pa.field("failures", pa.string(), nullable=False),  # JSON; mostly []
        pa.field("boxes", pa.int64(), nullable=False),
        pa.field("identity", pa.string(), nullable=False),
        pa.field("conditions", pa.string(), nullable=False),  # JSON
    ]
)


@dataclass(frozen=True, slots=True)
class PartContent:
    """What the index says about one part.

    Attributes:
        image_ids: int64 (n,).
        failures: (image id, stage, reason) of the images that could not be scored.
        boxes: in all its images.
        identity: fingerprint of the store that it belongs to; empty where the part does not say it.
        conditions: JSON of the conditions under which it was made; {} where the part does not say them.
    """

    image_ids: np.ndarray
    failures: list[tuple[int, str, str]]
    boxes: int
    identity: str
    conditions: str


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What changes when a part is replaced: bytes, and nanoseconds."""

    size: int
    modified: int


def contents_of_parts(index: Path, parts: list[Path], read: Callable[[Path], PartContent]) -> dict[Path, PartContent]:
    """What each of the parts holds, in their order.

    Args:
        index: the file of the index; it is read and, where it is not up to date, written.
        parts: that exist now.
        read: reads a part that the index does not know. Called from several threads.
    """
    if len(parts) < _FEWEST_PARTS:
        return {path: read(path) for path in parts}
    now = time.time_ns()
    stamps = {path: _stamp(path) for path in parts}
    recorded = _load(index)
    known = {
        path: content
        for path in parts
        if (entry := recorded.get(path.name)) is not None
        for stamp, content in [entry]
        if stamp == stamps[path]
    }
    unknown = [path for path in parts if path not in known]
    with ThreadPoolExecutor(available_cores()) as pool:
        known |= zip(unknown, pool.map(read, unknown), strict=True)
    # A stamp from before the part was read: if it was replaced since, it has another one now.
    settled = [path for path in parts if stamps[path].modified < now - _SETTLED]
    if {path.name: stamps[path] for path in settled} != {name: stamp for name, (stamp, _) in recorded.items()}:
        _save(index, [(path.name, stamps[path], known[path]) for path in settled])
    return {path: known[path] for path in parts}


def _stamp(path: Path) -> _Stamp:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise UserError(f"run.output: cannot read part {path}: {error.strerror}; run again") from None
    return _Stamp(status.st_size, status.st_mtime_ns)


def _load(index: Path) -> dict[str, tuple[_Stamp, PartContent]]:
    """The index by name of part; empty where there is none that can be read."""
    try:
        with pq.ParquetFile(index, page_checksum_verification=True) as file:
            table = file.read().combine_chunks()
    except (pa.ArrowException, OSError, ValueError):  # of a damaged name UnicodeDecodeError
        return {}
    if not table.schema.equals(_SCHEMA) or not len(table):
        return {}
    lists = table.column("image_ids").chunk(0)
    values, offsets = lists.values.to_numpy(), lists.offsets.to_pylist()
    columns = (table.column(name).to_pylist() for name in _SCHEMA.names if name != "image_ids")
    return {
        name: (
            _Stamp(size, moment),
            PartContent(
                values[offsets[row] : offsets[row + 1]],
                [] if failed == "[]" else [(image_id, stage, reason) for image_id, stage, reason in json.loads(failed)],
                *rest,
            ),
        )
        for row, (name, size, moment, failed, *rest) in enumerate(zip(*columns, strict=True))
    }


def _save(index: Path, rows: list[tuple[str, _Stamp, PartContent]]) -> None:
    ids = [content.image_ids for _, _, content in rows]
    offsets = np.cumsum([0, *map(len, ids)]).astype(np.int32)
    columns = [
        pa.array([name for name, _, _ in rows], pa.string()),
        pa.array([stamp.size for _, stamp, _ in rows], pa.int64()),
        pa.array([stamp.modified for _, stamp, _ in rows], pa.int64()),
        pa.ListArray.from_arrays(offsets, np.concatenate([np.empty(0, np.int64), *ids])),
        pa.array([json.dumps(content.failures) for _, _, content in rows], pa.string()),
        pa.array([content.boxes for _, _, content in rows], pa.int64()),
        pa.array([content.identity for _, _, content in rows], pa.string()),
        pa.array([content.conditions for _, _, content in rows], pa.string()),
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), buffer, compression="zstd", write_page_checksum=True)
    with contextlib.suppress(UserError):  # a store may be another's, to read only
        write_atomically(index, iter([buffer.getvalue()]))
