"""Score thresholds chosen on base names: labelled as if they were novel, they are compared with the base annotations.

No novel annotation is looked at. Pure functions on arrays.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class ChosenThreshold:
    """A threshold, and what the labels of the base names above it are: all in [0, 1]."""

    threshold: float
    precision: float
    recall: float


def best_f_beta(scores: np.ndarray, right: np.ndarray, objects: int, beta: float) -> ChosenThreshold:
    """The threshold with the best F-beta of the labels above it.

    F-beta is (1 + b^2) tp / ((1 + b^2) tp + b^2 fn + fp) (van Rijsbergen).

    Args:
        scores: (n,). right: bool (n,). objects: how many there are to find.
    """
    levels, found, made = _cumulated(scores, right)
    weight = beta**2
    quality = (1 + weight) * found / np.maximum(weight * objects + made, 1)
    return _at(int(quality.argmax()), levels, found, made, objects)


def lowest_with_precision(scores: np.ndarray, right: np.ndarray, objects: int, wanted: float) -> ChosenThreshold:
    """The lowest threshold above which the share of right labels is at least `wanted`; the most precise if none is.

    Args:
        scores: (n,). right: bool (n,). objects: how many there are to find.
    """
    levels, found, made = _cumulated(scores, right)
    precision = found / np.maximum(made, 1)
    good = np.flatnonzero(precision >= wanted)
    return _at(int(good[-1] if len(good) else precision.argmax()), levels, found, made, objects)


def _cumulated(scores: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each distinct score, falling: a threshold just below it, right labels above that, and all labels above it."""
    order = np.argsort(-scores, kind="stable")
    ranked, found = scores[order], np.cumsum(right[order])
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True)) if len(ranked) else np.empty(0, int)
    if not len(last):
        return np.ones(1), np.zeros(1), np.zeros(1)
    distinct = ranked[last]
    # Half way to the next score, so that a last digit decides nothing.
    levels = (distinct + np.append(distinct[1:], max(distinct[-1] - 1e-6, 0.0))) / 2
    return levels, found[last].astype(np.float64), (last + 1).astype(np.float64)


def _at(place: int, levels: np.ndarray, found: np.ndarray, made: np.ndarray, objects: int) -> ChosenThreshold:
    return ChosenThreshold(
        float(levels[place]), float(found[place] / max(made[place], 1)), float(found[place] / max(objects, 1))
    )
