"""Labels by their number: the ones of the highest scores, of all names together or of each."""

import numpy as np

from plgen_ddp.label.thresholds import density_thresholds, nth_scores
from plgen_ddp.records import PseudoLabels

# Labels that are held beyond those that are wanted, before the lowest are dropped.
_SPARE = 500_000
# More than any store has boxes.
_MOST_LABELS = 2.0**53


class DensestLabels:
    """Collects labels as they arrive, and keeps those that `label.per_image` labels an image can need."""

    def __init__(self, novel_ids: np.ndarray, per_image: float, images: int, *, per_name: bool) -> None:
        """
        Args:
            novel_ids: category ids of the novel names, int64.
            images: how many there are at most.
            per_name: `per_image` labels of each name, not of all together.
        """
        self._novel_ids = novel_ids
        self._per_image = per_image
        self._per_name = per_name
        self._at_most = wanted_labels(per_image, images)
        self._labels: list[PseudoLabels] = []
        self._held, self._limit = 0, self._at_most + _SPARE

    def add(self, labels: PseudoLabels) -> None:
        """Takes the labels of some images, and drops the lowest of all when too many are held."""
        self._labels.append(labels)
        self._held += len(labels)
        if self._held > self._limit:
            every = PseudoLabels.concatenate(self._labels)
            names = self._names(every)
            # One more than wanted, for the threshold lies between the last that is kept and the next.
            least = nth_scores(every.scores, names, self._count, self._at_most + 1)
            every = every.chosen(every.scores >= least[names])
            self._labels, self._held = [every], len(every)
            self._limit = 2 * len(every) + _SPARE

    def thresholds(self, images: int) -> np.ndarray:
        """The threshold of each novel name, float64 (names,), now that `images` have been labelled."""
        labels = PseudoLabels.concatenate(self._labels)
        names = names_of(labels, self._novel_ids)
        wanted = wanted_labels(self._per_image, images)
        return thresholds_by_density(labels.scores, names, len(self._novel_ids), wanted, per_name=self._per_name)

    def labels(self) -> list[PseudoLabels]:
        """What is held, in the order in which it came."""
        return self._labels

    @property
    def _count(self) -> int:
        return len(self._novel_ids) if self._per_name else 1

    def _names(self, labels: PseudoLabels) -> np.ndarray:
        """The group of each label, int64 (n,)."""
        if not self._per_name:
            return np.zeros(len(labels), np.int64)
        return names_of(labels, self._novel_ids)


def wanted_labels(per_image: float, images: int) -> int:
    """How many labels `per_image` an image are."""
    return max(round(min(per_image * images, _MOST_LABELS)), 1)


def thresholds_by_density(
    scores: np.ndarray, names: np.ndarray, count: int, wanted: int, *, per_name: bool
) -> np.ndarray:
    """The threshold of each name above which `wanted` labels lie, float64 (count,).

    Args:
        scores: float64 (n,). names: int64 (n,), in [0, count).
        per_name: that many of each name, not of all together.
    """
    if per_name:
        return density_thresholds(scores, names, count, wanted)
    return np.repeat(density_thresholds(scores, np.zeros(len(scores), np.int64), 1, wanted), count)


def names_of(labels: PseudoLabels, novel_ids: np.ndarray) -> np.ndarray:
    """The novel name of each label, int64 (n,), an index into `novel_ids`."""
    order = np.argsort(novel_ids)
    return order[np.searchsorted(novel_ids[order], labels.category_ids)]
