"""The processor cores of this process, and what else its speed hangs on."""

import contextlib
import gc
import os
from collections.abc import Iterator


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """For work on millions of small objects without cycles, which the collector would look through again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
