"""When a process has to stop: SIGTERM, SIGUSR1, or the end of the torchrun that started it.

A thread waits for both, so that a process stops also while its main thread waits in a library, where Python runs no
signal handler. The first signal lets the work inside `finishing_batches` come to the end of a batch. A second one, and
any signal elsewhere, ends the process at once.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from plgen_ddp.console import print_line
from plgen_ddp.errors import StoppedError

# A signal that arrives so soon after the first is the same request: Slurm and torchrun both signal a rank.
_SAME_REQUEST = 2.0
# An orphan looks for its parent so often, and has so long for the end of its batch, in seconds.
_LOOK_EVERY = 1.0
_ORPHANS_GRACE = 30.0


@dataclass
class _State:
    """Why this process has to stop, and whether it is at work that may come to the end of a batch."""

    reason: str | None = None
    finishing: bool = False


_state = _State()


def watch_for_stops(*, parent: bool) -> None:
    """Starts to listen. Call it from the main thread, once; a second call changes nothing.

    Args:
        parent: whether the end of the parent process, torchrun, is a reason to stop.
    """
    if threading.current_thread() is not threading.main_thread() or _watched():
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _woken)
    arguments = (reader, os.getppid() if parent else None)
    threading.Thread(target=_watch, args=arguments, name="stop-watch", daemon=True).start()


@contextlib.contextmanager
def finishing_batches() -> Iterator[None]:
    """Inside, the first signal does not end the process: the work asks `stop_if_asked` between two batches.

    Raises:
        StoppedError: on leaving, where the signal came after the last question.
    """
    _state.finishing = True
    try:
        yield
    finally:
        _state.finishing = False
    stop_if_asked()


def stop_if_asked() -> None:
    """Raises StoppedError where a signal came, or torchrun has ended."""
    if _state.reason is not None:
        raise StoppedError(_state.reason)


def _woken(number: int, frame: object) -> None:
    """Python's own handler does nothing: the thread has the signal's number from the wake-up pipe."""


def _watched() -> bool:
    return signal.getsignal(signal.SIGTERM) is _woken


def _watch(reader: int, parent: int | None) -> None:
    deadline, first = float("inf"), 0.0
    while True:
        if select.select([reader], [], [], _LOOK_EVERY)[0]:
            for number in os.read(reader, 64):
                if number not in (signal.SIGTERM, signal.SIGUSR1):
                    continue  # Ctrl-C is the main thread's
                if first and time.monotonic() - first > _SAME_REQUEST:
                    _end_now("stopped at once by a second signal")
                first = first or time.monotonic()
                _ask(f"stopped by {signal.Signals(number).name}")
        if parent is not None and os.getppid() != parent:
            parent, deadline = None, time.monotonic() + _ORPHANS_GRACE
            _ask("stopped: the torchrun that started this rank has ended")
        if time.monotonic() > deadline:
            _end_now("stopped in the middle of a batch: the torchrun that started this rank has ended")


def _ask(reason: str) -> None:
    _state.reason = _state.reason or reason
    if not _state.finishing:
        _end_now(reason)


def _end_now(reason: str) -> None:
    print_line(f"{reason}; the same command goes on from what is stored", error=True)
    os._exit(StoppedError.STATUS)
