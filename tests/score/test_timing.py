"""The clock of the stages: what it counts, and when."""

import pytest
import torch

from plgen_ddp.score.timing import Awaited, StageClock, add_seconds, stage

CPU = torch.device("cpu")


def test_a_clock_counts_its_stages_while_it_runs():
    clock = StageClock(CPU)
    with stage("before"):
        pass
    with clock.running():
        with stage("inside"):
            pass
        add_seconds("elsewhere", 1.5)
        add_seconds("elsewhere", 2.0)
        awaited = Awaited("wait", iter((1, 2)))
        assert list(awaited) == [1, 2]
    with stage("after"):
        pass
    add_seconds("after", 1.0)
    seconds = clock.seconds()
    assert seconds.keys() == {"inside", "elsewhere", "wait"}
    assert seconds["elsewhere"] == 3.5 and seconds["wait"] == awaited.seconds > 0 and seconds["inside"] > 0


def test_an_error_inside_a_stage_is_not_swallowed_and_ends_the_clock():
    clock = StageClock(CPU)
    with pytest.raises(KeyError), clock.running(), stage("detector"):
        raise KeyError
    add_seconds("late", 1.0)
    assert "late" not in clock.seconds()
