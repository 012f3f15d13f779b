"""The region store: what stage 1 leaves on disk, one Parquet part for each unit of work, and a manifest.

A part is written under a temporary name, flushed and renamed, so a part that exists is complete. Every image of a unit
is a row of its part: with boxes, without any, or failed with a reason. This file needs no torch: a laptop reads the
store.

    <folder>/manifest.json
    <folder>/index.parquet     which images each part holds; made when it is missing or out of date
    <folder>/parts/<first image id>-<images>-<digest of the image ids>.parquet

`plgen_ddp.part_layout` says what a part holds, `plgen_ddp.part_seal` what it says about itself: the manifest, so that a
lost one is made again; SHA-256 of its content; and under which conditions it was made.

An image may be in two parts, where two jobs once wrote here. Equal copies are no error, and the first part by name
counts; `run.repair=true` mends a store of unequal ones.
"""

import functools
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from plgen_ddp.config import Config
from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError, one_line
from plgen_ddp.files import flush_folder, remove_left_over, write_atomically
from plgen_ddp.manifest import DamagedManifestError, Manifest, differences, read_manifest
from plgen_ddp.options import given
from plgen_ddp.part_layout import IMPORTED_SCHEMA, SCHEMA, image_of_nan, regions_of, wrong_values
from plgen_ddp.part_seal import Seal
from plgen_ddp.part_writer import part_bytes, part_name
from plgen_ddp.processor import available_cores
from plgen_ddp.records import Regions, same_regions
from plgen_ddp.store_index import PartContent, contents_of_parts

# What a message about a damaged part ends with.
MEND = "remove it, or have launch/verify.py --repair find and remove all such parts, and run scoring again"


class RegionStore:
    """The store in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts = folder / "parts"

    # The manifest.

    def open_for_scoring(self, manifest: Manifest) -> None:
        """Creates the store, or checks that an existing one was made from the same things.

        A manifest that is lost or damaged is written again from what the parts carry.

        Raises:
            UserError: an existing store has another identity; the message lists each difference.
        """
        try:
            existing = read_manifest(self.folder / "manifest.json")
        except FileNotFoundError:
            existing = self._write_manifest(manifest, "is missing")
        except DamagedManifestError:
            existing = self._write_manifest(manifest, "is damaged")
        content = manifest.content()
        if unlike := list(differences(existing.content()["identity"], content["identity"])):
            raise UserError(
                f"run.output: the store in {self.folder} was made from something else ({'; '.join(unlike)}); "
                "choose another run.output"
            )
        for difference in differences(existing.versions, content["versions"]):
            print_line(f"note: this store was begun with another version of {difference}", error=True)
        self._parts.mkdir(parents=True, exist_ok=True)
        flush_folder(self.folder)

    def manifest(self) -> Manifest:
        """What made this store: manifest.json, or where that is lost or damaged, what the parts carry.

        Raises:
            UserError: there is no store here, or one of another format.
        """
        path = self.folder / "manifest.json"
        lost: UserError
        try:
            return read_manifest(path)
        except FileNotFoundError:
            lost = UserError(f"run.output: no region store at {self.folder}; make one with launch/score.py")
        except DamagedManifestError as error:
            lost = error
        carried = self.carried_manifest()
        if carried is None:
            raise lost
        _note(f"note: {path} is missing or damaged; what the parts carry takes its place")
        return carried

    def carried_manifest(self) -> Manifest | None:
        """The manifest that most parts carry, without paths of annotations and encoder; None where none carries one."""

        def seal(path: Path) -> Seal | None:
            try:
                return Seal.read(pq.read_metadata(path).metadata)
            except (pa.ArrowException, OSError, ValueError, TypeError):
                return None

        with ThreadPoolExecutor(available_cores()) as pool:
            seals = [one for one in pool.map(seal, self.part_paths()) if one is not None]
        if not seals:
            return None
        most = Counter(one.identity for one in seals).most_common(1)[0][0]
        return Manifest.of(next(one.manifest for one in seals if one.identity == most))

    def restore_manifest(self) -> bool:
        """Writes a lost or damaged manifest.json from what the parts carry; whether that was necessary.

        Raises:
            UserError: no part carries one.
        """
        path = self.folder / "manifest.json"
        try:
            read_manifest(path)
            return False
        except (FileNotFoundError, DamagedManifestError):
            self._write(path, self.manifest())
            return True

    def _write_manifest(self, manifest: Manifest, state: str) -> Manifest:
        """Writes a manifest where there is none to read, and returns it: the given one, or the one of the parts."""
        path = self.folder / "manifest.json"
        if self.part_paths():
            carried = self.carried_manifest()
            if carried is None:
                raise UserError(
                    f"run.output: {self.folder} has parts and its manifest.json {state}; the parts carry none; choose "
                    "another run.output"
                )
            if carried.identity != manifest.content()["identity"]:
                return carried  # and so refused
            own = {"annotations": manifest.annotations, "encoder": manifest.encoder}
            manifest = Manifest.of({**carried.content(), **own})
            print_line(f"note: {path} {state}; written again from what the parts carry", error=True)
        self._write(path, manifest)
        return manifest

    def _write(self, path: Path, manifest: Manifest) -> None:
        write_atomically(path, [json.dumps(manifest.content(), indent=1, sort_keys=True).encode() + b"\n"])
        self.__dict__.pop("_manifest", None)

    # The parts.

    def part_paths(self) -> list[Path]:
        """The complete parts, in the order of their names, which is that of their first image."""
        try:  # and not glob, to which a folder that may not be read is an empty one
            names = os.listdir(self._parts)  # noqa: PTH208
        except FileNotFoundError:
            return []
        # Sorted as texts, which is much faster than as paths where there are 100,000.
        return [self._parts / name for name in sorted(names) if name.endswith(".parquet") and name[0] != "."]

    def write_part(self, images: Sequence[Regions], conditions: Mapping[str, Any] | None = None) -> Path:
        """Adds one part that holds these images.

        Args:
            conditions: under which it was made; see `plgen_ddp.part_seal`.

        Raises:
            UserError: the disk is full, or the store's folder was removed.
        """
        path = self._parts / part_name([image.image_id for image in images])
        content = part_bytes(images, self._manifest, conditions or {})
        if not self._parts.exists():
            raise UserError(f"run.output: {self._parts} was removed while a job writes there; run again")
        # The folder is not made anew: parts without their manifest would be no store.
        write_atomically(path, iter([content]), make_folder=False)
        return path

    def read_part(self, path: Path, *, embeddings: bool = True) -> Iterator[Regions]:
        """The images of a part; without embeddings, of length 0, it takes a fraction of the time.

        Raises:
            UserError: the part is damaged, is of another store, or holds a number that is NaN or infinite.
        """
        imported = self._imported
        layout = IMPORTED_SCHEMA if imported else SCHEMA
        table, seal = self._read(path, None if embeddings else [name for name in layout.names if name != "embeddings"])
        dim = self._manifest.dim if embeddings else 0
        if wrong := wrong_values(table, dim):
            raise UserError(f"run.output: part {path} {wrong}; {MEND}")
        if (image_id := image_of_nan(table)) is not None:
            raise UserError(
                f"run.output: part {path} is damaged: an embedding of image {image_id} in the store is NaN; {MEND}"
            )
        if seal is not None and (name := seal.broken_by(table, embeddings=False)):
            raise UserError(f"run.output: part {path} is damaged: {name} has changed; {MEND}")
        yield from regions_of(table, dim, imported=imported)

    def check_part(self, path: Path) -> bool:
        """Reads all of a part and compares it with its checksums.

        Returns:
            Whether it has checksums; older parts have none.

        Raises:
            UserError: it is not what was written, or of another store.
        """
        for _ in self.read_part(path):
            pass
        table, seal = self._read(path)
        if seal is not None and (name := seal.broken_by(table)):
            raise UserError(f"run.output: part {path} is damaged: {name} has changed; {MEND}")
        if part_name(table.column("image_id").to_pylist()) != path.name:
            raise UserError(f"run.output: part {path} has other images than its name says; {MEND}")
        return seal is not None

    def part_of_images(self) -> dict[int, Path]:
        """Which part holds each image; the first by name, where parts hold equal copies.

        Raises:
            UserError: two parts hold an image and do not agree about it.
        """
        place, shared = place_images(self.contents())
        for (first, other), image_ids in shared.items():
            if (image_id := self.disagreement(first, other, image_ids)) is not None:
                raise UserError(
                    f"run.output: image {image_id} is in two parts of {self._parts} that do not agree, {first.name} "
                    f"and {other.name}; were two jobs writing here? Score again with run.repair=true, which keeps one"
                )
        return place

    def disagreement(self, first: Path, other: Path, image_ids: Collection[int]) -> int | None:
        """The first of these images about which two parts that hold them do not agree; None where they do.

        Raises:
            UserError: one of them is damaged.
        """
        rows = {row.image_id: row for row in self.read_part(first)}
        for row in self.read_part(other):
            if row.image_id in image_ids and not same_regions(row, rows[row.image_id]):
                return row.image_id
        return None

    def failures(self, image_ids: Collection[int] | None = None) -> list[tuple[int, str, str]]:
        """(image id, stage, reason) of every image, or those of `image_ids`, that could not be scored; ascending."""
        found = {failure for content in self.contents().values() for failure in content.failures}
        wanted = None if image_ids is None else set(image_ids)
        return sorted(failure for failure in found if wanted is None or failure[0] in wanted)

    def contents(self) -> dict[Path, PartContent]:
        """What each part holds, from the index where it has it.

        Raises:
            UserError: a part is damaged, or of another store.
        """
        contents = contents_of_parts(self.folder / "index.parquet", self.part_paths(), self._content)
        for path, content in contents.items():
            self._check_identity(path, content.identity)
        return contents

    def contents_but(self, left_out: Collection[Path]) -> dict[Path, PartContent]:
        """The same without some parts, read anew."""
        return {path: self._content(path) for path in self.part_paths() if path not in left_out}

    def _content(self, path: Path) -> PartContent:
        table, seal = self._read(path, ["image_id", "stage", "reason"])
        if seal is not None and (name := seal.broken_by(table)):
            raise UserError(f"run.output: part {path} is damaged: {name} has changed; {MEND}")
        failed: list[tuple[int, str, str]] = []
        if table.column("reason").null_count < len(table):
            rows = table.filter(table.column("reason").is_valid()).to_pylist()
            failed = [(row["image_id"], row["stage"], row["reason"]) for row in rows]
        image_ids = table.column("image_id").to_numpy()
        if seal is None:
            lengths = pc.list_value_length(self._read(path, ["objectness"])[0].column("objectness"))
            return PartContent(image_ids, failed, int(pc.sum(lengths).as_py() or 0), "", "{}")
        conditions = json.dumps(seal.conditions, sort_keys=True)
        return PartContent(image_ids, failed, seal.boxes, seal.identity, conditions)

    def drop_parts_with_failures(self, image_ids: Collection[int]) -> None:
        """Removes every part of these images that holds a failed one, so that its images are scored again."""
        wanted = set(image_ids)
        failed = {image_id for image_id, _, _ in self.failures()}
        for path, content in self.contents().items():
            images = set(content.image_ids.tolist())
            if images & failed and images <= wanted:
                path.unlink()

    def sweep(self) -> None:
        """Removes what killed writers left under temporary names; those of writers at work stay."""
        for folder in (self.folder, self._parts):
            remove_left_over(folder)

    @functools.cached_property
    def _manifest(self) -> Manifest:
        return self.manifest()

    @functools.cached_property
    def _fingerprint(self) -> str:
        return self._manifest.fingerprint()

    @property
    def _imported(self) -> bool:
        return self._manifest.vocabulary is not None

    def _check_identity(self, path: Path, identity: str, seal: Seal | None = None) -> None:
        """Refuses a part of another store. One that does not say whose it is was written before parts did."""
        if identity and identity != self._fingerprint:
            other = {} if seal is None else seal.manifest["identity"]
            unlike = f" ({'; '.join(differences(other, self._manifest.identity))})" if seal is not None else ""
            raise UserError(f"run.output: part {path} is of another store, made from something else{unlike}; {MEND}")

    def _read(self, path: Path, columns: list[str] | None = None) -> tuple[pa.Table, Seal | None]:
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                seal = Seal.read(file.metadata.metadata)
                table = file.read(columns, use_threads=False).combine_chunks()  # parts are read side by side
            layout = IMPORTED_SCHEMA if "top_name" in table.column_names else SCHEMA
            if not all(field in layout for field in table.schema) or len(table.schema) != len(columns or layout):
                raise pa.ArrowInvalid("it has other columns than a part")
            if any(table.column(field.name).null_count for field in table.schema if not field.nullable):
                raise pa.ArrowInvalid("it lacks values")
        except PermissionError:
            raise UserError(f"run.output: part {path} may not be read: permission denied") from None
        except FileNotFoundError:
            raise UserError(f"run.output: part {path} is gone; did somebody remove it? Run again") from None
        # A flipped bit shows up as whatever the library stumbles over first.
        except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError) as error:
            raise UserError(f"run.output: part {path} is damaged ({one_line(error)}); {MEND}") from None
        if seal is not None:
            self._check_identity(path, seal.identity, seal)
        return table, seal


def place_images(
    contents: Mapping[Path, PartContent],
) -> tuple[dict[int, Path], dict[tuple[Path, Path], set[int]]]:
    """The first part that holds each image, and the images of each pair of that part and another one."""
    paths = list(contents)
    image_ids = np.concatenate([np.empty(0, np.int64), *(content.image_ids for content in contents.values())])
    place = np.repeat(np.arange(len(paths)), [len(content.image_ids) for content in contents.values()])
    # The last assignment counts, which is the first part.
    of_image = dict(zip(image_ids[::-1].tolist(), map(paths.__getitem__, place[::-1].tolist()), strict=True))
    shared: dict[tuple[Path, Path], set[int]] = {}
    if len(of_image) < len(image_ids):
        for image_id, number in zip(image_ids.tolist(), place.tolist(), strict=True):
            if of_image[image_id] != paths[number]:
                shared.setdefault((of_image[image_id], paths[number]), set()).add(image_id)
    return of_image, shared


@functools.cache
def _note(line: str) -> None:
    """Prints a line once: a labelling asks for the manifest several times."""
    print_line(line, error=True)


def store_of(config: Config) -> RegionStore:
    """The region store of a run."""
    return RegionStore(Path(given(config.run.output), "store"))
