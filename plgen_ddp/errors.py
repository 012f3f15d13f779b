"""The exceptions for a user's mistake, and what their one-line messages are made of."""

import difflib
import os
from collections.abc import Iterable

# Longer words are not compared: that takes their length squared.
_LONGEST = 200


class UserError(ValueError):
    """A wrong key, path, name or file. The message is one line: what is wrong, and the fix."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in the place of a traceback: the line alone, in a notebook too."""
        return [f"error: {self}"]


class PeerError(UserError):
    """A `UserError` that was raised on another rank. That rank prints the message; this one exits silently."""


class StoppedError(Exception):
    """A signal, or the end of torchrun, has stopped this rank between two batches. What is stored is whole."""

    STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed later


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word that looks most like `word`, or an empty string."""
    if len(word) > _LONGEST:
        return ""
    close = difflib.get_close_matches(word, [one for one in known if len(one) <= _LONGEST], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def one_line(error: Exception) -> str:
    """A library's error message on one line, at most 300 characters long."""
    return " ".join(str(error).split())[:300]


def first_sentence(error: Exception) -> str:
    """The first sentence of a library's error message. torch goes on to advise loading a file that may run code."""
    return one_line(error).split(". ")[0]


def user_message(error: UserError | OSError) -> str | None:
    """The one-line message for a user's mistake, or None for an `OSError` that names no file.

    Any function that opens a path may be the first to find that it is too long or not readable. Such an error is
    reported here, so that no caller has to repeat the check.
    """
    if isinstance(error, UserError):
        return str(error)
    return None if error.filename is None else f"cannot use {os.fsdecode(error.filename)}: {error.strerror}"
