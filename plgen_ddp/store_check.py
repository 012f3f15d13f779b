"""Rereads a store against its checksums: which parts must be made again, and the repair."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plgen_ddp.errors import UserError
from plgen_ddp.plurals import are, counted
from plgen_ddp.processor import available_cores
from plgen_ddp.store import MEND, RegionStore, place_images


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """What a store's parts are worth.

    Attributes:
        parts: how many there are. bytes: their size.
        unsealed: how many of them carry no checksums, because they were written before parts did; they are only as
            good as their pages' checksums and lengths.
        bad: the parts that must be made again, each with the reason.
        images: in the good parts, each counted once.
        copies: images that several good parts hold, with equal content.
        again: images of bad parts that no good part holds; of a part that cannot be read, as many as its name says.
        wanted: images that the store has by its manifest when it is complete.
        missing: how many of them are in no part, not even a bad one: the run has not finished, or a part is lost.
        imported: whether the store holds another project's scores.
    """

    parts: int
    bytes: int
    unsealed: int
    bad: dict[Path, str]
    images: int
    copies: int
    again: int
    wanted: int
    missing: int
    imported: bool

    def as_json(self) -> str:
        """The same as JSON."""
        content: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        content["bad"] = {path.name: reason for path, reason in self.bad.items()}
        return json.dumps(content, indent=1)

    def lines(self) -> list[str]:
        """Each bad part with the reason, a line each."""
        return [f"part {path.name}: {reason}" for path, reason in self.bad.items()]

    def summary(self, *, repaired: bool = False) -> str:
        """The same in one line.

        Args:
            repaired: the bad parts have been removed.
        """
        good = self.parts - len(self.bad)
        remedy = "import" if self.imported else "run scoring"
        text = f"{good} of {counted(self.parts, 'part')} {are(good)} good "
        text += f"({counted(self.images, 'image')}, {self.bytes / 1e6:.1f} MB in all)"
        if self.copies:
            text += f"; {counted(self.copies, 'image is', 'images are')} in several parts, equal"
        if self.unsealed:
            unsealed = counted(self.unsealed, "part was", "parts were")
            text += f"; {unsealed} written before parts had checksums of their content"
        if self.bad:
            parts = counted(len(self.bad), "part was", "parts were") if repaired else counted(len(self.bad), "part")
            text += f"; {parts} {'removed' if repaired else 'must be made again'}"
            if self.again:
                text += f", with {counted(self.again, 'image that is', 'images that are')} in no good part"
                text += f": {remedy} again" if repaired else ""
        if self.missing:
            text += (
                f"; {self.missing} of {counted(self.wanted, 'image')} {are(self.missing)} in no part: {remedy} again"
            )
        return text


def check_store(store: RegionStore) -> StoreCheck:
    """Reads every part.

    Raises:
        UserError: there is no store.
    """
    manifest = store.manifest()
    paths = store.part_paths()

    def reason(path: Path) -> tuple[str | None, bool]:
        try:
            return None, store.check_part(path)
        except UserError as error:
            return str(error), True

    with ThreadPoolExecutor(available_cores()) as pool:
        checked = dict(zip(paths, pool.map(reason, paths), strict=True))
    bad = {path: why for path, (why, _) in checked.items() if why is not None}
    contents = store.contents_but(bad)
    # Of parts that disagree, those with more images stay: fewer images are scored again.
    order = sorted(contents, key=lambda path: (-len(contents[path].image_ids), path.name))
    kept: dict[int, Path] = {}
    for path in order:
        shared: dict[Path, set[int]] = {}
        for image_id in contents[path].image_ids.tolist():
            if image_id in kept:
                shared.setdefault(kept[image_id], set()).add(image_id)
        for other, image_ids in shared.items():
            if (image_id := store.disagreement(other, path, image_ids)) is not None:
                bad[path] = f"image {image_id} is in {other.name} too, and they do not agree; were two jobs writing?"
                break
        else:
            kept |= {image_id: path for image_id in contents[path].image_ids.tolist() if image_id not in kept}
    good = {path: content for path, content in contents.items() if path not in bad}
    place, twice = place_images(good)
    lost = {image_id for path in bad if path in contents for image_id in contents[path].image_ids.tolist()}
    again = len(lost - place.keys()) + sum(_images_by_name(path) for path in bad if path not in contents)
    wanted = int(manifest.identity["dataset"].get("images", len(place) + again))
    return StoreCheck(
        parts=len(paths),
        bytes=sum(path.stat().st_size for path in paths if path.exists()),
        unsealed=sum(not sealed for _, sealed in checked.values()),
        bad=bad,
        images=len(place),
        copies=sum(map(len, twice.values())),
        again=again,
        wanted=wanted,
        missing=max(wanted - len(place) - again, 0),
        imported=manifest.vocabulary is not None,
    )


def remove_bad_parts(store: RegionStore, found: StoreCheck) -> Iterator[str]:
    """Removes the parts that must be made again; what it did, in lines. Only for the holder of the run's lock."""
    for path, reason in found.bad.items():
        path.unlink(missing_ok=True)
        yield f"removed part {path.name}: {reason.removesuffix(f'; {MEND}')}"


def repair_store(store: RegionStore, found: StoreCheck) -> list[str]:
    """Removes the bad parts and what killed writers left, and writes a lost manifest again from what the parts carry.

    Only for the holder of the run's lock.

    Returns:
        What it did, in lines.
    """
    done = list(remove_bad_parts(store, found))
    store.sweep()
    if store.part_paths() and store.restore_manifest():
        done.append("wrote manifest.json again from what the parts carry")
    return done


def _images_by_name(path: Path) -> int:
    """How many images a part has by its name, `<first image id>-<images>-<digest>`; 0 for other names."""
    words = path.stem.split("-")
    return int(words[-2]) if len(words) >= 3 and words[-2].isdecimal() else 0
