"""Which unit a rank computes next: those of its own share, then of the last tenth, then what slower ranks have left.

`DistributedSampler` deals nine tenths of the units, one share a rank. No rank owns the last tenth. Every unit is taken
through a counter of its share, which all ranks read, so each unit is taken once, whoever takes it. A part's bytes do
not depend on that. `python -m plgen_ddp.benchmark.stragglers` shows what each step saves.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from plgen_ddp.score.images import units_of_rank


def deal_units(units: Sequence[np.ndarray], rank: int, ranks: int, take: Callable[[int], int]) -> Iterator[np.ndarray]:
    """The units that `rank` of `ranks` takes, one at a time, until all ranks together have taken all.

    Args:
        units: of the plan, the same on every rank.
        take: given the number of a share, how many of its units were taken before; it takes the next one.
    """
    others = [(rank + step) % ranks for step in range(1, ranks)]
    return draw_units(shares_of(units, ranks), [rank, ranks, *others], take)


def shares_of(units: Sequence[np.ndarray], ranks: int) -> list[list[np.ndarray]]:
    """One share a rank, in the order of ranks, and behind them the last tenth of the units, which no rank owns."""
    dealt = len(units) - len(units) // 10
    return [*(units_of_rank(units[:dealt], rank, ranks) for rank in range(ranks)), list(units[dealt:])]


def draw_units(
    shares: Sequence[Sequence[np.ndarray]], order: Iterable[int], take: Callable[[int], int]
) -> Iterator[np.ndarray]:
    """Units of the shares in `order`, each share until it is empty; see `deal_units`."""
    for share in order:
        while (number := take(share)) < len(shares[share]):
            yield shares[share][number]


class UnitsAhead:
    """Units that a loader takes a little ahead of the work. A unit that is taken is lost to faster ranks.

    The loader iterates over it, in a thread of its own. The work calls `begin` with the first batch of each unit. Leave
    it as a context manager before the loader ends, or the loader may wait for the work.
    """

    def __init__(self, units: Iterable[np.ndarray], ahead: int) -> None:
        """
        Args:
            ahead: how many units may be taken that the work has not begun.
        """
        self._units = iter(units)
        self._room = threading.Semaphore(ahead)
        self._taken: deque[np.ndarray] = deque()
        self._left = False

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            self._room.acquire()
            if self._left or (unit := next(self._units, None)) is None:
                return
            self._taken.append(unit)
            yield unit

    def begin(self) -> np.ndarray:
        """The unit that the work begins."""
        unit = self._taken.popleft()
        self._room.release()
        return unit

    def __enter__(self) -> "UnitsAhead":
        return self

    def __exit__(self, *error: object) -> None:
        self._left = True
        self._room.release()
