"""How long each stage of a rank takes. Stages are marked where they happen; a `StageClock` collects their times.

    clock = StageClock(device)
    with clock.running():
        score_units(...)
    clock.seconds()

Without a running clock a mark costs a microsecond. On CUDA a mark is an event on the current stream, read at the end:
measuring makes nobody wait. A stage's time is then the stream's, with the gaps in which the stream had nothing to do.
"""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import torch

T = TypeVar("T")

_running: "StageClock | None" = None


class StageClock:
    """Sums time by stage."""

    def __init__(self, device: torch.device) -> None:
        """
        Args:
            device: whose time a stage takes.
        """
        self._device = device
        self._lock = threading.Lock()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def running(self) -> Iterator["StageClock"]:
        """Receives the marks of this process in the meantime."""
        global _running
        before, _running = _running, self
        try:
            yield self
        finally:
            _running = before

    def mark(self) -> "float | torch.cuda.Event":
        """The present moment, for `add`."""
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def add(self, name: str, start: "float | torch.cuda.Event", end: "float | torch.cuda.Event") -> None:
        """Counts the time between two marks of one kind to a stage."""
        with self._lock:
            if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
                self._events.append((name, start, end))
            else:
                assert isinstance(start, float) and isinstance(end, float), "two marks of one kind"
                self._seconds[name] += end - start

    def seconds(self) -> dict[str, float]:
        """The sum of each stage so far, in seconds. On CUDA this waits for the device."""
        with self._lock:
            if self._events:
                torch.cuda.synchronize(self._device)
            for name, start, end in self._events:
                self._seconds[name] += start.elapsed_time(end) / 1000
            self._events = []
            return dict(self._seconds)


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Counts what happens inside to a stage of the running clock, if there is one."""
    clock = _running
    if clock is None:
        yield
        return
    start = clock.mark()
    yield
    clock.add(name, start, clock.mark())


def add_seconds(name: str, seconds: float) -> None:
    """Counts time to a stage of the running clock that was measured elsewhere."""
    if _running is not None:
        _running.add(name, 0.0, seconds)


class Awaited(Generic[T]):
    """Items, and how long whoever iterates over them had to wait; where they are made by iterating, that is included.

    seconds: spent waiting, so far. It also counts to a stage of the running clock.
    """

    def __init__(self, name: str, items: Iterable[T]) -> None:
        self.seconds = 0.0
        self._name = name
        self._items = items

    def __iter__(self) -> Iterator[T]:
        iterator = iter(self._items)
        while True:
            start = time.perf_counter()
            item = next(iterator, None)
            waited = time.perf_counter() - start
            self.seconds += waited
            add_seconds(self._name, waited)
            if item is None:
                return
            yield item
