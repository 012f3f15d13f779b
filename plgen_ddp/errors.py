"""The one exception that stands for a mistake the user can mend."""

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable, Iterator


class UserError(ValueError):
    """A wrong key, path, name or file. The message is one line: what is wrong, and what to write instead."""


class ToldError(UserError):
    """A `UserError` of another rank, which tells it: this one only stops."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word that looks most like `word`, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def one_line(error: Exception) -> str:
    """What a library says of its error, without the line breaks and not for ever."""
    return " ".join(str(error).split())[:300]


def mistake_of(error: UserError | OSError) -> str | None:
    """What the user did wrong, in one line; None for an `OSError` of no file, which is no mistake of theirs.

    A path that is too long or not readable is found out by whoever touches it first, in many places.
    """
    if isinstance(error, UserError):
        return str(error)
    return None if error.filename is None else f"cannot use {os.fsdecode(error.filename)}: {error.strerror}"


def tell(line: str, *, error: bool = False) -> None:
    """Prints a line for a person, on stdout or stderr, at once.

    A pipe that its reader closed, or a full disk, must not cost the work that the line speaks of: from then on, nothing
    more is said there.
    """
    stream = sys.stderr if error else sys.stdout
    try:
        print(line, file=stream, flush=True)
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns a user's mistake into one line on stderr and exit status 2, Ctrl-C into 130; a bug keeps its traceback."""
    try:
        yield
    except (UserError, OSError) as error:
        if (mistake := mistake_of(error)) is None:
            raise
        if not isinstance(error, ToldError):
            tell(f"error: {mistake}", error=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        tell("interrupted", error=True)
        raise SystemExit(130) from None
