"""A labelled JSON as the report sees it: its pseudo labels in columns, what made it, and what ground truth says."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plgen_ddp.coco_boxes import BoxFile, BoxRow, image_difference, read_box_file
from plgen_ddp.errors import UserError
from plgen_ddp.evaluation import JudgedFile, judge_file
from plgen_ddp.plurals import counted
from plgen_ddp.store import RegionStore

# What `print_scoring` leaves in the log of the first rank.
_SPEED = re.compile(r"scored (\d+) images?, .*\(([\d.]+) images/s\) on (\d+) ranks?;")

_NAMED = 8  # names in a sentence


@dataclass(frozen=True, slots=True)
class LabelFile:
    """The labels of one file, by falling score.

    Attributes:
        path: the file. file: its content.
        names: the novel names; `name` indexes them.
        rows: the pseudo labels.
        name, image_ids: int64 (n,). scores: float64 (n,), in [0, 1].
        boxes_xywh: float64 (n, 4), original pixels.
        ground_truth: a file of real annotations, and what it says as judged; None without any.
        failures: (image id, stage, reason) of images that could not be scored; None where there is no run.
        speed: the last scoring in words; None where the run has no log.
    """

    path: Path
    file: BoxFile
    names: tuple[str, ...]
    rows: list[BoxRow]
    name: np.ndarray
    image_ids: np.ndarray
    scores: np.ndarray
    boxes_xywh: np.ndarray
    ground_truth: Path | None
    judged: JudgedFile | None
    failures: list[tuple[int, str, str]] | None
    speed: str | None

    @property
    def thresholds(self) -> list[float]:
        """Those that the labels were kept at, one or one a name; empty where the file says nothing usable."""
        own = self.recorded("label", "score_threshold")
        values = list(own.values()) if isinstance(own, dict) else [own]
        numbers = [float(value) for value in values if isinstance(value, int | float) and 0 <= value <= 1]
        return numbers if len(numbers) == len(values) else []

    def recorded(self, *keys: str) -> Any:
        """What the file's `info` says under nested keys; None where it says nothing."""
        return self.file.recorded(*keys)


def read_label_file(
    path: Path, ground_truth: Path | None, run: Path | None, novel: Sequence[str] | None = None
) -> LabelFile:
    """Reads a labelled JSON, and compares it with ground truth where there is some.

    Args:
        run: the `run.output` of the labels; the folder of `path` by default, where that is one.
        novel: the names whose labels count; those that the file was made for by default.

    Raises:
        UserError: an unreadable file, no pseudo labels, a name that the labels were not made for, or a ground truth
            that does not fit.
    """
    file = read_box_file(path, "labels")
    categories = {category.id: category.name for category in file.categories}
    rows = sorted(file.pseudo_labels(), key=lambda row: -(row.confidence or 0))
    if novel is not None:
        names = list(dict.fromkeys(novel))
        _check_names(file, names, path)
        rows = [row for row in rows if categories.get(row.category_id) in novel]
    else:
        names = file.made_for() or sorted(
            {categories[row.category_id] for row in rows if row.category_id in categories}
        )
    if not names:
        raise UserError(f"{path} has no pseudo labels: no annotation with `confidence`")
    place = {name: number for number, name in enumerate(names)}
    unknown = next((row for row in rows if categories.get(row.category_id) not in place), None)
    if unknown is not None:
        raise UserError(f"{path}: annotation {unknown.id} is a pseudo label of none of its novel names")
    scores = np.array([row.confidence for row in rows], np.float64)
    if len(scores) and not (scores.min() >= 0 and scores.max() <= 1):
        raise UserError(
            f"{path}: `confidence` must lie in 0 to 1; it reaches from {scores.min():g} to {scores.max():g}"
        )
    folder = run or path.parent
    return LabelFile(
        path=path,
        file=file,
        names=tuple(names),
        rows=rows,
        name=np.array([place[categories[row.category_id]] for row in rows], np.int64),
        image_ids=np.array([row.image_id for row in rows], np.int64),
        scores=scores,
        boxes_xywh=np.array([row.bbox for row in rows], np.float64).reshape(-1, 4),
        ground_truth=ground_truth,
        judged=None if ground_truth is None else judge_file(path, ground_truth, novel),
        failures=_failures(file, folder, asked=run is not None),
        speed=_speed(folder / "log" / "rank-0.txt"),
    )


def _check_names(file: BoxFile, names: Sequence[str], path: Path) -> None:
    """Raises a `UserError` where the labels cannot be of these names."""
    made_for = file.made_for()
    unknown = next((name for name in names if made_for is not None and name not in made_for), None)
    if unknown is not None:
        raise UserError(f"--novel: {path} was not made for {unknown!r}, only for {', '.join((made_for or [])[:20])}")
    file.category_ids(names, path)


def _failures(file: BoxFile, run: Path, *, asked: bool) -> list[tuple[int, str, str]] | None:
    store = RegionStore(run / "store")
    if not asked and not (store.folder / "manifest.json").is_file():
        return None
    fingerprint = file.recorded("store", "fingerprint")
    if store.manifest().fingerprint() != fingerprint:
        if asked:
            raise UserError(f"--run: the labels were not made from the store in {store.folder}")
        return None
    return store.failures([image.id for image in file.images])


def _speed(log: Path) -> str | None:
    try:
        found = _SPEED.findall(log.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    if not found:
        return None
    images, rate, ranks = found[-1]
    return f"{rate} images a second ({counted(int(images), 'image')} on {counted(int(ranks), 'rank')})"


def check_same_images(first: LabelFile, second: LabelFile) -> None:
    """Raises a `UserError` where two files label different images."""
    others = {image.id: image for image in second.file.images}
    both = [(image, others[image.id]) for image in first.file.images if image.id in others]
    if not both:
        raise UserError(f"--compare: {second.path} has none of the images of {first.path}")
    for image, other in both:
        if (what := image_difference(image, other)) is not None:
            raise UserError(
                f"--compare: image {image.id} is {what[0]} in {first.path} and {what[1]} in {second.path}; give labels "
                "of the same images"
            )


def which_names(first: LabelFile, second: LabelFile) -> str:
    """Which names two files do not share, in words; empty where they have the same ones."""
    pairs = (("first", first, second), ("second", second, first))
    lonely = {which: [name for name in own.names if name not in other.names] for which, own, other in pairs}
    parts = [
        f"only the {which} has {', '.join(names[:_NAMED])}"
        + (f" and {len(names) - _NAMED} more" * (len(names) > _NAMED))
        for which, names in lonely.items()
        if names
    ]
    if not parts:
        return ""
    return (
        f"The files have different names: {'; '.join(parts)}. Counts and ground truth of a file are of its own names."
    )


def which_images(first: LabelFile, second: LabelFile) -> str:
    """How many images two files share, in words; empty where they have the same ones."""
    one, other = ({image.id for image in labels.file.images} for labels in (first, second))
    if one == other:
        return ""
    both = len(one & other)
    parts = [f"{counted(both, 'image is', 'images are')} in both files"]
    parts += [
        f"{len(own)} only in the {which}" for which, own in (("first", one - other), ("second", other - one)) if own
    ]
    return f"{', '.join(parts)}. Each file's counts are of all its images; the pictures are those of the first."
