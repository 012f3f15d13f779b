"""How a command ends, and that what others wrote cannot forge what it says."""

import logging
import subprocess
import sys

import pytest

from plgen_ddp.console import one_line_errors, print_line, print_text, rank_log
from plgen_ddp.errors import UserError


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
