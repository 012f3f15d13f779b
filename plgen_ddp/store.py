"""The region store: what stage 1 leaves on disk, one Parquet part for each unit of work, and a manifest.

A part is written under a temporary name, flushed and renamed, so a part that exists is complete. Every image of a unit
is a row of its part: with boxes, without any, or failed with a reason. This file needs no torch: a laptop reads the
store.

    <folder>/manifest.json
    <folder>/index.parquet     which images each part holds; made when it is missing or out of date
    <folder>/parts/<first image id>-<images>-<digest of the image ids>.parquet

`plgen_ddp.part_layout` says what a part holds.
"""

import functools
import hashlib
import io
import json
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from plgen_ddp.config import Config
from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError, one_line
from plgen_ddp.files import write_atomically
from plgen_ddp.options import given
from plgen_ddp.part_layout import IMPORTED_SCHEMA, SCHEMA, image_of_nan, regions_of, to_table, wrong_values
from plgen_ddp.records import FixedVocabulary, Regions, Similarity
from plgen_ddp.store_index import PartContent, contents_of_parts

# Raised when the layout of the parts changes: an old store must not be read as a new one.
FORMAT = 2


@dataclass(frozen=True, slots=True)
class Manifest:
    """What made a store.

    Attributes:
        dim: length of an embedding.
        similarity: how a cosine becomes a probability, by the encoder that made the embeddings.
        identity: what decides the content (dataset, weights, settings), nested mappings of plain values.
        versions: of the libraries at the start. Another version changes last digits, so it is recorded, not enforced.
        annotations: the JSON that was scored, which labelling reads unless another one is given.
        vocabulary: of imported scores; None: the store has embeddings, for any names.
        encoder: the options of `clip` that name the encoder, files by their absolute path. A notebook reads them where
            it is given no config; `identity` says which encoder it is.
    """

    dim: int
    similarity: Similarity
    identity: Mapping[str, Any]
    versions: Mapping[str, str]
    annotations: str | None = None
    vocabulary: FixedVocabulary | None = None
    encoder: Mapping[str, str] | None = None

    def fingerprint(self) -> str:
        """SHA-256 of the identity, hexadecimal."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()


class RegionStore:
    """The store in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts = folder / "parts"

    # The manifest.

    def open_for_scoring(self, manifest: Manifest) -> None:
        """Creates the store, or checks that an existing one was made from the same things.

        Raises:
            UserError: an existing store has another identity; the message lists each difference.
        """
        path = self.folder / "manifest.json"
        content = json.loads(json.dumps({"format": FORMAT, **asdict(manifest)}))
        if path.exists():
            existing = self.manifest()
            differences = list(_differences(existing.identity, content["identity"]))
            if differences:
                raise UserError(
                    f"run.output: the store in {self.folder} was made from something else ({'; '.join(differences)}); "
                    "choose another run.output"
                )
            for difference in _differences(existing.versions, content["versions"]):
                print_line(f"note: this store was begun with another version of {difference}", error=True)
            return
        if self.part_paths():
            raise UserError(f"run.output: {self.folder} has parts but no manifest.json; choose another run.output")
        write_atomically(path, [json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"])

    def manifest(self) -> Manifest:
        """Reads what made this store.

        Raises:
            UserError: there is no store here, or one of another format.
        """
        path = self.folder / "manifest.json"
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise UserError(f"run.output: no region store at {self.folder}; make one with launch/score.py") from None
        except (OSError, ValueError) as error:
            raise UserError(f"run.output: cannot read {path}: {error}") from None
        if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
            raise UserError(
                f"run.output: the store in {self.folder} has format {content['format']}, and this version reads "
                f"{FORMAT}; score into a new run.output, or label with the version that made the store"
            )
        try:
            del content["format"]
            if content.get("vocabulary") is not None:
                content["vocabulary"] = FixedVocabulary.of(**content["vocabulary"])
            manifest = Manifest(**content | {"similarity": Similarity(**content["similarity"])})
            _ = manifest.identity["dataset"], manifest.versions.items()
            return manifest
        except (TypeError, KeyError, AttributeError):
            raise UserError(f"run.output: {path} is not the manifest of a region store") from None

    # The parts.

    def part_paths(self) -> list[Path]:
        """The complete parts, in the order of their names, which is that of their first image."""
        try:  # and not glob, to which a folder that may not be read is an empty one
            return sorted(path for path in self._parts.iterdir() if path.suffix == ".parquet" and path.name[0] != ".")
        except FileNotFoundError:
            return []

    def write_part(self, images: Sequence[Regions]) -> Path:
        """Adds one part that holds these images."""
        buffer = io.BytesIO()
        table = to_table(images)
        lists = [field.name for field in table.schema if pa.types.is_list(field.type)]
        pq.write_table(
            table,
            buffer,
            # The embeddings are most of it, and noise to a compressor.
            compression={"embeddings": "NONE"} | {f"{name}.list.element": "ZSTD" for name in lists},
            use_dictionary=False,
            write_statistics=["image_id"],
            write_page_checksum=True,
        )
        ids = [image.image_id for image in images]
        digest = hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()[:16]
        path = self._parts / f"{ids[0]:012d}-{len(ids)}-{digest}.parquet"
        write_atomically(path, iter([buffer.getvalue()]))
        return path

    def read_part(self, path: Path, *, embeddings: bool = True) -> Iterator[Regions]:
        """The images of a part; without embeddings, of length 0, it takes a fraction of the time.

        Raises:
            UserError: the part is damaged, or holds a number that is NaN or infinite.
        """
        imported = self._imported
        layout = IMPORTED_SCHEMA if imported else SCHEMA
        table = self._read(path, None if embeddings else [name for name in layout.names if name != "embeddings"])
        dim = self._dim if embeddings else 0
        if wrong := wrong_values(table, dim):
            raise UserError(f"run.output: part {path} {wrong}; remove it and run scoring again")
        if (image_id := image_of_nan(table)) is not None:
            raise UserError(
                f"run.output: an embedding of image {image_id} in the store is NaN; remove part {path} and run "
                "scoring again"
            )
        yield from regions_of(table, dim, imported=imported)

    def part_of_images(self) -> dict[int, Path]:
        """Which part holds each image.

        Raises:
            UserError: an image is in two parts.
        """
        contents = self._contents()
        paths = list(contents)
        image_ids = np.concatenate([np.empty(0, np.int64), *(content.image_ids for content in contents.values())])
        place = np.repeat(np.arange(len(paths)), [len(content.image_ids) for content in contents.values()])
        order = np.argsort(image_ids, kind="stable")
        twice = np.flatnonzero(np.diff(image_ids[order]) == 0)
        if len(twice):
            first, second = order[twice[0]], order[twice[0] + 1]
            raise UserError(
                f"run.output: image {image_ids[first]} is in two parts of {self._parts}: {paths[place[first]].name} "
                f"and {paths[place[second]].name}; were two jobs writing here? Remove one of them and run again"
            )
        return dict(zip(image_ids.tolist(), map(paths.__getitem__, place.tolist()), strict=True))

    def failures(self, image_ids: Collection[int] | None = None) -> list[tuple[int, str, str]]:
        """(image id, stage, reason) of every image, or those of `image_ids`, that could not be scored; ascending."""
        found = [failure for content in self._contents().values() for failure in content.failures]
        wanted = None if image_ids is None else set(image_ids)
        return sorted(failure for failure in found if wanted is None or failure[0] in wanted)

    def _contents(self) -> dict[Path, PartContent]:
        return contents_of_parts(self.folder / "index.parquet", self.part_paths(), self._content)

    def _content(self, path: Path) -> PartContent:
        table = self._read(path, ["image_id", "stage", "reason"])
        failed: list[tuple[int, str, str]] = []
        if table.column("reason").null_count < len(table):
            rows = table.filter(table.column("reason").is_valid()).to_pylist()
            failed = [(row["image_id"], row["stage"], row["reason"]) for row in rows]
        return PartContent(table.column("image_id").to_numpy(), failed)

    def drop_parts_with_failures(self, image_ids: Collection[int]) -> None:
        """Removes every part of these images that holds a failed one, so that its images are scored again."""
        wanted = set(image_ids)
        failed = {image_id for image_id, _, _ in self.failures()}
        images_of: dict[Path, set[int]] = {}
        for image_id, path in self.part_of_images().items():
            images_of.setdefault(path, set()).add(image_id)
        for path, images in images_of.items():
            if images & failed and images <= wanted:
                path.unlink()

    def sweep(self) -> None:
        """Removes what killed writers left under temporary names. Only when no writer is at work."""
        for path in [*self.folder.glob(".*.tmp"), *self._parts.glob(".*.tmp")]:
            path.unlink(missing_ok=True)

    @functools.cached_property
    def _dim(self) -> int:
        return self.manifest().dim

    @functools.cached_property
    def _imported(self) -> bool:
        return self.manifest().vocabulary is not None

    def _read(self, path: Path, columns: list[str] | None = None) -> pa.Table:
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                table = file.read(columns, use_threads=False).combine_chunks()  # parts are read side by side
            layout = IMPORTED_SCHEMA if "top_name" in table.column_names else SCHEMA
            if not all(field in layout for field in table.schema) or len(table.schema) != len(columns or layout):
                raise pa.ArrowInvalid("it has other columns than a part")
            return table
        except PermissionError:
            raise UserError(f"run.output: part {path} may not be read: permission denied") from None
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"run.output: part {path} is damaged ({one_line(error)}); remove it and run scoring again"
            ) from None


def store_of(config: Config) -> RegionStore:
    """The region store of a run."""
    return RegionStore(Path(given(config.run.output), "store"))


class PartWriter:
    """Writes parts in a thread of its own, so that the disk never holds up the accelerator.

    The queue is bounded: a disk that cannot follow slows the rank down and does not fill its memory. Leave it as a
    context manager: it waits for what is queued, and raises here what went wrong there.

    Attributes:
        seconds: how long writing took so far.
        boxes: how many boxes are written so far.
    """

    def __init__(self, store: RegionStore, depth: int = 2) -> None:
        self.seconds = 0.0
        self.boxes = 0
        self._store = store
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
                    self._store.write_part(rows)
                    self.seconds += time.perf_counter() - start
                    self.boxes += sum(len(row.objectness) for row in rows)
                except BaseException as error:  # handed to the rank, which raises it
                    self._error = error


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}: {_short(before)}, now {_short(after)}"


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 40 else text[:12] + "..."
