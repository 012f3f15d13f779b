"""From proposals to region embeddings: crop windows, full CLIP batches across images, one embedding a box."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from plgen_ddp.images import ImageBatch
from plgen_ddp.proposals import Proposals
from plgen_ddp.resample import crop_windows


@dataclass(frozen=True, slots=True)
class Regions:
    """The regions of one image, in the order of its proposals.

    boxes_xyxy: float32 (n, 4), original pixels, clipped to the image. objectness: float32 (n,), in [0, 1].
    embeddings: float16 (m, d), unit length, of the first m boxes; m < n only where boxes are left out on purpose.
    """

    image_id: int
    boxes_xyxy: np.ndarray
    objectness: np.ndarray
    embeddings: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.objectness)
        assert self.boxes_xyxy.shape == (count, 4), (
            f"boxes_xyxy has shape {self.boxes_xyxy.shape}, expected {(count, 4)}"
        )
        assert self.embeddings.ndim == 2 and len(self.embeddings) <= count, (
            f"embeddings has shape {self.embeddings.shape}, expected at most {count} rows"
        )


def clip_boxes(boxes_xyxy: np.ndarray, height: int, width: int, min_size: float) -> tuple[np.ndarray, np.ndarray]:
    """Clips boxes float (n, 4) to the image and drops those under `min_size` pixels wide or high.

    Returns:
        The remaining boxes and, bool (n,), which they are. A box with NaN does not remain.
    """
    clipped = np.clip(boxes_xyxy, 0, np.array([width, height, width, height], boxes_xyxy.dtype))
    keep = ((clipped[:, 2:] - clipped[:, :2]) >= min_size).all(axis=1)
    return clipped[keep], keep


def windows_of(boxes_xyxy: np.ndarray, scale: float, height: int, width: int) -> np.ndarray:
    """The crop windows int64 (n, 4) xyxy of clipped boxes: scaled about the centre, clipped, rounded half to even.

    Rounding is Pillow's for a crop at fractions of pixels. Computed in float64, as the recipe's Python floats are.
    """
    boxes = boxes_xyxy.astype(np.float64)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) * scale / 2
    low = np.maximum(centre - half, 0)
    high = np.minimum(centre + half, [width, height])
    return np.rint(np.concatenate([low, high], axis=1)).astype(np.int64)


class RegionEncoder:
    """Packs the crops of many images into CLIP batches of one fixed size and unpacks the embeddings to boxes again.

    Add the batches of a unit, then `flush`: the last CLIP batch is filled up with copies of its last crop, never
    smaller, so that one compiled or captured shape serves all.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        *,
        resolution: int,
        dim: int,
        batch_size: int,
        scales: Sequence[float],
        min_size: float,
        wanted: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        """
        Args:
            encode: crops uint8 (k, 3, resolution, resolution), BGR, to unit-length embeddings float32 (k, d).
            scales: each box is cropped at these scales.
            min_size: boxes under this width or height in pixels are dropped.
            wanted: which boxes to embed, from their falling objectness (n,): bool (n,), True and then False. All by
                default.
        """
        self._encode = encode
        self._resolution = resolution
        self._dim = dim
        self._batch_size = batch_size
        self._scales = tuple(scales)
        self._min_size = min_size
        self._wanted = wanted
        self._crops: list[Tensor] = []  # waiting, fewer than a batch together
        self._embeddings: list[Tensor] = []  # of all crops of the unit so far
        self._images: list[_CroppedImage] = []

    def add(self, batch: ImageBatch, proposals: Sequence[Proposals]) -> None:
        """Crops the boxes of a batch, and encodes as many crops as fill CLIP batches."""
        if not len(batch):
            return
        images, windows, positions = [], [], []
        found = _on_host(proposals)
        for position, (boxes, objectness) in enumerate(found):
            height, width = batch.heights[position], batch.widths[position]
            boxes, keep = clip_boxes(boxes, height, width, self._min_size)
            objectness = objectness[keep]
            embedded = boxes if self._wanted is None else boxes[self._wanted(objectness)]
            scaled = np.stack([windows_of(embedded, scale, height, width) for scale in self._scales], axis=1)
            # Scaled boxes are often clipped to the same window, at the image border above all: encode it once.
            unique, inverse = np.unique(scaled.reshape(-1, 4), axis=0, return_inverse=True)
            images.append(
                _CroppedImage(
                    batch.image_ids[position], boxes, objectness, inverse.reshape(scaled.shape[:2]), len(unique)
                )
            )
            windows.append(unique)
            positions.append(np.full(len(unique), position))
        self._images += images
        device = batch.pixels_bgr.device
        crops = crop_windows(
            batch.pixels_bgr,
            torch.from_numpy(np.concatenate(positions)).to(device),
            torch.from_numpy(np.concatenate(windows)).to(device),
            self._resolution,
        )
        waiting = torch.cat([*self._crops, crops])
        full = len(waiting) // self._batch_size * self._batch_size
        for start in range(0, full, self._batch_size):
            self._embeddings.append(self._encode(waiting[start : start + self._batch_size]))
        self._crops = [waiting[full:]] if full < len(waiting) else []

    def flush(self) -> list[Regions]:
        """Encodes what waits; the regions of every image added since the last flush."""
        if self._crops:
            waiting = torch.cat(self._crops)
            filling = waiting[-1:].expand(self._batch_size - len(waiting), -1, -1, -1)
            self._embeddings.append(self._encode(torch.cat([waiting, filling]))[: len(waiting)])
        embeddings = torch.cat(self._embeddings) if self._embeddings else torch.empty(0, self._dim)
        regions = []
        start = 0
        for image in self._images:
            own = embeddings[start : start + image.windows]
            start += image.windows
            of_boxes = own[torch.from_numpy(image.window_of_box).to(own.device)]  # (n, scales, d)
            mean = functional.normalize(of_boxes.mean(dim=1), dim=-1)
            regions.append(Regions(image.image_id, image.boxes_xyxy, image.objectness, mean.half().cpu().numpy()))
        self._crops, self._embeddings, self._images = [], [], []
        return regions


def _on_host(proposals: Sequence[Proposals]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(boxes, objectness) of each image; one copy from the device for all of them."""
    columns = torch.cat([torch.cat([found.boxes_xyxy, found.objectness[:, None]], dim=1) for found in proposals])
    counts = [len(found.objectness) for found in proposals]
    return [(rows[:, :4], rows[:, 4]) for rows in np.split(columns.cpu().numpy(), np.cumsum(counts)[:-1])]


@dataclass(frozen=True, slots=True)
class _CroppedImage:
    """window_of_box: int64 (m, scales), which of the image's `windows` distinct windows each embedded box has at each
    scale."""

    image_id: int
    boxes_xyxy: np.ndarray
    objectness: np.ndarray
    window_of_box: np.ndarray
    windows: int
