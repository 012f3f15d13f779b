"""What a part says about itself, in the metadata of its Parquet file: what made it, and the SHA-256 of its content.

A store whose manifest is lost is known from its parts, a part of another store is refused, and a changed bit is seen
wherever it is. The seal is JSON under the key `plgen_ddp`, its own SHA-256 is under `plgen_ddp.sha256`. Parts without
one were written before there were seals; they are read as they are.

The conditions are what may change a part's last digits although it does not belong to the store's identity: threads
and CLIP batch of a rank, the CPU's instruction set or the GPU, versions of libraries. They do not hang on the number of
ranks, so a part's bytes are the same on any number of them under the same conditions.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from plgen_ddp.manifest import Manifest

_KEY, _DIGEST_KEY = b"plgen_ddp", b"plgen_ddp.sha256"


@dataclass(frozen=True, slots=True)
class Seal:
    """What a part says about itself.

    Attributes:
        manifest: of its store as JSON holds it, without the paths of the annotations and the encoder: a part names no
            place.
        identity: the manifest's fingerprint.
        conditions: under which it was made; nested mappings of plain values.
        boxes: in all its images.
        sha256: of the content of each column, hexadecimal.
    """

    manifest: Mapping[str, Any]
    identity: str
    conditions: Mapping[str, Any]
    boxes: int
    sha256: Mapping[str, str]

    @classmethod
    def of(cls, table: pa.Table, manifest: Manifest, conditions: Mapping[str, Any]) -> "Seal":
        """The seal of a part with the content of `table`."""
        content = {**manifest.content(), "annotations": None, "encoder": None}
        boxes = int(pc.sum(pc.list_value_length(table.column("objectness"))).as_py() or 0)
        digests = {name: _digest(table.column(name)) for name in table.column_names}
        return cls(content, manifest.fingerprint(), dict(conditions), boxes, digests)

    @classmethod
    def read(cls, metadata: Mapping[bytes, bytes] | None) -> "Seal | None":
        """The seal in the metadata of a Parquet file; None where there is none.

        Raises:
            ValueError: the seal is damaged.
        """
        text, digest = ((metadata or {}).get(key) for key in (_KEY, _DIGEST_KEY))
        if text is None and digest is None:
            return None
        if text is None or digest is None or hashlib.sha256(text).hexdigest().encode() != digest:
            raise ValueError("what it says about itself has changed")
        seal = cls(**json.loads(text))
        if not (isinstance(seal.identity, str) and isinstance(seal.sha256, Mapping)):
            raise ValueError("what it says about itself has another form")
        return seal

    def metadata(self) -> dict[bytes, bytes]:
        """The seal as metadata of a Parquet file."""
        text = json.dumps(asdict(self), sort_keys=True).encode()
        return {_KEY: text, _DIGEST_KEY: hashlib.sha256(text).hexdigest().encode()}

    def broken_by(self, table: pa.Table, *, embeddings: bool = True) -> str | None:
        """The first column of `table` that is not what was written; None where all are.

        Args:
            embeddings: look at them too. They are most of a part, and their pages have checksums of their own.
        """
        names = (name for name in table.column_names if embeddings or name != "embeddings")
        return next((name for name in names if _digest(table.column(name)) != self.sha256.get(name)), None)


def _digest(column: pa.ChunkedArray) -> str:
    digest = hashlib.sha256()
    for block in _blocks(column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)):
        digest.update(block)
    return digest.hexdigest()


def _blocks(array: pa.Array) -> Iterator[Any]:
    """The content of a column as bytes: which rows are null, the length of each, the values."""
    yield np.packbits(np.asarray(array.is_valid().to_numpy(zero_copy_only=False), bool)).data
    if pa.types.is_list(array.type):
        yield pc.list_value_length(array).fill_null(0).to_numpy().astype("<i4").data
        yield np.ascontiguousarray(pc.list_flatten(array).to_numpy()).data
    elif pa.types.is_binary(array.type):
        _, offsets, data = array.buffers()
        ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
        yield np.diff(ends).astype("<i4").data
        yield memoryview(data or b"")[ends[0] : ends[-1]]
    elif pa.types.is_integer(array.type):
        yield np.ascontiguousarray(array.to_numpy()).data
    else:
        yield json.dumps(array.to_pylist()).encode()
