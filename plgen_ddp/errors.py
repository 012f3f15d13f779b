"""The one exception that stands for a mistake the user can mend."""

import contextlib
import difflib
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


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns a `UserError` into one line on stderr and exit status 2, Ctrl-C into 130; a bug keeps its traceback."""
    try:
        yield
    except UserError as error:
        if not isinstance(error, ToldError):
            print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
