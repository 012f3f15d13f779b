"""The progress of a scoring over all ranks: a bar on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from collections.abc import Callable

from tqdm import tqdm

from plgen_ddp.console import print_line
from plgen_ddp.errors import PeerError
from plgen_ddp.plurals import counted

# Seconds between two readings of the counter, and between two plain lines: a batch job's log stays readable.
_REFRESH = 0.5
_LINE_EVERY = 15.0


class Progress:
    """Counts images over all ranks and shows the count on one rank: a bar on a terminal, plain lines elsewhere.

    Ranks share only a counter, and none waits for another. A thread of the showing rank reads it twice a second, also
    when that rank is done and others are not.
    """

    def __init__(self, count: Callable[[int], int], total: int, *, shown: bool) -> None:
        """
        Args:
            count: adds to the counter of all ranks and returns its value (`World.count`).
            total: images to score now, over all ranks.
            shown: whether this process shows the progress.
        """
        self._count = count
        self._total = total
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._show, name="progress", daemon=True) if shown and total else None
        self._start = time.monotonic()

    def advance(self, images: int) -> None:
        """Adds to the count of all ranks."""
        self._count(images)

    def __enter__(self) -> "Progress":
        self._start = time.monotonic()
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _show(self) -> None:
        terminal = sys.stderr.isatty()
        bar = tqdm(total=self._total, unit="image", desc="scoring", disable=not terminal, dynamic_ncols=True)
        next_line = self._start + _LINE_EVERY
        finished = False
        while not finished:
            finished = self._done.wait(_REFRESH)
            try:
                scored = self._count(0)
            except PeerError:  # the rank itself finds out too, and stops
                return
            bar.update(scored - bar.n if terminal else 0)
            if not terminal and (finished or time.monotonic() >= next_line):
                next_line += _LINE_EVERY
                print_line(self._line(scored), error=True)
        bar.close()

    def _line(self, scored: int) -> str:
        rate = scored / max(time.monotonic() - self._start, 1e-9)
        left = tqdm.format_interval((self._total - scored) / rate) if scored else "?"
        return f"scored {scored} of {counted(self._total, 'image')}, {rate:.2f} images/s, {left} left"
