"""How far a scoring is, and what its store was made with: what `launch/status.py` shows."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plgen_ddp.plurals import counted
from plgen_ddp.run_lock import Holder, holder_of
from plgen_ddp.store import RegionStore


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """A store at one moment.

    Attributes:
        done, failed: images in it that were scored, and that could not be.
        left: images that the job, or without one the JSON, has beside these.
        twice: images that several parts hold.
        boxes, parts, bytes: of all parts.
        settings: the store's identity.
        conditions: under which its parts were made, JSON, each with its number of parts.
        holder: who holds the lock of the folder; None: nobody.
        at_work: whether that job seems to live.
        images_per_second: while a job is at work, by the parts that it has written; None before the second one.
        seconds_left: at that rate.
    """

    done: int
    failed: int
    left: int
    twice: int
    boxes: int
    parts: int
    bytes: int
    settings: Mapping[str, Any]
    conditions: Mapping[str, int]
    holder: Holder | None
    at_work: bool
    images_per_second: float | None
    seconds_left: float | None

    def as_json(self) -> str:
        """The same as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    def lines(self) -> Iterator[str]:
        """The same for a person."""
        yield f"done {counted(self.done, 'image')}, failed {self.failed}, left {self.left}" + (
            f"; {self.twice} in several parts" if self.twice else ""
        )
        yield f"{counted(self.boxes, 'box', 'boxes')} in {counted(self.parts, 'part')}, {self.bytes / 1e6:.1f} MB"
        for section, values in self.settings.items():
            yield f"{section}: {_shown(values)}"
        for conditions, parts in self.conditions.items():
            shown = _shown(json.loads(conditions)) or "conditions that are not recorded"
            yield f"{counted(parts, 'part')} made under: {shown}"
        if self.holder is None:
            yield "no job is scoring into this folder"
            return
        dead = "" if self.at_work else "; it seems to be dead, and the same command goes on from what is stored"
        yield f"locked by {self.holder.described()}{dead}"
        if self.images_per_second is not None and self.seconds_left is not None:
            yield f"{self.images_per_second:.2f} images/s, {_duration(self.seconds_left)} left"


def status_of(store: RegionStore, folder: Path) -> StoreStatus:
    """The state of a store in `folder`, the job's `run.output`.

    Raises:
        UserError: there is no store, or a part is damaged.
    """
    manifest = store.manifest()
    held = holder_of(folder)
    contents = store.contents()
    stats = {path: path.stat() for path in contents}
    images = [image_id for content in contents.values() for image_id in content.image_ids.tolist()]
    stored = len(set(images))
    failed = len({image_id for content in contents.values() for image_id, _, _ in content.failures})
    holder, at_work = held or (None, False)
    wanted = (holder.images if holder else 0) or int(manifest.identity["dataset"].get("images", stored))
    left = max(wanted - stored, 0)
    written = [(stats[path].st_mtime, len(content.image_ids)) for path, content in contents.items()]
    rate = _rate([one for one in written if holder and one[0] > holder.since]) if at_work else None
    return StoreStatus(
        done=stored - failed,
        failed=failed,
        left=left,
        twice=len(images) - stored,
        boxes=sum(content.boxes for content in contents.values()),
        parts=len(contents),
        bytes=sum(status.st_size for status in stats.values()),
        settings=manifest.identity,
        conditions=dict(Counter(content.conditions for content in contents.values())),
        holder=holder,
        at_work=at_work,
        images_per_second=rate,
        seconds_left=left / rate if rate else None,
    )


def _rate(written: Sequence[tuple[float, int]]) -> float | None:
    """Images a second from (time of writing, images) of parts; None for fewer than two moments.

    The images of the first part took an unknown time: models were loaded before.
    """
    if not written:
        return None
    first, last = min(written)[0], max(written)[0]
    return sum(images for when, images in written if when > first) / (last - first) if last > first else None


def _shown(values: Any) -> str:
    """Nested values on one line; long digests are cut."""
    if not isinstance(values, Mapping):
        text = str(values)
        return text if len(text) <= 40 else text[:12] + "..."
    return ", ".join(
        f"{name} ({_shown(value)})" if isinstance(value, Mapping) else f"{name} {_shown(value)}"
        for name, value in values.items()
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
