"""From files to batches: images decoded ahead by threads, batches of one padded detector shape, pinned for the copy.

The plan of the work comes from the dataset alone, never from the number of ranks: images are grouped by the shape that
the detector sees, each group is cut into units, a unit into batches. A unit is computed as a whole and stored as one
part, so its bytes do not depend on who computes it, or on where an earlier run was stopped.
"""

import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from plgen_ddp.coco import ImageIndex
from plgen_ddp.timing import add_seconds, stage

# At least so many units, where the dataset has the images: small ones must spread over the ranks too.
_MIN_UNITS = 64
# Decoded batches that wait, for each worker: enough for a slow file now and then.
_BATCHES_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that could not be scored: in which stage, and why, in one line."""

    image_id: int
    stage: str
    reason: str


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Decoded images of one padded detector shape.

    image_ids: (B,). pixels_bgr: uint8 (B, H, W, 3), image b in [:heights[b], :widths[b]], zeros beyond.
    heights, widths: original pixels. failures: images of the batch that could not be decoded; they are not in the
    columns. unit: which unit of the plan it belongs to. last: the unit's last batch. decode_seconds: what reading and
    decoding took.
    """

    image_ids: tuple[int, ...]
    pixels_bgr: Tensor
    heights: tuple[int, ...]
    widths: tuple[int, ...]
    failures: tuple[Failure, ...] = ()
    unit: int = 0
    last: bool = True
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

    def to(self, device: torch.device) -> "ImageBatch":
        return replace(self, pixels_bgr=self.pixels_bgr.to(device, non_blocking=True))


def plan_units(
    index: ImageIndex, shape_of: Callable[[int, int], tuple[int, int]], images_per_part: int, smallest: int = 1
) -> list[np.ndarray]:
    """The dataset as units of work: positions in `index`, int64, images of one detector shape in ascending id.

    The largest units come first: dealt out in turn, they leave the ranks with nearly equal shares.

    Args:
        shape_of: the padded detector input (height, width) of an image of a height and width.
        images_per_part: the largest unit; smaller where the dataset has fewer than 64 of them.
        smallest: as far as that goes, but for what is left of a group.
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


def image_batches(
    index: ImageIndex, units: Sequence[np.ndarray], images_per_batch: int, workers: int, pin: bool
) -> Iterator[ImageBatch]:
    """The batches of the units, in the given order, decoded ahead.

    By threads: reading, decoding and copying pixels leave the interpreter to others. Processes would have to be forked,
    and a rank has threads that may hold a lock in that moment, for which its child then waits for ever (CPython's issue
    112275 is one such lock); and their images would travel through /dev/shm, of which a container has 64 MB.

    Args:
        units: positions in `index`; see `plan_units`.
        workers: decoding threads; 0 decodes when a batch is asked for.
        pin: put batches into page-locked memory, from which copies to a GPU need not wait.
    """
    cv2.setNumThreads(1)  # the workers are the parallelism
    batches = (
        (number, unit[start : start + images_per_batch], start + images_per_batch >= len(unit))
        for number, unit in enumerate(units)
        for start in range(0, len(unit), images_per_batch)
    )
    if not workers:
        yield from (_decoded(index, pin, *batch) for batch in batches)
        return
    # A new thread's device is GPU 0, where every rank's pinning would open a context of its own.
    begin = functools.partial(torch.cuda.set_device, torch.cuda.current_device()) if pin else None
    pool = ThreadPoolExecutor(workers, "decoder", begin)
    try:
        ahead: deque[Future[ImageBatch]] = deque()
        for batch in batches:
            ahead.append(pool.submit(_decoded, index, pin, *batch))
            if len(ahead) == _BATCHES_AHEAD * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


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
    """The batches; the running clock is told how long each took to decode, mostly in another thread."""
    for batch in batches:
        add_seconds("decode", batch.decode_seconds)
        yield batch


def _decoded(index: ImageIndex, pin: bool, unit: int, positions: np.ndarray, last: bool) -> ImageBatch:
    """The batch of the images at `positions` of `index`."""
    start = time.perf_counter()
    decoded: list[tuple[int, np.ndarray]] = []
    failures = []
    for position in positions.tolist():
        image_id = int(index.image_ids[position])
        try:
            data = index.path(position).read_bytes()
            pixels = decode_bgr(data, int(index.heights[position]), int(index.widths[position]))
            decoded.append((image_id, pixels))
        except FileNotFoundError:
            failures.append(Failure(image_id, "read", "no such file"))
        except OSError as error:
            failures.append(Failure(image_id, "read", error.strerror or type(error).__name__))
        except DecodeError as error:
            failures.append(Failure(image_id, "decode", str(error)))
    heights = tuple(pixels.shape[0] for _, pixels in decoded)
    widths = tuple(pixels.shape[1] for _, pixels in decoded)
    shape = (len(decoded), max(heights, default=1), max(widths, default=1), 3)
    padded = torch.zeros(shape, dtype=torch.uint8, pin_memory=pin)
    for target, (_, pixels) in zip(padded.numpy(), decoded, strict=True):
        target[: pixels.shape[0], : pixels.shape[1]] = pixels
    image_ids = tuple(image_id for image_id, _ in decoded)
    seconds = time.perf_counter() - start
    return ImageBatch(image_ids, padded, heights, widths, tuple(failures), unit, last, seconds)


class DecodeError(ValueError):
    """The bytes are no whole image of the expected size; the message says what they are."""


def decode_bgr(data: bytes, height: int, width: int) -> np.ndarray:
    """Decodes an encoded image to BGR.

    Gray, 16-bit, palette and CMYK images become 8-bit colour, an alpha channel is dropped. The EXIF orientation is
    applied, as detectron2's and OpenCV's readers do, unless only the stored orientation has the expected size.

    Args:
        data: the file's bytes, in any format that OpenCV reads.
        height, width: what the dataset says, in pixels.

    Returns:
        uint8 (height, width, 3).

    Raises:
        DecodeError: empty, truncated, no image, or of another size.
    """
    if not data:
        raise DecodeError("empty file")
    if _is_cut_off(data):
        raise DecodeError("truncated file")
    encoded = np.frombuffer(data, np.uint8)
    pixels = _imdecode(encoded, cv2.IMREAD_COLOR)
    if pixels.shape[:2] != (height, width):
        stored = _imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if stored.shape[:2] != (height, width):
            raise DecodeError(f"size is {pixels.shape[1]} x {pixels.shape[0]}, the dataset says {width} x {height}")
        pixels = stored
    return pixels


def _imdecode(encoded: np.ndarray, flags: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(encoded, flags)
    except cv2.error as error:  # for example more pixels than OpenCV's own limit
        raise DecodeError(f"not decodable: {error.err}") from None
    if pixels is None:
        raise DecodeError("not an image that OpenCV can decode")
    return pixels


def _is_cut_off(data: bytes) -> bool:
    """Whether a JPEG or PNG stops before its end marker. OpenCV would fill the rest with gray and say nothing.

    A JPEG's segments are walked up to the first scan, past an embedded thumbnail with markers of its own. Behind that
    there must be an end-of-image, which cannot occur inside a scan's data (ITU T.81, B.1.1).
    """
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    if not data.startswith(b"\xff\xd8"):
        return False
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return False  # not a segment: the decoder shall say what it is
        marker = data[position + 1]
        if marker == 0xDA:  # start of scan
            return data.find(b"\xff\xd9", position) < 0
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a segment
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return True
