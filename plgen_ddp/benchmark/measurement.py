"""The record of one timed run, and the instruments behind it: operations, the processor's peak, memory."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from plgen_ddp.score.timing import StageClock

STAGES = ("decode", "copy", "detector", "refine", "crop", "CLIP", "write")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One timed run.

    Attributes:
        name: "reference" or "job".
        precision: of detector and CLIP, joined by + where they differ.
        device: "cpu" or "cuda".
        ranks, threads: processes, and the CPU threads of each.
        images: how many were scored in `seconds`.
        seconds: of the slowest rank, from its first image to its last part on disk.
        images_per_second: images / seconds.
        stages_ms: milliseconds an image for each of `STAGES`, summed over ranks. decode and write run in other threads.
        waiting_ms: milliseconds an image, summed over ranks, in which a rank had no batch to work on.
        peak_shares: for each stage of matrix products, the time that its operations take at `peak_tflops`, divided by
            the time that it took. Empty for the reference.
        peak_tflops: 1e12 operations a second and rank of one large matrix product; 0 for the reference.
        boxes_per_image: boxes kept.
        crops_per_image: crops that CLIP encoded, after equal windows were merged.
        load_seconds: of reading the JSON, loading models and, with `clip.compile`, compiling; the slowest rank's.
        warm_up_seconds: of the first image (a first batch on CUDA), before the clock starts; the slowest rank's.
        peak_memory: bytes, of the largest rank.
        end_memory: resident bytes at the end of scoring, of the largest rank.
        peak_gpu_memory: bytes, of the largest rank; 0 on a CPU.
    """

    name: str
    precision: str
    device: str
    ranks: int
    threads: int
    images: int
    seconds: float
    images_per_second: float
    stages_ms: dict[str, float]
    waiting_ms: float
    peak_shares: dict[str, float]
    peak_tflops: float
    boxes_per_image: float
    crops_per_image: float
    load_seconds: float
    warm_up_seconds: float
    peak_memory: int
    end_memory: int
    peak_gpu_memory: int


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second that one large matrix product in `dtype` reaches on `device`, the best of several."""
    side, times = (8192, 20) if device.type == "cuda" else (2048, 5)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(times):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def count_flops(work: Callable[[], object]) -> dict[str, float]:
    """The operations of matrix products and convolutions in `work`, by stage. A multiply-add counts as two.

    On a CPU torch does not count attention's own products, which are a hundredth of ViT-B/32's.
    """
    with FlopCounterMode(display=False) as counter, _FlopClock(counter).running() as clock:
        work()
    return clock.seconds()


class _FlopClock(StageClock):
    """Counts operations by stage where a `StageClock` counts seconds."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__(torch.device("cpu"))
        self._counter = counter

    def mark(self) -> float:
        return float(self._counter.get_total_flops())


def resident_memory() -> int:
    """Bytes of this process in memory now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0
