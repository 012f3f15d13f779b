"""The simulation of unequal ranks: what it finds is what the README says."""

import pytest
from commands import REPOSITORY

from plgen_ddp.benchmark.stragglers import SCHEMES, main, simulate, situations

UNITS, RANKS = 2000, 8


@pytest.mark.parametrize("name", situations(RANKS, UNITS))
def test_no_unit_is_done_twice_and_little_time_is_lost(name):
    speeds = situations(RANKS, UNITS)[name]
    for scheme in SCHEMES.values():
        outcome = simulate(UNITS, speeds, scheme)
        assert sorted(number for taken in outcome.taken for number in taken) == list(range(UNITS))
    assert simulate(UNITS, speeds, SCHEMES["helping"]).lost < 0.05


def test_the_readme_has_the_figures_of_the_simulation():
    speeds = situations(RANKS, UNITS)["one rank at half speed"]
    turn, job = (100 * simulate(UNITS, speeds, SCHEMES[name]).lost for name in ("in turn", "helping"))
    found = f"a rank at half speed among eight costs {job:.1f} % instead of {turn:.1f} %"
    assert found in " ".join((REPOSITORY / "README.md").read_text().split())


def test_ranks_of_equal_speed_keep_to_their_shares():
    turn, job = (
        simulate(UNITS, situations(RANKS, UNITS)["equal speeds"], SCHEMES[name]) for name in ("in turn", "helping")
    )
    dealt = UNITS - UNITS // 10
    own = [[number for number in taken if number < dealt] for taken in turn.taken]
    assert own == [[number for number in taken if number < dealt] for taken in job.taken]


@pytest.mark.parametrize("scheme", ["last tenth", "helping"])
def test_a_slow_rank_takes_fewer_of_the_last_tenth(scheme):
    slow_rank = simulate(UNITS, situations(RANKS, UNITS)["one rank 10 % slower"], SCHEMES[scheme]).taken
    tails = [sum(number >= UNITS - UNITS // 10 for number in taken) for taken in slow_rank]
    assert tails[-1] < min(tails[:-1])


def test_the_table_has_every_scheme(capsys):
    assert main(["--units", "80", "--ranks", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(name in lines[0] for name in SCHEMES) and len(lines) == 2 + len(situations(4, 80))
