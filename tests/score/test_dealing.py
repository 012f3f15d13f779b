"""Which units a rank takes: each unit once, however fast the ranks are, and few of them ahead of its work."""

import threading
from collections import Counter

import numpy as np
import pytest

from plgen_ddp.score.dealing import UnitsAhead, deal_units, shares_of


class Counters:
    """What ranks share, in one process."""

    def __init__(self):
        self._counts = Counter()

    def take(self, share):
        self._counts[share] += 1
        return self._counts[share] - 1


def plan_of(count):
    return [np.array([number]) for number in range(count)]


@pytest.mark.parametrize("ranks", range(1, 6))
@pytest.mark.parametrize("count", [0, 1, 9, 10, 14, 101])
def test_each_unit_is_taken_once_in_whatever_order_ranks_ask(count, ranks):
    generator, counters = np.random.default_rng(count * ranks), Counters()
    left = {rank: deal_units(plan_of(count), rank, ranks, counters.take) for rank in range(ranks)}
    taken = []
    while left:
        rank = generator.choice(list(left))
        unit = next(left[rank], None)
        if unit is None:
            del left[rank]
        else:
            taken.append(int(unit[0]))
    assert sorted(taken) == list(range(count))


def test_a_rank_alone_takes_the_plan_in_its_order():
    assert [int(unit[0]) for unit in deal_units(plan_of(25), 0, 1, Counters().take)] == list(range(25))


def test_a_rank_takes_its_own_share_then_the_last_tenth_then_those_of_others():
    assert [[int(unit[0]) for unit in share] for share in shares_of(plan_of(20), 3)] == [
        list(range(0, 18, 3)),
        list(range(1, 18, 3)),
        list(range(2, 18, 3)),
        [18, 19],
    ]
    taken = [int(unit[0]) for unit in deal_units(plan_of(20), 1, 3, Counters().take)]
    assert taken == [*range(1, 18, 3), 18, 19, *range(2, 18, 3), *range(0, 18, 3)]


@pytest.mark.parametrize("ahead", [1, 2])
def test_a_loader_takes_few_units_ahead_of_the_work(ahead):
    taken = []
    units = UnitsAhead((taken.append(unit) or unit for unit in plan_of(9)), ahead)
    loader = threading.Thread(target=lambda: [None for _ in units], daemon=True)
    with units:
        loader.start()
        for begun in range(4):
            while len(taken) < begun + ahead:
                loader.join(0.01)
            loader.join(0.1)  # it would take more now
            assert len(taken) == begun + ahead
            assert units.begin()[0] == begun
    loader.join(10)
    assert not loader.is_alive(), "the loader does not wait for work that has ended"
