"""Score thresholds that are chosen. Pure functions on arrays.

On base names: labelled as if they were novel, they are compared with the base annotations; no novel annotation is
looked at. By density: as many labels as are wanted.
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


def density_thresholds(scores: np.ndarray, groups: np.ndarray, count: int, wanted: int) -> np.ndarray:
    """For each group the threshold above which `wanted` of its labels lie, float64 (count,).

    Equal scores are kept together: where they would exceed the number, fewer are kept. 0 where the group has no more.

    Args:
        scores: (n,), in [0, 1]. groups: int64 (n,), in [0, count). wanted: 1 or more.
    """
    last, next_one = (nth_scores(scores, groups, count, rank) for rank in (wanted, wanted + 1))
    # Half way to the next score, so that a last digit decides nothing.
    half = (last + next_one) / 2
    threshold = np.where((next_one <= half) & (half < last), half, next_one)
    return np.where(next_one >= 0, threshold, 0.0)


def nth_scores(scores: np.ndarray, groups: np.ndarray, count: int, rank: int) -> np.ndarray:
    """The `rank`-th highest score of each group, float64 (count,); minus infinity where it has fewer.

    Args:
        scores: (n,). groups: int64 (n,), in [0, count). rank: from 1.
    """
    order = np.lexsort((-scores, groups))
    starts, ends = (np.searchsorted(groups[order], np.arange(count), side=side) for side in ("left", "right"))
    found = np.full(count, -np.inf)
    enough = ends - starts >= rank
    found[enough] = scores[order[starts[enough] + rank - 1]]
    return found


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
