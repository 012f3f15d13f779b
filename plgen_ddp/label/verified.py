"""A confidence that means something: the probability that a box and its name are right, learned on base names.

For every box and its likeliest base name it is known whether they are right: whether a base annotation of that name
overlaps the box. A classifier learns this from features that know no name (`pair_features`), and is applied to novel
names as it is. Only base annotations are ever looked at.

The classifier is a logistic regression (scikit-learn) on standardised features. It is cross-fitted: images fall into
folds by their id, and an image is scored by the classifier that was trained on the other folds. So no annotation of an
image decides what its own boxes score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plgen_ddp.boxes import areas, intersections, paired_ious
from plgen_ddp.label.box_scores import logit
from plgen_ddp.label.logistic import fit_logistic
from plgen_ddp.records import EVIDENCE, Regions

FOLDS = 5
RIGHT_IOU = 0.5
"""A label is right where an annotation of its name overlaps it by this IoU: what thresholds are chosen by."""
TAUGHT_IOU = 0.6
"""Verified is taught a stricter IoU than that: it then prefers the box that fits best, and what it says errs on the
careful side."""
LIKELY = 0.1
"""A box whose likeliest name has a smaller share of the probability of all names is not asked about: it scores 0."""
# Two boxes look at the same object from this IoU on; one box lies in another from this share of its area on.
_SAME = 0.5
_INSIDE = 0.8


@dataclass(frozen=True, slots=True)
class NamedBoxes:
    """One name for each box of an image, and what the name's probability looks like among the others.

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

    def likely(self) -> np.ndarray:
        """Which boxes are worth a question: indices int64, ascending."""
        return np.flatnonzero(self.share >= LIKELY)


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """How k of an image's n boxes lie to all of them; no box is its own neighbour.

    Attributes:
        overlap: IoU float64 (k, n). near: bool (k, n), they look at the same object.
        inside: bool (k, n), the row's box lies in the column's. around: the other way round.
    """

    overlap: np.ndarray
    near: np.ndarray
    inside: np.ndarray
    around: np.ndarray


def _surroundings(boxes_xyxy: np.ndarray, rows: np.ndarray) -> _Surroundings:
    shared = intersections(boxes_xyxy[rows], boxes_xyxy)
    shared[np.arange(len(rows)), rows] = 0
    area = np.maximum(areas(boxes_xyxy), np.finfo(np.float64).tiny)
    overlap = shared / (area[rows, None] + area[None, :] - shared)
    return _Surroundings(
        overlap, overlap > _SAME, shared > _INSIDE * area[rows, None], shared > _INSIDE * area[None, :]
    )


def box_features(regions: Regions, extent: tuple[int, int]) -> dict[str, np.ndarray]:
    """Features of the boxes alone, float64 (n,) each, by name.

    Args:
        extent: (width, height) of the image, pixels.
    """
    rows = np.arange(len(regions.objectness))
    return _box_features(regions, extent, rows, _surroundings(regions.boxes_xyxy.astype(np.float64), rows))


def pair_features(
    regions: Regions, named: NamedBoxes, extent: tuple[int, int], rows: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Features of boxes with their names, float64 (k,) each, by name; they do not depend on which name it is.

    Args:
        extent: (width, height) of the image, pixels.
        rows: the k boxes that are asked about, indices int64; all n by default. All n are their neighbours.
    """
    if rows is None:
        rows = np.arange(len(named.name))
    boxes = regions.boxes_xyxy.astype(np.float64)
    around = _surroundings(boxes, rows)
    found = _box_features(regions, extent, rows, around)
    same_name = named.name[rows, None] == named.name[None, :]
    probability, strength = named.probability[rows], named.probability * _foreground(regions)
    found["name_logit"] = logit(probability)
    found["name_margin"] = np.log(np.maximum(probability, 1e-9)) - np.log(np.maximum(named.runner_up[rows], 1e-9))
    found["name_typical"] = named.typical[rows]
    found["any_asked_name"] = logit(named.of_group[rows])
    for title, level in zip(("name_of_super", "name_of_sub"), named.levels, strict=False):
        found[title] = logit(level[rows])
    near = same_name & around.near
    neighbours = (("near", near), ("containing", same_name & around.inside), ("contained", same_name & around.around))
    for title, which in neighbours:
        found[f"same_name_{title}"] = np.log1p(which.sum(axis=1))
        found[f"same_name_{title}_better"] = _strongest(which, strength) - strength[rows]
    found["other_name_near"] = _strongest(around.near & ~same_name, named.probability)
    # The boxes of its name around it and itself, weighed by strength and IoU: their weight, and how well it fits their
    # mean.
    weight = np.where(near, around.overlap * strength, 0)
    weight[np.arange(len(rows)), rows] = strength[rows]
    total = np.maximum(weight.sum(axis=1), 1e-9)
    found["same_name_weight"] = np.log(total)
    found["same_name_fit"] = paired_ious(boxes[rows], weight @ boxes / total[:, None])
    return found


def _box_features(
    regions: Regions, extent: tuple[int, int], rows: np.ndarray, around: _Surroundings
) -> dict[str, np.ndarray]:
    boxes = regions.boxes_xyxy[rows].astype(np.float64)
    size = boxes[:, 2:] - boxes[:, :2]
    found: dict[str, Any] = {"objectness": logit(regions.objectness[rows].astype(np.float64))}
    for name in EVIDENCE:
        if (column := getattr(regions, name)) is not None:
            values = column[rows].astype(np.float64)
            found[name] = values if name == "scale_cosine" else logit(values)
    found["log_area"] = np.log(np.maximum(size.prod(axis=1) / (extent[0] * extent[1]), 1e-9))
    found["log_elongation"] = np.abs(np.log(np.maximum(size[:, 0], 1e-3) / np.maximum(size[:, 1], 1e-3)))
    found["at_border"] = (
        (boxes[:, :2] <= 1).any(axis=1) | (boxes[:, 2:] >= np.array(extent, np.float64) - 1).any(axis=1)
    ).astype(np.float64)
    strength = _foreground(regions)
    neighbours = (
        ("neighbours", "outdone", around.near),
        ("containing", "outdone_by_container", around.inside),
        ("contained", "outdone_by_part", around.around),
    )
    for count, outdone, which in neighbours:
        found[count] = np.log1p(which.sum(axis=1))
        found[outdone] = strength[rows] - _strongest(which, strength)
    return found


def _foreground(regions: Regions) -> np.ndarray:
    """The evidence that a box holds an object, whatever its name: float64 (n,), in [0, 1]."""
    return (regions.objectness if regions.foreground is None else regions.foreground).astype(np.float64)


def _strongest(which: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """The largest strength (n,) of each row's neighbours `which`, bool (k, n); 0 for a row that has none."""
    return np.where(which, strength, 0).max(axis=1, initial=0)


def fold_of(image_id: int) -> int:
    """The fold of an image: decided by its id alone, spread evenly (Knuth's multiplicative hash)."""
    return (image_id * 2654435761 % 2**32) * FOLDS >> 32


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

    def __call__(self, features: dict[str, np.ndarray], image_id: int) -> np.ndarray:
        """The probability that each box is right, float64 (n,)."""
        fold = fold_of(image_id)
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


def train(columns: dict[str, np.ndarray], right: np.ndarray, image_ids: np.ndarray) -> Classifier:
    """Trains the classifier of each fold on the other folds.

    Args:
        columns: features, float64 (n,) each. right: bool (n,). image_ids: int64 (n,). `fewest_to_learn_from` of the
            latter two is at least 1.
    """
    names = tuple(columns)
    values = np.stack([columns[name] for name in names], axis=1)
    folds = _folds(image_ids)
    rows = []
    for fold in range(FOLDS):
        chosen = folds != fold
        mean, scale = values[chosen].mean(axis=0), np.maximum(values[chosen].std(axis=0), 1e-6)
        standard = np.clip((values[chosen] - mean) / scale, -6, 6)
        rows.append((mean, scale, *fit_logistic(standard, right[chosen], inverse_penalty=1.0)))
    mean, scale, coefficients, intercepts = (np.stack(column) for column in zip(*rows, strict=True))
    return Classifier(names, mean, scale, coefficients, intercepts, len(right), int(right.sum()))


def fewest_to_learn_from(right: np.ndarray, image_ids: np.ndarray) -> int:
    """How many boxes of the rarer answer the classifier of any fold would learn from, at least.

    Args:
        right: bool (n,). image_ids: int64 (n,).
    """
    folds = _folds(image_ids)
    return min(int((right[folds != fold] == answer).sum()) for fold in range(FOLDS) for answer in (False, True))


def stack_features(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The features of many images under each other."""
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _folds(image_ids: np.ndarray) -> np.ndarray:
    return np.array([fold_of(image_id) for image_id in image_ids.tolist()], np.int64)
