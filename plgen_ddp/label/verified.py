"""A confidence that means something: the probability that a box and its name are right, learned on base names.

For every box and its likeliest base name it is known whether they are right: whether a base annotation of that name
overlaps the box. A classifier learns this from features that know no name (`pair_features`), and is applied to novel
names as it is. Only base annotations are ever looked at.

The classifier is a logistic regression (scikit-learn) on standardised features. It is cross-fitted: images fall into
folds by their id, and an image is scored by the classifier that was trained on the other folds. So no annotation of an
image decides what its own boxes score.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np

from plgen_ddp.boxes import areas, paired_intersections, paired_ious
from plgen_ddp.label.box_scores import logit
from plgen_ddp.label.logistic import fit_logistic, one_blas_thread
from plgen_ddp.label.stacked import StackedBoxes
from plgen_ddp.records import EVIDENCE, Regions

FOLDS = 5
TAUGHT_IOU = 0.6
"""Verified is taught a stricter IoU than that of a right label: it then prefers the box that fits best, and it errs on
the careful side."""
LIKELY = 0.1
"""A box whose likeliest name has a smaller share of the probability of all names is not asked about: it scores 0."""
# Two boxes look at the same object from this IoU on; one box lies in another from this share of its area on.
_SAME = 0.5
_INSIDE = 0.8


@dataclass(frozen=True, slots=True)
class NamedBoxes:
    """One name for each box of some images, and what the name's probability looks like among the others.

    Attributes:
        name: int64 (n,), index into the names that were asked for.
        probability: float64 (n,), of that name among all names.
        share: float64 (n,), of that name in the sum over all names; a softmax's probability itself.
        runner_up: float64 (n,), the largest probability of any other name.
        of_group: float64 (n,), of all names that were asked for together.
        typical: float64 (n,), the name's cosine less its mean over the store, in standard deviations.
        levels: where the vocabulary has a hierarchy, float64 (n,) of its super level and of its sub level: the name's
            probability as `class_scores.confirmed` has it; else empty.
    """

    name: np.ndarray
    probability: np.ndarray
    share: np.ndarray
    runner_up: np.ndarray
    of_group: np.ndarray
    typical: np.ndarray
    levels: tuple[np.ndarray, ...] = ()

    def first(self) -> "NamedBoxes":
        """The first box alone."""
        return NamedBoxes(
            name=self.name[:1],
            probability=self.probability[:1],
            share=self.share[:1],
            runner_up=self.runner_up[:1],
            of_group=self.of_group[:1],
            typical=self.typical[:1],
            levels=tuple(level[:1] for level in self.levels),
        )

    def likely(self) -> np.ndarray:
        """Which boxes are worth a question: indices int64, ascending."""
        return np.flatnonzero(self.share >= LIKELY)


@dataclass(frozen=True, slots=True)
class _Neighbours:
    """What lies around the k boxes that are asked about: (p,) each, a pair of such a box and another of its image.

    Attributes:
        count: k.
        row: int64, ascending, which of the k boxes. other: int64, the other box, an index into all n.
        overlap: IoU float64. near: bool, they look at the same object.
        inside: bool, the box lies in the other. around: the other way round.
    """

    count: int
    row: np.ndarray
    other: np.ndarray
    overlap: np.ndarray
    near: np.ndarray
    inside: np.ndarray
    around: np.ndarray

    def numbers(self, which: np.ndarray) -> np.ndarray:
        """How many of the pairs `which`, bool (p,), each of the k boxes has: int64 (k,)."""
        return np.bincount(self.row[which], minlength=self.count)

    def strongest(self, which: np.ndarray, strength: np.ndarray) -> np.ndarray:
        """The largest strength, of (n,), in each box's pairs `which`, bool (p,): float64 (k,), 0 without any."""
        best = np.zeros(self.count)
        np.maximum.at(best, self.row[which], strength[self.other[which]])
        return best


def _neighbours(boxes: StackedBoxes, rows: np.ndarray) -> _Neighbours:
    row, other = _meeting(boxes, rows)
    corners = boxes.regions.boxes_xyxy.astype(np.float64)
    area, box = np.maximum(areas(corners), np.finfo(np.float64).tiny), rows[row]
    shared = paired_intersections(corners[box], corners[other])
    own, others = area[box], area[other]
    overlap = shared / (own + others - shared)
    near, inside, around = overlap > _SAME, shared > _INSIDE * own, shared > _INSIDE * others
    which = np.flatnonzero(near | inside | around)
    columns = (column[which] for column in (row, other, overlap, near, inside, around))
    return _Neighbours(len(rows), *columns)


def _meeting(boxes: StackedBoxes, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every (row, other box of its image) whose boxes have area in common: two int64 arrays, row by row."""
    left, top, right, bottom = np.ascontiguousarray(boxes.regions.boxes_xyxy.T)
    found = [np.empty((2, 0), np.int64)]
    starts, row_starts = boxes.starts(), boxes.starts(rows)
    for start, end, first, last in zip(starts, starts[1:], row_starts, row_starts[1:], strict=False):
        own, asked = slice(start, end), rows[first:last]
        meets = left[asked, None] < right[own]
        meets &= right[asked, None] > left[own]
        meets &= top[asked, None] < bottom[own]
        meets &= bottom[asked, None] > top[own]
        meets[np.arange(len(asked)), asked - start] = False
        row, other = meets.nonzero()
        found.append(np.stack([row + first, other + start]))
    row, other = np.concatenate(found, axis=1)
    return row, other


def box_features(boxes: StackedBoxes) -> dict[str, np.ndarray]:
    """Features of the boxes alone, float64 (n,) each, by name."""
    rows = np.arange(len(boxes.place))
    return _box_features(boxes, rows, _neighbours(boxes, rows))


def pair_features(boxes: StackedBoxes, named: NamedBoxes, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Features of boxes with their names, float64 (k,) each, by name; they do not depend on which name it is.

    Args:
        rows: the k boxes that are asked about, indices int64, ascending; all n by default. All n are neighbours.
    """
    if rows is None:
        rows = np.arange(len(named.name))
    around = _neighbours(boxes, rows)
    found = _box_features(boxes, rows, around)
    same_name = named.name[rows[around.row]] == named.name[around.other]
    probability, strength = named.probability[rows], named.probability * _foreground(boxes.regions)
    found["name_logit"] = logit(probability)
    found["name_margin"] = np.log(np.maximum(probability, 1e-9)) - np.log(np.maximum(named.runner_up[rows], 1e-9))
    found["name_typical"] = named.typical[rows]
    found["any_asked_name"] = logit(named.of_group[rows])
    for title, level in zip(("name_of_super", "name_of_sub"), named.levels, strict=False):
        found[title] = logit(level[rows])
    near = same_name & around.near
    neighbours = (("near", near), ("containing", same_name & around.inside), ("contained", same_name & around.around))
    for title, which in neighbours:
        found[f"same_name_{title}"] = np.log1p(around.numbers(which))
        found[f"same_name_{title}_better"] = around.strongest(which, strength) - strength[rows]
    found["other_name_near"] = around.strongest(around.near & ~same_name, named.probability)
    total, mean = _weighed(boxes, rows, around, near, strength)
    found["same_name_weight"] = np.log(total)
    found["same_name_fit"] = paired_ious(boxes.regions.boxes_xyxy[rows].astype(np.float64), mean)
    return found


def _weighed(
    boxes: StackedBoxes, rows: np.ndarray, around: _Neighbours, near: np.ndarray, strength: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each box and the boxes of its name around it, weighed by strength and IoU.

    Args:
        near: bool (p,), which pairs of `around` these are. strength: float64 (n,).

    Returns:
        (their weight float64 (k,), at least 1e-9, and their mean box xyxy, float64 (k, 4)).
    """
    corners, row, other = boxes.regions.boxes_xyxy.astype(np.float64), around.row[near], around.other[near]
    weights = around.overlap[near] * strength[other]
    total, mean = np.empty(len(rows)), np.empty((len(rows), 4))
    starts, row_starts = boxes.starts(), boxes.starts(rows)
    pairs = np.searchsorted(row, row_starts).tolist()
    for image, start in enumerate(starts[:-1]):  # one by one: sums have other last bits with other boxes beside them
        asked, own = slice(*row_starts[image : image + 2]), slice(*pairs[image : image + 2])
        weight = np.zeros((len(rows[asked]), starts[image + 1] - start))
        weight[row[own] - row_starts[image], other[own] - start] = weights[own]
        weight[np.arange(len(weight)), rows[asked] - start] = strength[rows[asked]]
        total[asked] = weight.sum(axis=1)
        mean[asked] = weight @ corners[start : starts[image + 1]]
    total = np.maximum(total, 1e-9)
    return total, mean / total[:, None]


def _box_features(boxes: StackedBoxes, rows: np.ndarray, around: _Neighbours) -> dict[str, np.ndarray]:
    regions, extent = boxes.regions, boxes.extents[boxes.place[rows]]
    left, top, right, bottom = regions.boxes_xyxy[rows].T.astype(np.float64)
    width, height = right - left, bottom - top
    found: dict[str, Any] = {"objectness": logit(regions.objectness[rows].astype(np.float64))}
    for name in EVIDENCE:
        if (column := getattr(regions, name)) is not None:
            values = column[rows].astype(np.float64)
            found[name] = values if name == "scale_cosine" else logit(values)
    found["log_area"] = np.log(np.maximum(width * height / (extent[:, 0] * extent[:, 1]), 1e-9))
    found["log_elongation"] = np.abs(np.log(np.maximum(width, 1e-3) / np.maximum(height, 1e-3)))
    found["at_border"] = ((left <= 1) | (top <= 1) | (right >= extent[:, 0] - 1) | (bottom >= extent[:, 1] - 1)).astype(
        np.float64
    )
    strength = _foreground(regions)
    neighbours = (
        ("neighbours", "outdone", around.near),
        ("containing", "outdone_by_container", around.inside),
        ("contained", "outdone_by_part", around.around),
    )
    for count, outdone, which in neighbours:
        found[count] = np.log1p(around.numbers(which))
        found[outdone] = strength[rows] - around.strongest(which, strength)
    return found


def _foreground(regions: Regions) -> np.ndarray:
    """The evidence that a box holds an object, whatever its name: float64 (n,), in [0, 1]."""
    return (regions.objectness if regions.foreground is None else regions.foreground).astype(np.float64)


def folds_of(image_ids: np.ndarray) -> np.ndarray:
    """The fold of each image, int64 (n,): by its id alone, int64 (n,), spread evenly (Knuth's multiplicative hash)."""
    spread = image_ids.astype(np.uint64) * np.uint64(2654435761) & np.uint64(2**32 - 1)
    return (spread * np.uint64(FOLDS) >> np.uint64(32)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Classifier:
    """Logistic regressions over named features, one for each fold of images.

    Attributes:
        features: their names.
        mean, scale: float64 (folds, f), of the standardisation.
        coefficients: float64 (folds, f), of the standardised features. intercepts: float64 (folds,).
        pairs, right: how many boxes it was trained on, and how many of them were right.
    """

    features: tuple[str, ...]
    mean: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    intercepts: np.ndarray
    pairs: int
    right: int

    def __call__(self, features: dict[str, np.ndarray], image_ids: np.ndarray) -> np.ndarray:
        """The probability that each box is right, float64 (n,). image_ids: int64 (n,)."""
        fold = folds_of(image_ids)
        columns = np.stack([features[name] for name in self.features], axis=1)
        standard = np.clip((columns - self.mean[fold]) / self.scale[fold], -6, 6)
        # Multiplied and summed one by one: a product of matrices has other last bits for other numbers of boxes.
        total = (standard * self.coefficients[fold]).sum(axis=1) + self.intercepts[fold]
        return 1 / (1 + np.exp(-total))

    def described(self) -> dict[str, Any]:
        """What it is, for the output's `info`: coefficients of standardised features, the mean over folds."""
        weights = self.coefficients.mean(axis=0).round(4).tolist()
        return {
            "pairs": self.pairs,
            "right": self.right,
            "coefficients": dict(zip(self.features, weights, strict=True)),
            "intercept": round(float(self.intercepts.mean()), 4),
        }


def train(
    columns: dict[str, np.ndarray], right: np.ndarray, image_ids: np.ndarray, pool: Executor | None = None
) -> Classifier:
    """Trains the classifier of each fold on the other folds.

    Args:
        columns: features, float64 (n,) each. right: bool (n,). image_ids: int64 (n,). `fewest_to_learn_from` of the
            latter two is at least 1.
        pool: trains several folds at a time.
    """
    names = tuple(columns)
    values = np.stack([columns[name] for name in names], axis=1)
    folds = folds_of(image_ids)

    def without(fold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        taught = values[chosen := folds != fold]
        mean, scale = taught.mean(axis=0), np.maximum(taught.std(axis=0), 1e-6)
        taught -= mean
        taught /= scale
        return mean, scale, *fit_logistic(np.clip(taught, -6, 6, out=taught), right[chosen], inverse_penalty=1.0)

    with one_blas_thread():
        rows = list((pool.map if pool else map)(without, range(FOLDS)))
    mean, scale, coefficients, intercepts = (np.stack(column) for column in zip(*rows, strict=True))
    return Classifier(names, mean, scale, coefficients, intercepts, len(right), int(right.sum()))


def fewest_to_learn_from(right: np.ndarray, image_ids: np.ndarray) -> int:
    """How many boxes of the rarer answer the classifier of any fold would learn from, at least.

    Args:
        right: bool (n,). image_ids: int64 (n,).
    """
    folds = folds_of(image_ids)
    return min(int((right[folds != fold] == answer).sum()) for fold in range(FOLDS) for answer in (False, True))


def stack_features(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The features of many images under each other."""
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
