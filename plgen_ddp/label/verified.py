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

from plgen_ddp.boxes import covered, ious
from plgen_ddp.label.box_scores import logit
from plgen_ddp.label.logistic import fit_logistic
from plgen_ddp.records import EVIDENCE, Regions

FOLDS = 5
# A pair is right where a base annotation of its name overlaps the box by this IoU.
RIGHT_IOU = 0.5
# Two boxes look at the same object from this IoU on; one box lies in another from this share of its area on.
_SAME = 0.5
_INSIDE = 0.8


@dataclass(frozen=True, slots=True)
class NamedBoxes:
    """One name for each box of an image, and what the name's probability looks like among the others.

    Attributes:
        name: int64 (n,), index into the names that were asked for.
        probability: float64 (n,), of that name among all names.
        runner_up: float64 (n,), the largest probability of any other name.
        typical: float64 (n,), the name's cosine less its mean over the store, in standard deviations.
    """

    name: np.ndarray
    probability: np.ndarray
    runner_up: np.ndarray
    typical: np.ndarray


def box_features(regions: Regions, extent: tuple[int, int]) -> dict[str, np.ndarray]:
    """Features of the boxes alone, float64 (n,) each, by name.

    Args:
        extent: (width, height) of the image, pixels.
    """
    boxes = regions.boxes_xyxy.astype(np.float64)
    size = boxes[:, 2:] - boxes[:, :2]
    overlap = ious(boxes, boxes)
    np.fill_diagonal(overlap, 0)
    inside = _without_self(covered(boxes, boxes) > _INSIDE)
    found: dict[str, Any] = {"objectness": logit(regions.objectness.astype(np.float64))}
    for name in EVIDENCE:
        if (column := getattr(regions, name)) is not None:
            values = column.astype(np.float64)
            found[name] = values if name == "scale_cosine" else logit(values)
    found["log_area"] = np.log(np.maximum(size.prod(axis=1) / (extent[0] * extent[1]), 1e-9))
    found["log_elongation"] = np.abs(np.log(np.maximum(size[:, 0], 1e-3) / np.maximum(size[:, 1], 1e-3)))
    found["at_border"] = (
        (boxes[:, :2] <= 1).any(axis=1) | (boxes[:, 2:] >= np.array(extent, np.float64) - 1).any(axis=1)
    ).astype(np.float64)
    found["neighbours"] = np.log1p((overlap > _SAME).sum(axis=1))
    found["containing"] = np.log1p(inside.sum(axis=1))
    found["contained"] = np.log1p(inside.sum(axis=0))
    foreground = regions.foreground if regions.foreground is not None else regions.objectness
    strength = foreground.astype(np.float64)
    found["outdone"] = strength - np.where(overlap > _SAME, strength[None, :], 0).max(axis=1, initial=0)
    found["outdone_by_container"] = strength - np.where(inside, strength[None, :], 0).max(axis=1, initial=0)
    found["outdone_by_part"] = strength - np.where(inside.T, strength[None, :], 0).max(axis=1, initial=0)
    return found


def pair_features(regions: Regions, named: NamedBoxes, extent: tuple[int, int]) -> dict[str, np.ndarray]:
    """Features of the boxes with their names, float64 (n,) each, by name; they do not depend on which name it is.

    Args:
        extent: (width, height) of the image, pixels.
    """
    boxes = regions.boxes_xyxy.astype(np.float64)
    found = box_features(regions, extent)
    same_name = _without_self(named.name[:, None] == named.name[None, :])
    overlap = ious(boxes, boxes)
    inside = covered(boxes, boxes) > _INSIDE
    found["name_logit"] = logit(named.probability)
    found["name_margin"] = np.log(np.maximum(named.probability, 1e-9)) - np.log(np.maximum(named.runner_up, 1e-9))
    found["name_typical"] = named.typical
    foreground = regions.foreground if regions.foreground is not None else regions.objectness
    strength = named.probability * foreground.astype(np.float64)
    near, containing, contained = same_name & (overlap > _SAME), same_name & inside, same_name & inside.T
    for title, which in (("near", near), ("containing", containing), ("contained", contained)):
        found[f"same_name_{title}"] = np.log1p(which.sum(axis=1))
        best = np.where(which, strength[None, :], 0).max(axis=1, initial=0)
        found[f"same_name_{title}_better"] = best - strength
    elsewhere = _without_self(~same_name & (overlap > _SAME))
    found["other_name_near"] = np.where(elsewhere, named.probability[None, :], 0).max(axis=1, initial=0)
    return found


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


def _without_self(pairs: np.ndarray) -> np.ndarray:
    np.fill_diagonal(pairs, False)
    return pairs
