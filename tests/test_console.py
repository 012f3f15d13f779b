"""What a run says at its end."""

from dataclasses import replace

import pytest

from plgen_ddp.console import print_scoring
from plgen_ddp.records import RankSummary

RANK = RankSummary(images=500, boxes=40_000, seconds=100.0, waited=0.0, peak_memory=2 * 10**9, peak_gpu_memory=0)


def test_the_ranks_are_summed(capsys):
    print_scoring([RANK, replace(RANK, seconds=125.0, peak_gpu_memory=10**10)], [], 0)
    out, err = capsys.readouterr()
    assert out == (
        "scored 1000 images, 80000 boxes in 125.0 s (8.00 images/s) on 2 ranks; "
        "peak memory of a rank 2.00 GB, GPU 10.00 GB\n"
    )
    assert not err


@pytest.mark.parametrize(
    ("seconds", "waited", "share"), [(100.0, 60.0, "30%"), (100.0, 15.0, None), (4.0, 3.0, None), (1e-9, 0.0, None)]
)
def test_ranks_that_wait_for_images_say_so(capsys, seconds, waited, share):
    print_scoring([replace(RANK, seconds=seconds), replace(RANK, seconds=seconds, waited=waited)], [], 0)
    printed = capsys.readouterr().err
    assert printed == (f"{share} of the time went by waiting for images; more run.workers may help\n" if share else "")
