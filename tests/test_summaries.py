"""What a scoring says at its end."""

from dataclasses import replace

import pytest

from plgen_ddp.records import RankSummary
from plgen_ddp.summaries import print_scoring

RANK = RankSummary(
    images=500, boxes=40_000, seconds=100.0, waited=0.0, peak_memory=2 * 10**9, peak_gpu_memory=0, host="node7"
)


def test_the_ranks_are_summed(capsys):
    print_scoring([RANK, replace(RANK, seconds=125.0, peak_gpu_memory=10**10)], [], 0)
    out, err = capsys.readouterr()
    assert out.startswith(
        "scored 1000 images, 80000 boxes in 125.0 s (8.00 images/s) on 2 ranks; "
        "peak memory of a rank 2.00 GB, GPU 10.00 GB\n"
    )
    assert not err


def test_the_end_of_a_run_names_each_rank_and_the_slow_ones(capsys):
    slow = replace(RANK, images=300, seconds=101.0, waited=2.0, host="node8")
    print_scoring([RANK, RANK, slow, replace(RANK, images=0, seconds=0.0)], [], 0)
    out, err = capsys.readouterr()
    assert out.splitlines()[1:] == [
        "  rank 0 on node7: 500 images in 100.0 s (5.00 images/s), waited 0.0 s for images",
        "  rank 1 on node7: 500 images in 100.0 s (5.00 images/s), waited 0.0 s for images",
        "  rank 2 on node8: 300 images in 101.0 s (2.97 images/s), waited 2.0 s for images",
        "  rank 3 on node7: 0 images in 0.0 s (0.00 images/s), waited 0.0 s for images",
    ]
    assert err == "slow: rank 2 on node8, 59% of the median rank's speed\n"


def test_a_rank_alone_and_a_run_without_work_have_no_line_a_rank(capsys):
    print_scoring([RANK], [], 0)
    print_scoring([replace(RANK, images=0)] * 2, [], 0, stored=9)
    assert "rank 0" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "waited", "share"), [(100.0, 60.0, "30%"), (100.0, 15.0, None), (4.0, 3.0, None), (1e-9, 0.0, None)]
)
def test_ranks_that_wait_for_images_say_so(capsys, seconds, waited, share):
    print_scoring([replace(RANK, seconds=seconds), replace(RANK, seconds=seconds, waited=waited)], [], 0)
    printed = capsys.readouterr().err
    assert printed == (f"{share} of the time went by waiting for images; more run.workers may help\n" if share else "")
