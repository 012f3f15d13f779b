"""What a process prints and logs: lines, and errors in one line each."""

import contextlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from plgen_ddp.errors import PeerError, StoppedError, UserError, user_message
from plgen_ddp.screen_text import MESSAGE, encodable, visible, visible_lines

# Seconds that a rank leaves to the rank whose error it shares; see `one_line_errors`.
_LINGER = 5.0

_log = logging.getLogger("plgen_ddp")


@dataclass
class _Process:
    """Which rank this process is, and where torchrun wants to find why it failed; set by `identify_process`."""

    rank: int = 0
    torchrun_error_file: Path | None = None


_process = _Process()


def identify_process(rank: int, torchrun_error_file: Path | None) -> None:
    """Says which rank's lines this process prints.

    Args:
        torchrun_error_file: torchrun prints this file's message at the end of its own report of a failed rank; None
            without torchrun.
    """
    _process.rank, _process.torchrun_error_file = rank, torchrun_error_file


@contextlib.contextmanager
def rank_log(folder: Path) -> Iterator[None]:
    """Keeps what this rank prints or logs, and the traceback of an error, in `folder`/rank-N.txt, with the time.

    A resumed run appends to the file.

    Raises:
        UserError: the folder cannot be written.
    """
    path = folder / f"rank-{_process.rank}.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"run.output: cannot write {path}: {error.strerror}") from None
    handler.setFormatter(_LogLine("%(asctime)s %(message)s"))
    level, propagate = _log.level, _log.propagate
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False
    try:
        yield
    except UserError as error:
        _log.info("error: %s", error)
        raise
    except StoppedError as error:
        _log.info("%s", error)
        raise
    except BaseException as error:
        _log.info("stopped by %s", type(error).__name__, exc_info=not isinstance(error, KeyboardInterrupt))
        raise
    finally:
        _log.setLevel(level)
        _log.propagate = propagate
        _log.removeHandler(handler)
        handler.close()


def print_line(line: str, *, error: bool = False) -> None:
    """Prints one line on stdout or stderr and flushes it; the rank's log keeps it too.

    The line may hold names and paths that others chose: `visible` makes them harmless. A closed pipe or a full disk
    must not cost the work that the line reports. After the first such failure the stream is silent.
    """
    _print(visible(line), error)


def print_text(text: str, *, error: bool = False) -> None:
    """Prints several lines that are our own, such as a table or a help text; like `print_line` otherwise.

    Its line ends are kept, so names in it are to be made harmless first (`visible_name`).
    """
    _print(visible_lines(text), error)


def _print(text: str, error: bool) -> None:
    for line in text.split("\n"):
        _log.info("%s", line)
    stream = sys.stderr if error else sys.stdout
    try:
        print(encodable(text, stream.encoding or "utf-8"), file=stream, flush=True)
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _LogLine(logging.Formatter):
    """A record is one line, and the lines of a traceback below it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = visible(record.message)
        return super().formatMessage(record)


@contextlib.contextmanager
def one_line_errors(*, resumes: bool = False) -> Iterator[None]:
    """Turns a user's mistake into one line and exit status 2, Ctrl-C into 130, a signal to stop into 75.

    A bug keeps its traceback.

    Under torchrun the line goes into torchrun's own report, which prints it last. Printed here, it would be 25 lines
    above the end of the screen.

    Args:
        resumes: whether the same command goes on where it was interrupted.
    """
    try:
        yield
    except (UserError, OSError) as error:
        if (message := user_message(error)) is None:
            raise
        message = visible(message, MESSAGE)
        if isinstance(error, PeerError):
            # torchrun's report ends with the first rank that failed, and ends the others. That should be the rank whose
            # own message this is; on another node, this rank's report is the only one.
            time.sleep(_LINGER)
        if _process.torchrun_error_file is not None:
            _leave_to_torchrun(_process.torchrun_error_file, f"error: {message}")
        else:
            print_line(f"error: {message}", error=True)
        raise SystemExit(2) from None
    except StoppedError as error:
        message = f"{error}; the same command goes on from what is stored"
        if _process.torchrun_error_file is not None:
            _leave_to_torchrun(_process.torchrun_error_file, message)
        if _process.rank == 0 or _process.torchrun_error_file is None:
            print_line(message, error=True)
        raise SystemExit(StoppedError.STATUS) from None
    except KeyboardInterrupt:
        if _process.rank == 0:
            goes_on = "; the same command goes on from what is stored" if resumes else ""
            print_line(f"interrupted{goes_on}", error=True)
        raise SystemExit(130) from None


def end_with(main: Callable[[], int | None]) -> NoReturn:
    """Runs a rank's command and ends the process with its status, without the interpreter's own clean-up.

    That clean-up has now and then aborted ranks that had ended well, and ranks that had said what a user's mistake was
    ("terminate called without an active exception"): it destroys what a library's thread still uses.
    """
    try:
        status = main() or 0
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        if isinstance(ending.code, str):
            print_line(ending.code, error=True)
    except KeyboardInterrupt:  # before the command's own handling of mistakes, or after it
        if _process.rank == 0:
            print_line("interrupted", error=True)
        status = 130
    except BaseException:
        traceback.print_exc()
        status = 1
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def failed_status(message: str) -> int:
    """Exit status 1, with the reason: on stderr, or under torchrun at the end of its report."""
    if _process.torchrun_error_file is not None:
        _log.info("error: %s", message)
        _leave_to_torchrun(_process.torchrun_error_file, f"error: {message}")
    else:
        print_line(f"error: {message}", error=True)
    return 1


def _leave_to_torchrun(path: Path, message: str) -> None:
    """Writes why this rank failed in the form that torch.distributed.elastic reads; torchrun prints it as it is."""
    message = visible(message)
    why = {"message": message, "extraInfo": {"py_callstack": message, "timestamp": str(int(time.time()))}}
    try:
        path.write_text(json.dumps({"message": why}))
    except OSError:
        print_line(message, error=True)
