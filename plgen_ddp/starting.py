"""Ctrl-C while a command still imports its libraries, which takes seconds: one line, as later, and no traceback."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interruptible_imports() -> Iterator[None]:
    """Inside, Ctrl-C ends the process at once with status 130. Of several ranks only the first prints a line."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(number: int, frame: object) -> None:
    # world.py reads torchrun's environment; it imports torch, which takes these seconds.
    if os.environ.get("RANK", "0") == "0":
        os.write(2, b"interrupted\n")
    os._exit(130)
