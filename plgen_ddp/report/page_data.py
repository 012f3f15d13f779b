"""The numbers behind the report's slider and name filter: counts for every threshold, not for every label.

A table is int64 (scopes, steps, bins): scope 0 is all names, scope n + 1 the name n. A step is a threshold of the grid,
and a count is of the labels whose score lies above this step but not above the next one. The page adds them up from the
highest step down, so its size does not grow with the number of labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plgen_ddp.label_quality import KINDS, f1_score
from plgen_ddp.ranked_labels import RankedLabels, judge, read_objects
from plgen_ddp.records import PseudoLabels
from plgen_ddp.report.label_file import LabelFile

MOST_AN_IMAGE = 10
"""Images with this many labels, and with more, are one bar."""
SIZES = (16, 32, 64, 96, 128, 192, 256, 384)
"""Upper ends of the bars of sizes: the square root of a box's area, in pixels; the last bar has all above."""
SHOWN_NAMES = 24
"""Names that a plot shows at once, those with most labels. The table has all of them."""
CONFUSED = 10
"""Names of the confusion plot."""
_NEAR = 0.1  # a slider with every step from further below the lowest score would do nothing for long


@dataclass(frozen=True, slots=True)
class Tables:
    """The counts of one file.

    Attributes:
        grid: the thresholds, float64 (steps,), ascending; all labels lie above the first.
        start: the step at which the page opens.
        labels, per_image, sizes: tables; `per_image` counts, in bin r, the groups of an image (and name) that have more
            than r labels.
        kinds, confusion, quality, average: with ground truth, else None. kinds: a table. confusion: labels as
            (rows, steps, columns). quality: precision, recall, F1, float64 (scopes, steps, 3). average: AP50, float64
            (scopes, steps), -1 without objects.
        shown, confused: places of names in the plots.
        objects: of each scope, int64; None without ground truth.
    """

    grid: np.ndarray
    start: int
    labels: np.ndarray
    per_image: np.ndarray
    sizes: np.ndarray
    kinds: np.ndarray | None
    confusion: np.ndarray | None
    quality: np.ndarray | None
    average: np.ndarray | None
    shown: list[int]
    confused: list[int]
    objects: np.ndarray | None


def make_tables(labels: LabelFile) -> Tables:
    """Counts everything that the page shows of a file."""
    grid = threshold_grid(labels.scores, min(labels.thresholds, default=None))
    steps, names = steps_of(labels.scores, grid), len(labels.names)
    counts = _table(labels.name, steps, np.zeros(len(steps), np.int64), names, len(grid), 1)
    size = np.searchsorted(SIZES, np.sqrt(labels.boxes_xywh[:, 2:].clip(0).prod(axis=1)), side="left")
    of_name = counts[1:].sum(axis=(1, 2))
    shown = sorted(range(names), key=lambda name: -int(of_name[name]))[:SHOWN_NAMES]
    judged = _judged_tables(labels, grid) if labels.judged is not None else (None,) * 6
    kinds, confusion, quality, average, confused, objects = judged
    return Tables(
        grid=grid,
        start=0,
        labels=counts,
        per_image=_per_image(labels, steps, len(grid)),
        sizes=_table(labels.name, steps, size, names, len(grid), len(SIZES) + 1),
        kinds=kinds,
        confusion=confusion,
        quality=quality,
        average=average,
        shown=shown,
        confused=confused or [],
        objects=objects,
    )


def threshold_grid(scores: np.ndarray, own: float | None = None) -> np.ndarray:
    """Thresholds float64 (steps,), hundredths or two-hundredths, from just below the lowest score up to under 1.

    Args:
        own: the lowest threshold that the labels were made with. The grid starts there; where all labels lie far above
            it, the next step is just below them.
    """
    lowest = float(scores.min()) if len(scores) else own or 0.0
    starts_there = own is not None and (own < lowest or not len(scores))
    start = own if own is not None and starts_there and lowest < own + _NEAR else lowest
    parts = 100 if start < 0.5 else 200
    first = max(int(np.ceil(start * parts)) - 1, 0)
    even = np.round(np.arange(min(first, parts - 1), parts) / parts, 3)
    return np.append(own, even[even > own]) if own is not None and starts_there else even


def steps_of(scores: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The last step whose threshold lies below each score, int64 (n,); a score of 0 is on the first."""
    return np.maximum(np.searchsorted(grid, scores, side="left") - 1, 0)


def above(table: np.ndarray) -> np.ndarray:
    """The counts above each threshold, of the counts at each step."""
    return table[:, ::-1].cumsum(axis=1)[:, ::-1]


def packed(table: np.ndarray) -> dict[str, Any]:
    """A table as plain values: its shape, and the places (as differences) and values of what is not 0."""
    flat = table.ravel()
    places = np.flatnonzero(flat)
    return {
        "shape": list(table.shape),
        "at": np.diff(places, prepend=0).tolist(),
        "n": flat[places].tolist(),
    }


def _table(name: np.ndarray, steps: np.ndarray, bins: np.ndarray, names: int, grid: int, width: int) -> np.ndarray:
    """A table of labels by name, with all names before them."""
    places = (name * grid + steps) * width + bins
    of_names = np.bincount(places, minlength=names * grid * width).reshape(names, grid, width)
    return np.concatenate([of_names.sum(axis=0, keepdims=True), of_names])


def _per_image(labels: LabelFile, steps: np.ndarray, grid: int) -> np.ndarray:
    """The label of rank r in its image is above a threshold where the image has more than r labels above it."""
    names, ranks = len(labels.names), []
    for keys in (labels.image_ids, _group(labels.image_ids, labels.name)):
        ranks.append(np.minimum(_rank(keys), MOST_AN_IMAGE))
    ends = [rank < MOST_AN_IMAGE for rank in ranks]
    one = np.zeros(len(steps), np.int64)
    every = _table(one[ends[0]], steps[ends[0]], ranks[0][ends[0]], 1, grid, MOST_AN_IMAGE)[:1]
    by_name = _table(labels.name[ends[1]], steps[ends[1]], ranks[1][ends[1]], names, grid, MOST_AN_IMAGE)[1:]
    return np.concatenate([every, by_name])


def _group(image_ids: np.ndarray, name: np.ndarray) -> np.ndarray:
    """One number for each pair of an image and a name."""
    return np.unique(image_ids, return_inverse=True)[1] * (int(name.max(initial=0)) + 1) + name


def _rank(keys: np.ndarray) -> np.ndarray:
    """How many earlier rows have the same key, int64 (n,); the rows go by falling score."""
    order = np.argsort(keys, kind="stable")
    ranks = np.empty(len(keys), np.int64)
    ranks[order] = np.arange(len(keys)) - np.searchsorted(keys[order], keys[order])
    return ranks


def _judged_tables(labels: LabelFile, grid: np.ndarray) -> tuple[Any, ...]:
    """(kinds, confusion, quality, average, confused names, objects) of a file with ground truth."""
    judged = labels.judged
    assert judged is not None
    place = {number: labels.names.index(name) for number, name in judged.name_of.items() if name in labels.names}
    images = [image for image in judged.images.values() if len(image.kinds)]
    empty = np.empty(0, np.int64)
    category = np.concatenate([empty, *(image.labels.names for image in images)])
    name = np.array([place[number] for number in category.tolist()], np.int64)
    on = np.array(
        [place.get(number, -1) for number in np.concatenate([empty, *(image.on for image in images)]).tolist()],
        np.int64,
    )
    kind = np.concatenate([empty, *(image.kinds for image in images)])
    steps = steps_of(np.concatenate([np.empty(0), *(image.labels.scores for image in images)]), grid)
    kinds = _table(name, steps, kind, len(labels.names), len(grid), len(KINDS))
    objects = np.zeros(len(labels.names) + 1, np.int64)
    for boxes in judged.objects.values():
        objects[1:] += np.bincount([place[number] for number in boxes.names.tolist()], minlength=len(labels.names))
    objects[0] = objects[1:].sum()
    quality = _quality(above(kinds), objects)
    of_name = kinds[1:].sum(axis=(1, 2)) + objects[1:]
    confused = sorted(range(len(labels.names)), key=lambda number: -int(of_name[number]))[:CONFUSED]
    confusion = _confusion(name, on, kind, steps, confused, len(grid))
    return kinds, confusion, quality, _average(labels, grid), confused, objects


def _quality(counts: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Precision, recall and F1 float64 (scopes, steps, 3) of the kinds above each threshold."""
    right, total = counts[:, :, 0], counts.sum(axis=2)
    found = np.zeros((*right.shape, 3))
    found[..., 0] = right / np.maximum(total, 1)
    found[..., 1] = right / np.maximum(objects, 1)[:, None]
    for scope, step in np.ndindex(right.shape):
        found[scope, step, 2] = f1_score(*found[scope, step, :2].tolist())
    return found


def _confusion(
    name: np.ndarray, on: np.ndarray, kind: np.ndarray, steps: np.ndarray, confused: Sequence[int], grid: int
) -> np.ndarray:
    """Labels of the names `confused` by what they lie on: one of these, another novel name, a base object, nothing."""
    size = len(confused)
    row_of = {number: row for row, number in enumerate(confused)}
    row = np.array([row_of.get(number, -1) for number in name.tolist()], np.int64)
    column = np.array([row_of.get(number, size) for number in on.tolist()], np.int64)
    column[kind == KINDS.index("base_object")] = size + 1
    column[kind >= KINDS.index("part")] = size + 2
    known = row >= 0
    return _table(row[known], steps[known], column[known], size, grid, size + 3)[1:]


def _average(labels: LabelFile, grid: np.ndarray) -> np.ndarray:
    """AP50 float64 (scopes, steps) of the labels above each threshold."""
    assert labels.ground_truth is not None
    extents = {image.id: (image.width or 0, image.height or 0) for image in labels.file.images}
    truth = read_objects(labels.ground_truth, labels.names, extents)
    filler = np.zeros(len(labels.scores))
    columns = PseudoLabels(
        labels.image_ids, labels.name, labels.boxes_xywh, labels.scores, filler, filler, filler
    ).sorted_by_image()
    order = np.argsort(labels.image_ids, kind="stable")
    ranked = RankedLabels(judge(columns, labels.name[order], truth), truth, len(labels.names))
    found = np.empty((len(labels.names) + 1, len(grid)))
    for step, threshold in enumerate(grid.tolist()):
        every, by_name = ranked.figures(np.full(len(labels.names), threshold))
        found[:, step] = [every.AP50, *(figures.AP50 for figures in by_name)]
    return found
