"""What ranks of unequal speed cost, and what handing out units through shared counters saves: a simulation.

    python -m plgen_ddp.benchmark.stragglers
    python -m plgen_ddp.benchmark.stragglers --units 2000 --ranks 8

A unit takes 1 second on a rank of speed 1, and clocks are simulated, so the table takes a second on any machine. The
ranks take units by the job's own code (`score/dealing.py`), two ahead of their work as on a GPU. "Lost" is how much
longer the slowest rank takes than it would if all ranks ended together.

- in turn: `DistributedSampler` alone.
- last tenth: the last tenth of the units goes to ranks as they become free.
- helping: the job's rule. Then a free rank also takes units of others' shares.
"""

import argparse
import heapq
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from plgen_ddp.benchmark.tables import markdown
from plgen_ddp.console import print_line
from plgen_ddp.score.dealing import deal_units, draw_units, shares_of
from plgen_ddp.score.images import units_of_rank

# Takes units, a rank, the number of ranks and a counter a share; see `deal_units`.
Scheme = Callable[[Sequence[np.ndarray], int, int, Callable[[int], int]], Iterator[np.ndarray]]

_AHEAD = 2  # units that a rank has taken and not begun


@dataclass(frozen=True, slots=True)
class Outcome:
    """A simulated run.

    Attributes:
        seconds: until the last rank is done.
        lost: by how much that is more than the ideal, as a share of the ideal.
        taken: numbers of the units that each rank computed.
    """

    seconds: float
    lost: float
    taken: list[list[int]]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=2000, metavar="N", help="units of equal size (2000)")
    parser.add_argument("--ranks", type=int, default=8, metavar="N", help="ranks (8)")
    options = parser.parse_args(words)
    found = {
        name: {scheme: simulate(options.units, speeds, SCHEMES[scheme]) for scheme in SCHEMES}
        for name, speeds in situations(options.ranks, options.units).items()
    }
    columns: dict[str, Callable[[str], str]] = {f"lost, {options.units} units, {options.ranks} ranks": str}
    columns |= {scheme: partial(_cell, found, scheme) for scheme in SCHEMES}
    for line in markdown(columns, list(found)).splitlines():
        print_line(line)
    return 0


def simulate(units: int, speeds: Sequence[Callable[[float], float]], scheme: Scheme) -> Outcome:
    """Lets ranks work on simulated clocks.

    Args:
        units: how many, of 1 second at speed 1 each.
        speeds: of each rank, by the time in seconds.
    """
    counters: Counter[int] = Counter()

    def take(share: int) -> int:
        counters[share] += 1
        return counters[share] - 1

    ranks, plan = len(speeds), [np.array([number]) for number in range(units)]
    left = [scheme(plan, rank, ranks, take) for rank in range(ranks)]
    ahead: list[deque[int]] = [deque() for _ in range(ranks)]
    taken: list[list[int]] = [[] for _ in range(ranks)]
    clocks = [(0.0, rank) for rank in range(ranks)]
    end = 0.0
    while clocks:
        now, rank = heapq.heappop(clocks)
        end = max(end, now)
        for free in range(2):  # it takes what may lie ahead of it, begins one, and takes another for that
            while len(ahead[rank]) < _AHEAD and (unit := next(left[rank], None)) is not None:
                ahead[rank].append(int(unit[0]))
            if not free and ahead[rank]:
                taken[rank].append(ahead[rank].popleft())
                heapq.heappush(clocks, (now + 1 / speeds[rank](now), rank))
    return Outcome(end, max(end / _ideal(units, speeds) - 1, 0.0), taken)


def situations(ranks: int, units: int) -> dict[str, list[Callable[[float], float]]]:
    """Speeds of each rank over time."""

    def spread(width: float) -> list[Callable[[float], float]]:
        return [partial(_constant, 1 - width * rank / max(ranks - 1, 1)) for rank in range(ranks)]

    equal = spread(0.0)
    half_way = units / ranks / 2
    return {
        "equal speeds": equal,
        "speeds spread over 10 %": spread(0.1),
        "speeds spread over 30 %": spread(0.3),
        "one rank 10 % slower": [*equal[1:], partial(_constant, 0.9)],
        "one rank 30 % slower": [*equal[1:], partial(_constant, 0.7)],
        "one rank at half speed": [*equal[1:], partial(_constant, 0.5)],
        "one rank that halves half way": [*equal[1:], lambda now: 1.0 if now < half_way else 0.5],
    }


def _cell(found: Mapping[str, Mapping[str, Outcome]], scheme: str, name: str) -> str:
    return f"{found[name][scheme].lost:.1%}"


def _constant(speed: float, now: float) -> float:
    return speed


def _ideal(units: int, speeds: Sequence[Callable[[float], float]]) -> float:
    """Seconds until ranks that all end together have done the units, to a hundredth."""
    now, done, step = 0.0, 0.0, 0.01
    while done < units:
        done += step * sum(speed(now) for speed in speeds)
        now += step
    return now


def _in_turn(units: Sequence[np.ndarray], rank: int, ranks: int, take: Callable[[int], int]) -> Iterator[np.ndarray]:
    return iter(units_of_rank(units, rank, ranks))


def _last_tenth(units: Sequence[np.ndarray], rank: int, ranks: int, take: Callable[[int], int]) -> Iterator[np.ndarray]:
    return draw_units(shares_of(units, ranks), [rank, ranks], take)


SCHEMES: dict[str, Scheme] = {"in turn": _in_turn, "last tenth": _last_tenth, "helping": deal_units}


if __name__ == "__main__":
    sys.exit(main())
