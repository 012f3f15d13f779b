"""From proposals to region embeddings: crop windows, full CLIP batches across images, one embedding a box."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from plgen_ddp.encoders.encoder import Encoder
from plgen_ddp.records import Regions
from plgen_ddp.score.images import ImageBatch
from plgen_ddp.score.proposals import Proposals
from plgen_ddp.score.resample import crop_windows, upload
from plgen_ddp.score.timing import stage


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


class PendingRegions:
    """Regions whose embeddings may still be on their way from a GPU."""

    def __init__(
        self,
        images: "list[_CroppedImage]",
        embeddings: Tensor,
        scale_cosines: Tensor | None,
        copied: torch.cuda.Event | None,
    ) -> None:
        """
        Args:
            embeddings: float16 (sum of n, d) on the host, image by image.
            scale_cosines: float32 (sum of n,), likewise; None where boxes are cropped at one scale.
            copied: when both have arrived there; None: they have.
        """
        self._images = images
        self._embeddings = embeddings
        self._scale_cosines = scale_cosines
        self._copied = copied

    def wait(self) -> list[Regions]:
        """The regions, image by image. Waits for the copy: call it where nobody else has to wait."""
        if self._copied is not None:
            # A new thread's device is GPU 0, where every rank would open a context of its own.
            with torch.cuda.device(self._copied.device):
                self._copied.synchronize()
        ends = np.cumsum([len(image.boxes.objectness) for image in self._images])
        embeddings = np.split(self._embeddings.numpy(), ends[:-1]) if self._images else []
        cosines: list[np.ndarray | None] = [None] * len(self._images)
        if self._scale_cosines is not None and self._images:
            cosines = list(np.split(self._scale_cosines.numpy(), ends[:-1]))
        return [
            Regions(
                image.image_id,
                image.boxes.boxes_xyxy,
                image.boxes.objectness,
                own,
                foreground=image.boxes.foreground,
                last_move=image.boxes.last_move,
                agreement=image.boxes.agreement,
                scale_cosine=cosine,
            )
            for image, own, cosine in zip(self._images, embeddings, cosines, strict=True)
        ]


class RegionEncoder:
    """Packs the crops of many images into full CLIP batches and unpacks the embeddings to boxes again.

    Add the batches of a unit, then `flush`. With `fill`, the last CLIP batch of a unit is filled up with copies of its
    last crop, so that one compiled shape serves all, and a GPU's kernels are chosen once.

    On CUDA, crops and CLIP have a stream of their own. The host waits for the detector several times a batch, to learn
    how many boxes there are; on one stream each of these waits would be one for CLIP too, and leave the GPU idle after.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        device: torch.device,
        batch_size: int,
        fill: bool,
        scales: Sequence[float],
        min_size: float,
        min_objectness: float = 0.0,
    ) -> None:
        """
        Args:
            encoder: makes the embeddings of the crops.
            device: where the images are, and where `encoder` works.
            batch_size: crops of every encoder call but the last of a unit, which has the crops that are left.
            fill: fill that one up to `batch_size` too.
            scales: each box is cropped at these scales.
            min_size: boxes under this width or height in pixels are dropped.
            min_objectness: boxes below it are dropped.
        """
        self._encoder = encoder
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._batch_size = batch_size
        self._fill = fill
        self._scales = tuple(scales)
        self._min_size = min_size
        self._min_objectness = min_objectness
        self._crops: list[Tensor] = []  # waiting, fewer than a batch together
        self._embeddings: list[Tensor] = []  # of all crops of the unit so far
        self._images: list[_CroppedImage] = []

    def add(self, batch: ImageBatch, proposals: Sequence[Proposals]) -> None:
        """Crops the boxes of a batch, and encodes as many crops as fill CLIP batches."""
        if not len(batch):
            return
        positions, windows = self._windows(batch, _on_host(proposals))
        with self._own_stream(batch.pixels_bgr):
            with stage("crop"):
                form = self._encoder.preprocessing
                crops = crop_windows(
                    batch.pixels_bgr, positions, windows, form.resolution, form.resize, form.interpolation
                )
                waiting = torch.cat([*self._crops, crops])
            full = len(waiting) // self._batch_size * self._batch_size
            with stage("CLIP"):
                for start in range(0, full, self._batch_size):
                    self._embeddings.append(self._encoder.encode_images(waiting[start : start + self._batch_size]))
            self._crops = [waiting[full:]] if full < len(waiting) else []

    def flush(self) -> PendingRegions:
        """Encodes what waits; the regions of every image added since the last flush."""
        with self._own_stream(), stage("CLIP"):
            if self._crops:
                waiting = torch.cat(self._crops)
                count = len(waiting)
                if self._fill:
                    waiting = torch.cat([waiting, waiting[-1:].expand(self._batch_size - count, -1, -1, -1)])
                self._embeddings.append(self._encoder.encode_images(waiting)[:count])
            pending = self._unpack()
        self._crops, self._embeddings, self._images = [], [], []
        return pending

    def _windows(self, batch: ImageBatch, found: Sequence["_Boxes"]) -> tuple[Tensor, Tensor]:
        """The distinct windows of a batch, image by image: (position in the batch int64 (k,), xyxy int64 (k, 4)).

        Both on the host, from where `crop_windows` takes them to a GPU without waiting for it.
        """
        windows, positions = [], []
        for position, boxes in enumerate(found):
            height, width = batch.heights[position], batch.widths[position]
            clipped, keep = clip_boxes(boxes.boxes_xyxy, height, width, self._min_size)
            boxes = replace(boxes[keep], boxes_xyxy=clipped)
            if self._min_objectness:
                boxes = boxes[boxes.objectness >= self._min_objectness]
            scaled = np.stack([windows_of(boxes.boxes_xyxy, scale, height, width) for scale in self._scales], axis=1)
            # Scaled boxes are often clipped to the same window, at the image border above all: encode it once.
            unique, inverse = np.unique(scaled.reshape(-1, 4), axis=0, return_inverse=True)
            window_of_box = inverse.reshape(scaled.shape[:2])
            self._images.append(_CroppedImage(batch.image_ids[position], boxes, window_of_box, len(unique)))
            windows.append(unique)
            positions.append(np.full(len(unique), position))
        return torch.from_numpy(np.concatenate(positions)), torch.from_numpy(np.concatenate(windows))

    def _unpack(self) -> PendingRegions:
        """Gives each box the mean of its windows' embeddings, and starts their copy to the host."""
        if not self._embeddings:
            nothing = torch.empty(0)
            cosines = nothing if len(self._scales) > 1 else None
            return PendingRegions(self._images, nothing.half().view(0, 1).expand(0, self._encoder.dim), cosines, None)
        starts = np.cumsum([0, *(image.windows for image in self._images)])
        window_of_box = np.concatenate(
            [image.window_of_box + start for image, start in zip(self._images, starts[:-1], strict=True)]
        )
        index = upload(torch.from_numpy(window_of_box), self._device)
        of_boxes = torch.cat(self._embeddings)[index]  # (sum of n, scales, d)
        mean = functional.normalize(of_boxes.mean(dim=1), dim=-1).half()
        cosines = None
        if len(self._scales) > 1:
            # Two unit vectors' product ends up to 1e-7 above 1.
            cosines = (of_boxes[:, 0] * of_boxes[:, 1]).sum(dim=-1).clamp(-1, 1)
        if self._stream is None:
            return PendingRegions(self._images, mean, cosines, None)
        host = _to_host(mean)
        host_cosines = None if cosines is None else _to_host(cosines)
        copied = torch.cuda.Event(blocking=True)  # whoever waits for it sleeps, and leaves its core to the decoders
        copied.record(self._stream)
        return PendingRegions(self._images, host, host_cosines, copied)

    @contextlib.contextmanager
    def _own_stream(self, *inputs: Tensor) -> Iterator[None]:
        """Runs what follows on the encoder's stream, after all that the current stream was given so far."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield
        for tensor in inputs:  # or the allocator could give its memory to the other stream's next batch
            tensor.record_stream(self._stream)


@dataclass(frozen=True, slots=True)
class _Boxes:
    """The boxes of one image on the host, with the columns of `Proposals`."""

    boxes_xyxy: np.ndarray
    objectness: np.ndarray
    foreground: np.ndarray | None
    last_move: np.ndarray | None
    agreement: np.ndarray | None

    def __getitem__(self, rows: np.ndarray) -> "_Boxes":
        return _Boxes(
            self.boxes_xyxy[rows],
            self.objectness[rows],
            None if self.foreground is None else self.foreground[rows],
            None if self.last_move is None else self.last_move[rows],
            None if self.agreement is None else self.agreement[rows],
        )


def _on_host(proposals: Sequence[Proposals]) -> list[_Boxes]:
    """The proposals of a batch; one copy from the device for all of them."""
    optional = ("foreground", "last_move", "agreement")
    names = ["objectness", *(name for name in optional if getattr(proposals[0], name) is not None)]
    rows = torch.cat(
        [
            torch.cat([found.boxes_xyxy, *(getattr(found, name)[:, None] for name in names)], dim=1)
            for found in proposals
        ]
    )
    counts = [len(found.objectness) for found in proposals]
    boxes = []
    for own in np.split(rows.cpu().numpy(), np.cumsum(counts)[:-1]):
        columns = dict(zip(names, own[:, 4:].T, strict=True))
        boxes.append(_Boxes(own[:, :4], columns["objectness"], *(columns.get(name) for name in optional)))
    return boxes


def _to_host(values: Tensor) -> Tensor:
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)


@dataclass(frozen=True, slots=True)
class _CroppedImage:
    """An image whose crops wait for their embeddings.

    Attributes:
        image_id: COCO's id of the image.
        boxes: clipped to the image; n that are large and likely enough.
        window_of_box: int64 (n, scales), which of the image's distinct windows a box has at a scale.
        windows: how many distinct windows the image has.
    """

    image_id: int
    boxes: _Boxes
    window_of_box: np.ndarray
    windows: int
