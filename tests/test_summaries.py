"""What a scoring says at its end."""

from dataclasses import replace
from pathlib import Path

import pytest

from plgen_ddp.plurals import are, counted
from plgen_ddp.records import Audit, ImportSummary, LabelSummary, RankSummary
from plgen_ddp.summaries import print_audit, print_import, print_labels, print_scoring

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


def test_one_thing_is_no_plural(capsys):
    print_scoring([replace(RANK, images=1, boxes=1)], [(7, "read", "no such file")], 1)
    print_scoring([replace(RANK, images=0)], [], 0, stored=1)
    print_import(ImportSummary(Path("store"), images=1, boxes=1, files=1, twice=[3], unknown=[4, 5], missing=[]))
    print_labels(LabelSummary(Path("a.json"), images=1, pseudo_labels=1, base_annotations=1, failed_images=1))
    print_audit(Audit((), images=1, pseudo_labels=1, base_annotations=1, unjudged=1))
    out, err = capsys.readouterr()
    assert [line.partition(" in 100.0 s")[0] for line in out.splitlines()] == [
        "scored 1 image, 1 box",
        "nothing to score: 1 image is in the store",
        "wrote store: 1 image, 1 box from 1 file",
        "wrote a.json: 1 pseudo label on 1 image (1.00 an image), 1 base annotation kept",
        "audited 1 pseudo label and 1 base annotation of 1 image: no leak; 1 label equals a novel annotation by chance",
    ]
    assert [line.partition(";")[0] for line in err.splitlines() if line[0] != " "] == [
        "1 image could not be scored (run.max_failures=1):",
        "note: 1 image is in the files more than once",
        "note: 2 images of the files are not in data.annotations, and left out (first: image 4)",
        "1 image has no pseudo labels because it could not be scored",
    ]


@pytest.mark.parametrize(("number", "text"), [(0, "0 boxes are"), (1, "1 box is"), (21, "21 boxes are")])
def test_a_number_has_the_form_of_its_word(number, text):
    assert f"{counted(number, 'box', 'boxes')} {are(number)}" == text == counted(number, "box is", "boxes are")
