"""From files to batches: a Dataset that decodes on threads, an exact DistributedSampler, a DataLoader that runs ahead.

The plan of the work comes from the dataset alone, never from the number of ranks. Images are grouped by the shape that
the detector sees, each group is cut into units, a unit into batches. A unit is computed as a whole and stored as one
part, so its bytes do not depend on which rank computes it, or on where an earlier run was stopped.
"""

import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from plgen_ddp.image_files import ImageIndex
from plgen_ddp.records import Regions
from plgen_ddp.score.decode import DecodeError, decode_bgr
from plgen_ddp.score.timing import add_seconds, stage

T = TypeVar("T")

# Minimum number of units where there are enough images, so that a small dataset spreads over the ranks.
_MIN_UNITS = 64
# Decoded batches that wait for the detector: enough for a slow file now and then.
_BATCHES_AHEAD = 8


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Decoded images of one padded detector shape.

    Attributes:
        image_ids: (B,).
        pixels_bgr: uint8 (B, H, W, 3); image b lies in [:heights[b], :widths[b]], zeros beyond.
        heights, widths: (B,), original pixels.
        failures: the images of the batch that could not be decoded; the other columns do not hold them.
        decode_seconds: what reading and decoding took, summed over threads.
    """

    image_ids: tuple[int, ...]
    pixels_bgr: Tensor
    heights: tuple[int, ...]
    widths: tuple[int, ...]
    failures: tuple[Regions, ...] = ()
    decode_seconds: float = 0.0

    def __post_init__(self) -> None:
        count = len(self.image_ids)
        shape = tuple(self.pixels_bgr.shape)
        right = len(shape) == 4 and shape[0] == count and shape[3] == 3 and self.pixels_bgr.dtype == torch.uint8
        assert right, f"pixels_bgr is {self.pixels_bgr.dtype} {shape}, expected uint8 ({count}, H, W, 3)"
        assert len(self.heights) == len(self.widths) == count, "one height and one width an image"

    def __len__(self) -> int:
        return len(self.image_ids)

    def singles(self) -> Iterator["ImageBatch"]:
        """Each image as a batch of its own, without the padding that the batch needed."""
        for position, (image_id, height, width) in enumerate(
            zip(self.image_ids, self.heights, self.widths, strict=True)
        ):
            yield ImageBatch(
                (image_id,), self.pixels_bgr[position : position + 1, :height, :width], (height,), (width,)
            )

    def pin_memory(self) -> "ImageBatch":
        """The batch in page-locked memory, from which copies to a GPU need not wait. `DataLoader` calls this."""
        return replace(self, pixels_bgr=self.pixels_bgr.pin_memory())

    def to(self, device: torch.device) -> "ImageBatch":
        """The batch with its pixels on `device`; a copy from page-locked memory does not wait for the device."""
        return replace(self, pixels_bgr=self.pixels_bgr.to(device, non_blocking=True))


def plan_units(
    index: ImageIndex, shape_of: Callable[[int, int], tuple[int, int]], images_per_part: int, smallest: int = 1
) -> list[np.ndarray]:
    """The dataset as units of work: positions in `index`, int64, images of one detector shape in ascending id.

    The largest units come first: dealt out in turn, they leave the ranks with nearly equal shares.

    Args:
        shape_of: the padded detector input (height, width) of an image of a height and width.
        images_per_part: the largest unit; smaller where the dataset has fewer than 64 of them.
        smallest: minimum unit size; a group's last unit may be smaller.
    """
    size = min(images_per_part, max(smallest, len(index) // _MIN_UNITS))
    groups: dict[tuple[int, int], list[int]] = {}
    shapes: dict[tuple[int, int], tuple[int, int]] = {}
    for position, extent in enumerate(zip(index.heights.tolist(), index.widths.tolist(), strict=True)):
        shape = shapes.get(extent) or shapes.setdefault(extent, shape_of(*extent))
        groups.setdefault(shape, []).append(position)
    units = [
        np.array(groups[shape][start : start + size], np.int64)
        for shape in sorted(groups)
        for start in range(0, len(groups[shape]), size)
    ]
    return sorted(units, key=len, reverse=True)


class ExactDistributedSampler(DistributedSampler[int]):
    """`DistributedSampler` without shuffling and without its padding: every position on exactly one rank.

    torch's sampler deals positions round-robin, then repeats some of them so that all ranks have equally many. The
    first len(range(rank, length, ranks)) of a rank's positions are those before the padding.
    """

    def __init__(self, length: int, rank: int, ranks: int) -> None:
        super().__init__(range(length), num_replicas=ranks, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self._own = len(range(rank, length, ranks))

    def __iter__(self) -> Iterator[int]:
        return iter(list(super().__iter__())[: self._own] if self._own else [])

    def __len__(self) -> int:
        return self._own


def units_of_rank(units: Sequence[np.ndarray], rank: int, ranks: int) -> list[np.ndarray]:
    """The units that `rank` of `ranks` computes, in the plan's order."""
    return [units[number] for number in ExactDistributedSampler(len(units), rank, ranks)]


class UnitBatchSampler(Sampler[list[int]]):
    """The batches of some units, one unit after the other; no batch crosses a unit."""

    def __init__(self, units: Iterable[np.ndarray], images_per_batch: int) -> None:
        self._units = units
        self._images_per_batch = images_per_batch

    def __iter__(self) -> Iterator[list[int]]:
        for unit in self._units:
            for start in range(0, len(unit), self._images_per_batch):
                yield unit[start : start + self._images_per_batch].tolist()

    def batches_in(self, unit: np.ndarray) -> int:
        """How many batches a unit has."""
        return -(-len(unit) // self._images_per_batch)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """One image, uint8 (H, W, 3) BGR, or why there is none; and the seconds that this took."""

    image_id: int
    pixels_bgr: np.ndarray | None
    failure: Regions | None
    seconds: float


class ImageFiles(Dataset[DecodedImage]):
    """The images of an index by position. A batch of them is decoded over a pool of threads.

    Reading, decoding and copying pixels release the interpreter lock. Processes would be no faster and are not safe: a
    rank's threads may hold a lock while it forks, and its child then waits for that lock for ever (CPython's issue
    112275 is one). Their images would also travel through /dev/shm, of which a container has 64 MB.
    """

    def __init__(self, index: ImageIndex, pool: ThreadPoolExecutor | None) -> None:
        """
        Args:
            pool: decodes a batch's images side by side; None decodes them one by one.
        """
        self._index = index
        self._pool = pool

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, position: int) -> DecodedImage:
        start = time.perf_counter()
        image_id = int(self._index.image_ids[position])
        pixels, failure = None, None
        try:
            data = self._index.path(position).read_bytes()
            pixels = decode_bgr(data, int(self._index.heights[position]), int(self._index.widths[position]))
        except FileNotFoundError:
            failure = Regions.failed(image_id, "read", "no such file")
        except OSError as error:
            failure = Regions.failed(image_id, "read", error.strerror or type(error).__name__)
        except DecodeError as error:
            failure = Regions.failed(image_id, "decode", str(error))
        return DecodedImage(image_id, pixels, failure, time.perf_counter() - start)

    def __getitems__(self, positions: list[int]) -> list[DecodedImage]:
        return list((self._pool.map if self._pool else map)(self.__getitem__, positions))


def collate_images(images: Sequence[DecodedImage]) -> ImageBatch:
    """The images as one batch, padded to the largest height and the largest width among them."""
    start = time.perf_counter()
    decoded = [(image.image_id, image.pixels_bgr) for image in images if image.pixels_bgr is not None]
    heights = tuple(pixels.shape[0] for _, pixels in decoded)
    widths = tuple(pixels.shape[1] for _, pixels in decoded)
    padded = torch.zeros(len(decoded), max(heights, default=1), max(widths, default=1), 3, dtype=torch.uint8)
    for target, (_, pixels) in zip(padded.numpy(), decoded, strict=True):
        target[: pixels.shape[0], : pixels.shape[1]] = pixels
    return ImageBatch(
        tuple(image_id for image_id, _ in decoded),
        padded,
        heights,
        widths,
        tuple(image.failure for image in images if image.failure is not None),
        sum(image.seconds for image in images) + time.perf_counter() - start,
    )


@contextlib.contextmanager
def image_batches(
    index: ImageIndex, batches: UnitBatchSampler, workers: int, device: torch.device
) -> Iterator[Iterator[ImageBatch]]:
    """The batches in the sampler's order, decoded ahead; on leaving, no thread of it is left.

    Args:
        workers: decoding threads; 0 decodes a batch when it is asked for, without any thread.
        device: for a GPU, batches lie in page-locked memory.
    """
    cv2.setNumThreads(1)  # the workers are the parallelism
    with ThreadPoolExecutor(workers, "decoder") if workers else contextlib.nullcontext() as pool:
        loader = DataLoader(
            ImageFiles(index, pool),
            batch_sampler=batches,
            collate_fn=collate_images,
            num_workers=0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # or a loader would draw from the random state of its caller
        )
        if not workers:
            yield iter(loader)
            return
        # A new thread's device is GPU 0, where every rank's pinning would open a context of its own.
        begin = functools.partial(torch.cuda.set_device, device) if device.type == "cuda" else None
        with run_ahead(loader, _BATCHES_AHEAD, begin) as ahead:
            yield ahead


@contextlib.contextmanager
def run_ahead(items: Iterable[T], depth: int, begin: Callable[[], object] | None = None) -> Iterator[Iterator[T]]:
    """The items, made by a thread that is at most `depth` of them ahead. On leaving, the thread has ended.

    An exception in the thread is raised where its item was expected.

    Args:
        begin: called first in the thread.
    """
    made: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def work() -> None:
        error: BaseException | None = None
        try:
            if begin is not None:
                begin()
            for item in items:
                made.put((item, None))
                if stopped.is_set():
                    return
        except BaseException as raised:
            error = raised
        made.put((None, error or StopIteration()))

    def take() -> Iterator[T]:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]

    thread = threading.Thread(target=work, name="loader", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        stopped.set()
        while thread.is_alive():  # it may wait for room
            with contextlib.suppress(queue.Empty):
                made.get_nowait()
            thread.join(0.01)


def on_device(batches: Iterable[ImageBatch], device: torch.device) -> Iterator[ImageBatch]:
    """The batches with their pixels on `device`; on CUDA copied one batch ahead, on a stream of their own."""
    batches = _counted(batches)
    if device.type != "cuda":
        yield from batches
        return
    copies = torch.cuda.Stream(device)
    ahead: tuple[ImageBatch, torch.cuda.Event] | None = None

    def arrived(copied: tuple[ImageBatch, torch.cuda.Event]) -> ImageBatch:
        batch, event = copied
        current = torch.cuda.current_stream(device)
        current.wait_event(event)
        # Or the allocator could hand the memory to the next copy while this stream still reads it.
        batch.pixels_bgr.record_stream(current)
        return batch

    for batch in batches:
        with torch.cuda.stream(copies), stage("copy"):
            copied = (batch.to(device), copies.record_event())
        if ahead is not None:
            yield arrived(ahead)
        ahead = copied
    if ahead is not None:
        yield arrived(ahead)


def _counted(batches: Iterable[ImageBatch]) -> Iterator[ImageBatch]:
    """The batches; adds the decoding time of each to the running clock."""
    for batch in batches:
        add_seconds("decode", batch.decode_seconds)
        yield batch
