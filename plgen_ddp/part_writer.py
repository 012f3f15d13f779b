"""Writing parts: a part's bytes, and the thread of a rank that writes them."""

import hashlib
import io
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from plgen_ddp.manifest import Manifest
from plgen_ddp.part_layout import to_table
from plgen_ddp.part_seal import Seal
from plgen_ddp.records import Regions


def part_name(image_ids: Sequence[int]) -> str:
    """The file name of the part of these images, which no other part has."""
    digest = hashlib.sha256(" ".join(map(str, image_ids)).encode()).hexdigest()[:16]
    return f"{image_ids[0]:012d}-{len(image_ids)}-{digest}.parquet"


def part_bytes(images: Sequence[Regions], manifest: Manifest, conditions: Mapping[str, Any]) -> bytes:
    """The part of these images: `plgen_ddp.part_layout` with `plgen_ddp.part_seal`."""
    table = to_table(images)
    table = table.replace_schema_metadata(Seal.of(table, manifest, conditions).metadata())
    lists = [field.name for field in table.schema if pa.types.is_list(field.type)]
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        # The embeddings are most of it, and noise to a compressor.
        compression={"embeddings": "NONE"} | {f"{name}.list.element": "ZSTD" for name in lists},
        use_dictionary=False,
        write_statistics=["image_id"],
        write_page_checksum=True,
    )
    return buffer.getvalue()


class _Store(Protocol):
    def write_part(self, images: Sequence[Regions], conditions: Mapping[str, Any]) -> Path: ...


class PartWriter:
    """Writes parts in a thread of its own, so that the disk never holds up the accelerator.

    The queue is bounded: a disk that cannot follow slows the rank down and does not fill its memory. Leave it as a
    context manager: it waits for what is queued, and raises here what went wrong there.

    Attributes:
        seconds: how long writing took so far.
        boxes: how many boxes are written so far.
    """

    def __init__(self, store: _Store, conditions: Mapping[str, Any] | None = None, depth: int = 2) -> None:
        self.seconds = 0.0
        self.boxes = 0
        self._store = store
        self._conditions = conditions or {}
        self._queue: queue.Queue[Callable[[], list[Regions]] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="part-writer", daemon=True)
        self._thread.start()

    def write(self, images: Callable[[], list[Regions]]) -> None:
        """Queues one part; `images` is called in the writer's thread, which may wait there for a GPU."""
        if self._error is not None:
            raise self._error
        self._queue.put(images)

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (images := self._queue.get()) is not None:
            if self._error is None:
                try:
                    rows = images()
                    start = time.perf_counter()
                    self._store.write_part(rows, self._conditions)
                    self.seconds += time.perf_counter() - start
                    self.boxes += sum(len(row.objectness) for row in rows)
                except BaseException as error:  # handed to the rank, which raises it
                    self._error = error
