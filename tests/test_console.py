"""What a run says at its end, and that what others wrote cannot forge it."""

import logging
import subprocess
import sys
from dataclasses import replace

import pytest

from plgen_ddp.console import one_line_errors, print_line, print_scoring, print_text, rank_log
from plgen_ddp.errors import UserError
from plgen_ddp.records import RankSummary

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


@pytest.mark.parametrize(
    ("main", "status", "printed"),
    [
        ("lambda: 0", 0, ""),
        ("lambda: 3", 3, ""),
        ("lambda: None", 0, ""),
        ("lambda: sys.exit(2)", 2, ""),
        ("lambda: sys.exit('no such thing')", 1, "no such thing"),
        ("lambda: sys.exit()", 0, ""),
        ("lambda: 1 / 0", 1, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_rank_ends_with_its_status_and_without_the_interpreters_clean_up(main, status, printed):
    code = (
        "import atexit, sys; from plgen_ddp.console import end_with\n"
        "atexit.register(print, 'cleaned up'); print('said', end='')\n"
        f"end_with({main})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (status, "said")
    assert done.stderr.rstrip().endswith(printed)


FORGED = "cat\nAP 1.000  AP50 1.000\x1b[2K\x1b[1A\r\u202ecba\u2028\udcff\x07"
SEEN = r"cat\nAP 1.000  AP50 1.000\x1b[2K\x1b[1A\r\u202ecba\u2028\xff\x07"


def test_a_line_stays_one_line(capsys):
    print_line(f"adding {FORGED}")
    assert capsys.readouterr().out == f"adding {SEEN}\n"


def test_a_text_keeps_its_line_ends_and_nothing_else(capsys):
    print_text("one\n  two \x1b[2K\r\n")
    assert capsys.readouterr().out == "one\n  two \\x1b[2K\\r\n\n"


def test_words_of_other_scripts_are_shown_as_they_are(capsys):
    words = "Fu\u00dfball \u732b\u3000\u72ac \u06a9\u062a\u0627\u0628\u200c\u062e\u0627\u0646\u0647"
    print_line(words)
    assert capsys.readouterr().out == f"{words}\n"


def test_a_mistake_is_one_line_of_bounded_length(capsys):
    with pytest.raises(SystemExit), one_line_errors():
        raise UserError(f"{FORGED} {'x' * 1_000_000}; choose another name")
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {SEEN} xx") and printed.endswith("x; choose another name\n")
    assert printed.count("\n") == 1 and len(printed) < 3000


def test_the_log_holds_the_same(tmp_path, monkeypatch):
    # Only into the file: pytest's own handler keeps a copy, and its workers cannot send one unescaped.
    monkeypatch.setattr(logging.getLogger("plgen_ddp"), "handlers", [])
    with pytest.raises(UserError), rank_log(tmp_path):
        print_line(FORGED)
        print_text("one\ntwo")
        logging.getLogger("plgen_ddp").info("by hand: %s", FORGED)
        raise UserError(FORGED)
    lines = [line.split(" ", 2)[2] for line in (tmp_path / "rank-0.txt").read_text().splitlines()]
    assert lines == [SEEN, "one", "two", f"by hand: {SEEN}", f"error: {SEEN}"]


def test_a_log_that_ends_leaves_the_logger_as_it_was(tmp_path):
    logger = logging.getLogger("plgen_ddp")
    before = (logger.propagate, logger.level, list(logger.handlers))
    with rank_log(tmp_path):
        assert not logger.propagate
    assert (logger.propagate, logger.level, logger.handlers) == before


def test_an_ascii_terminal_shows_escapes():
    code = "from plgen_ddp.console import print_line, print_text; print_line('\\u732b'); print_text('\\xe4\\nb')"
    environment = {"PYTHONIOENCODING": "ascii", "LANG": "C"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stdout) == (0, "\\u732b\n\\xe4\nb\n"), done.stderr
