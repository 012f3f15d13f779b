"""Crop, antialiased resize and centre crop that equal Pillow's, batched, on the images' own device.

CLIP and detectron2 were trained behind Pillow's resize, so that is the resize to reproduce. What it computes, read from
`src/libImaging/Resample.c`, for an axis of n pixels resized to m:

- output i looks at the point c = (i + 0.5) s of the source, s = n / m, and weighs the pixel at p + 0.5 by
  k((p + 0.5 - c) / max(s, 1)): shrinking stretches the kernel k, which is what antialiases; enlarging does not;
- k is the triangle (bilinear, radius 1) or Keys' cubic with a = -0.5 (bicubic, radius 2);
- pixels beyond the edge do not exist: the weights are cut there and scaled to sum to 1. Pillow has already cropped, so
  the edge is the crop's, not the image's;
- rows are resized first and rounded (half up) to grey levels in 0..255, then columns, rounded again.

So a resize is two matrix products with a rounding after each, and the outputs that a centre crop throws away are rows
of the two matrices that are never built: a 5 x 600 window, 26,880 px long once resized, costs what a 5 x 15 one does.

Two paths follow. On a CPU, PyTorch's own uint8 kernels take one window at a time, and Pillow itself makes the
detector's input: one level of difference in a thousand pixels reorders proposals of nearly equal objectness, and beside
a detector on a CPU its time is nothing. Elsewhere, windows of similar size share two batched products: in float16 on
CUDA, which holds every grey level exactly and a weight to 1 part in 2048; the detector's input, one of some two hundred
resizes of an image, in float32.

On 750 million values of noise neither was more than 2 grey levels from Pillow. Off by 2 were 8 values in a million on
the CPU path, and 180 in a million for float16 products, which were run on a CPU for this.

Pillow 13 resizes columns first where the height loses more than twice the pixels that the width does. Here rows always
come first, as in every release before it, so a result does not depend on the Pillow that is installed.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Resize = Literal["crop", "squash"]
Kernel = Literal["bilinear", "bicubic"]

_RADIUS = {"bilinear": 1, "bicubic": 2}

# Products take grey levels less 128. Weights sum to 1, so that changes only the rounding: float16's is twice as fine.
_MIDDLE = 128

# Weights are multiples of 2^-16. A sum of centred levels stays under 2^8, so float32, of 24 bits, adds it exactly in
# whatever order a BLAS likes: a window's result does not depend on its batch.
_WEIGHT_STEPS = 2.0**16

# Elements the products keep alive at once: 128 MiB on CUDA (130 windows of 200 x 200 px), a cache's worth on a CPU.
_ELEMENTS_PER_CHUNK = {torch.float16: 2**26, torch.float32: 2**22}

# A side of fewer pixels than this is read over and over: where one value falls on an exact half, a whole crop's do, and
# float16's weights round them the other way. Such windows are rare, and their products small.
_FEW_PIXELS = 8

# PyTorch's kernels resize all of a window, the products only what the centre crop keeps. On one AVX-512 core the
# products are faster beyond about this ratio of the sides.
_ELONGATED = 6


def resize_images(
    pixels: Tensor, heights: Sequence[int], widths: Sequence[int], sizes: Sequence[tuple[int, int]]
) -> list[Tensor]:
    """Resize every image of a padded batch as `PIL.Image.resize(..., BILINEAR)` would (detectron2's ResizeTransform).

    Args:
        pixels: uint8 (B, H, W, 3), any channel order. Image b is `pixels[b, :heights[b], :widths[b]]`; the padding
            around it has no influence.
        heights, widths: B sizes in pixels.
        sizes: B pairs (height, width), in pixels, to resize to.

    Returns:
        B tensors, uint8 (3, height, width), on the device and in the channel order of `pixels`.

    Raises:
        ValueError: `pixels` is not such a batch, or the sequences do not have one positive entry an image.
    """
    _check_pixels(pixels)
    if not len(pixels) == len(heights) == len(widths) == len(sizes):
        raise ValueError(f"{len(pixels)} images, {len(heights)} heights, {len(widths)} widths, {len(sizes)} sizes")
    images = []
    for padded, height, width, size in zip(pixels, heights, widths, sizes, strict=True):
        if not (0 < height <= padded.shape[0] and 0 < width <= padded.shape[1] and min(size) > 0):
            raise ValueError(f"cannot resize {height} x {width} pixels of {tuple(padded.shape[:2])} to {size}")
        image = padded[:height, :width]
        if pixels.device.type == "cpu":
            images.append(_resize_with_pillow(image, size))
        else:
            images.append(_resize_by_products(image, size, torch.float32))
    return images


def crop_windows(
    pixels: Tensor,
    image_indices: Tensor,
    windows_xyxy: Tensor,
    size: int,
    resize: Resize = "crop",
    kernel: Kernel = "bicubic",
) -> Tensor:
    """Cut windows out of images and bring them to an encoder's input size, as its preprocessing does with Pillow.

    With "crop" each window is cropped, resized so that its shortest side is `size` and its long one
    `int(size * long / short)`, and cropped about its centre to a square. With "squash" both its sides are resized to
    `size`. Scaling to [0, 1] and normalising are not done here. On a GPU this waits for the device once a call, and
    not at all if the windows are on the CPU.

    Args:
        pixels: uint8 (B, H, W, 3), any channel order.
        image_indices: int64 (k,), the image of `pixels` that each window is cut from.
        windows_xyxy: int64 (k, 4), whole pixels, x2 and y2 exclusive, inside the image without its padding.
        size: side of the result in pixels.
        resize, kernel: see `plgen_ddp.encoders.encoder.Preprocessing`.

    Returns:
        uint8 (k, 3, size, size), on the device and in the channel order of `pixels`.

    Raises:
        ValueError: a tensor is not as above, or a window is empty or leaves `pixels`.
    """
    plan = _plan_windows(pixels, image_indices, windows_xyxy, size, resize)
    if pixels.device.type != "cpu":
        return _crop_by_products(pixels, plan, size, kernel, _product_dtype(pixels))
    crops = torch.empty(plan.shape[1], 3, size, size, dtype=torch.uint8)
    _, rows, columns = _axes(plan)
    elongated = torch.maximum(rows.resized, columns.resized) > _ELONGATED * size
    crops[elongated] = _crop_by_products(pixels, plan[:, elongated], size, kernel, torch.float32)
    ordinary = (~elongated).nonzero()[:, 0].tolist()
    for i, image, y, h, new_h, top, x, w, new_w, left in zip(ordinary, *plan[:, ordinary].tolist(), strict=True):
        resized = _resize_natively(pixels[image, y : y + h, x : x + w], (new_h, new_w), kernel)
        crops[i] = resized[:, top : top + size, left : left + size]
    return crops


def upload(host: Tensor, device: torch.device) -> Tensor:
    """A copy on `device` of a tensor on the host, which does not wait for what the current stream was given before.

    From page-locked memory: a copy from any other may wait for the stream, even when it is called asynchronous (CUDA
    Runtime API, "API synchronization behavior").
    """
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


class _Axis(NamedTuple):
    """One axis of k resizes of which only some consecutive outputs are kept; int64 (k,) each."""

    offset: Tensor  # where the window begins in the image
    source: Tensor  # pixels of the window
    resized: Tensor  # pixels of the whole resized window
    first: Tensor  # first output that is kept

    def read(self, count: int, kernel: Kernel) -> tuple[Tensor, Tensor, Tensor]:
        """First pixel of the window that `count` outputs read, how many pixels they read, and how many one reads."""
        scale = self.source.double() / self.resized
        reach = _RADIUS[kernel] * scale.clamp(min=1)
        start = ((self.first.double() + 0.5) * scale - reach + 0.5).floor().long().clamp(min=0)
        stop = ((self.first.double() + count - 0.5) * scale + reach + 0.5).floor().long()
        return start, torch.minimum(stop, self.source) - start, (2 * reach).ceil().long()

    def weights(self, start: Tensor, length: int, taps: int, count: int, kernel: Kernel, dtype: torch.dtype) -> Tensor:
        """The matrices (k, count, length) that make `count` outputs of the pixels from `start` on."""
        radius, device = _RADIUS[kernel], start.device
        scale = (self.source.double() / self.resized)[:, None]
        stretch = scale.clamp(min=1)
        centre = (self.first.double()[:, None] + torch.arange(count, device=device) + 0.5) * scale
        # A run of `taps` pixels covers each kernel; where the matrix ends, it moves inwards so that it still fits.
        tap = (centre - radius * stretch + 0.5).floor().long() - start[:, None]
        tap = tap.clamp(min=0).clamp(max=length - taps)[..., None] + torch.arange(taps, device=device)
        pixel = tap + start[:, None, None]
        weight = _kernel((pixel + 0.5 - centre[..., None]) / stretch[..., None], kernel)
        weight = weight.masked_fill(pixel >= self.source[:, None, None], 0)
        weight = (weight / weight.sum(dim=-1, keepdim=True) * _WEIGHT_STEPS).round() / _WEIGHT_STEPS
        matrix = torch.zeros(*centre.shape, length, dtype=dtype, device=device)
        return matrix.scatter_(2, tap, weight.to(dtype))


def _plan_windows(pixels: Tensor, image_indices: Tensor, windows_xyxy: Tensor, size: int, resize: Resize) -> Tensor:
    """Check the arguments of `crop_windows` and lay its windows out: int64 (9, k) on the CPU, what `_axes` takes."""
    _check_pixels(pixels)
    k = len(windows_xyxy)
    if windows_xyxy.shape != (k, 4) or windows_xyxy.dtype != torch.int64:
        raise ValueError(f"windows_xyxy must be int64 (k, 4), got {windows_xyxy.dtype} {tuple(windows_xyxy.shape)}")
    if image_indices.shape != (k,) or image_indices.dtype != torch.int64:
        raise ValueError(f"image_indices must be int64 ({k},), got {image_indices.dtype} {tuple(image_indices.shape)}")
    image, x1, y1, x2, y2 = torch.cat([image_indices[:, None], windows_xyxy], dim=1).cpu().unbind(dim=1)
    batch, height, width, _ = pixels.shape
    inside = (image >= 0) & (image < batch) & (x1 >= 0) & (y1 >= 0) & (x2 <= width) & (y2 <= height)
    wrong = ~(inside & (x1 < x2) & (y1 < y2))
    if wrong.any():
        i = int(wrong.nonzero()[0])
        raise ValueError(
            f"window {i}, xyxy {windows_xyxy[i].tolist()} of image {int(image[i])}, is empty or leaves the "
            f"{batch} images of {width} x {height} px"
        )
    short = torch.minimum(x2 - x1, y2 - y1)
    plan = [image]
    for low, high in ((y1, y2), (x1, x2)):
        resized = size * (high - low) // short if resize == "crop" else torch.full_like(short, size)
        plan += [low, high - low, resized, ((resized - size) / 2).round().long()]  # half to even, as torchvision rounds
    return torch.stack(plan)


def _axes(plan: Tensor) -> tuple[Tensor, _Axis, _Axis]:
    """The image of each planned window, its rows and its columns."""
    return plan[0], _Axis(*plan[1:5]), _Axis(*plan[5:9])


def _crop_by_products(pixels: Tensor, plan: Tensor, size: int, kernel: Kernel, dtype: torch.dtype) -> Tensor:
    """`crop_windows` for planned windows by batched matrix products, on the device of `pixels`.

    In `dtype`, but for windows with a side of few pixels: those in float32.
    """
    device = pixels.device
    crops = torch.empty(plan.shape[1], 3, size, size, dtype=torch.uint8, device=device)
    _, rows, columns = _axes(plan)
    narrow = torch.minimum(rows.source, columns.source) < _FEW_PIXELS
    for chosen, precision in ((narrow, torch.float32), (~narrow, dtype)):
        if chosen.any():
            _fill_crops(crops, chosen.nonzero()[:, 0], pixels, plan, size, kernel, precision)
    return crops


def _fill_crops(
    crops: Tensor, chosen: Tensor, pixels: Tensor, plan: Tensor, size: int, kernel: Kernel, dtype: torch.dtype
) -> None:
    """Write the crops of the `chosen` windows of a plan, int64 on the CPU, by products in `dtype`."""
    device, plan = pixels.device, plan[:, chosen]
    channel = torch.arange(3, device=device)[:, None]
    reads = [axis.read(size, kernel) for axis in _axes(plan)[1:]]
    starts, lengths, taps = (torch.stack(both) for both in zip(*reads, strict=True))
    order = lengths.amax(dim=0).argsort(descending=True, stable=True)
    lengths, taps = lengths[:, order], taps[:, order]
    # One upload; nothing waits for the device.
    uploaded = upload(torch.cat([plan, starts, chosen[None]])[:, order], device)
    for chunk in _chunks(lengths.amax(dim=0).tolist(), size, _ELEMENTS_PER_CHUNK[dtype]):
        image, *axes = _axes(uploaded[:9, chunk])
        taken, matrices = [], []
        for i, axis in enumerate(axes):
            start, most_taps = uploaded[9 + i, chunk], int(taps[i, chunk].max())
            length = _product_length(int(lengths[i, chunk].max()), most_taps)
            # Pixels past a shorter window's end, or the image's, are read but weigh nothing.
            position = (axis.offset + start)[:, None] + torch.arange(length, device=device)
            taken.append(position.clamp(max=pixels.shape[1 + i] - 1))
            matrices.append(axis.weights(start, length, most_taps, size, kernel, dtype))
        y, x = taken
        source = pixels[image[:, None, None, None], y[:, :, None, None], x[:, None, None, :], channel]
        crops[uploaded[11, chunk]] = _two_products(source, *matrices)


def _chunks(sides: Sequence[int], size: int, elements: int) -> Iterator[slice]:
    """Runs of windows, given largest first by the longest side they read, as long as `elements` allow."""
    start = 0
    while start < len(sides):
        one = 3 * sides[start] ** 2 + 5 * sides[start] * size + 3 * size**2  # source, halfway and weights, result
        stop = start + max(1, elements // one)
        yield slice(start, stop)
        start = stop


def _resize_by_products(image: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """One image (h, w, 3) resized bilinearly to uint8 (3, *size) by matrix products in `dtype`."""
    matrices = [
        _bilinear_matrix(source, resized, dtype, image.device)
        for source, resized in zip(image.shape[:2], size, strict=True)
    ]
    rows, columns = (matrix.shape[-1] for matrix in matrices)
    padded = F.pad(image, (0, 0, 0, columns - image.shape[1], 0, rows - image.shape[0]))
    return _two_products(padded.permute(0, 2, 1)[None], *matrices)[0]


@functools.lru_cache(maxsize=32)  # of some 2 MB; a matrix is two dozen kernels to launch, and a unit's sizes recur
def _bilinear_matrix(source: int, resized: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The weights (1, resized, at least source) that resize one axis of an image bilinearly.

    Kept, so one stream of a device at most may ask for them: another could read them before they are written.
    """
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    axis = _Axis(zero, zero + source, zero + resized, zero)
    taps = math.ceil(2 * _RADIUS["bilinear"] * max(source / resized, 1))
    return axis.weights(zero, _product_length(source, taps), taps, resized, "bilinear", dtype)


def _product_length(pixels: int, taps: int) -> int:
    """Columns of a weight matrix: room for one output's taps, and a multiple of 8 for the sake of tensor cores."""
    return math.ceil(max(pixels, taps) / 8) * 8


def _two_products(source: Tensor, row_weights: Tensor, column_weights: Tensor) -> Tensor:
    """Grey levels (k, h, 3, w), weights (k, H, h) and (k, W, w) -> uint8 (k, 3, H, W)."""
    k, height, _, width = source.shape
    # Autocast would bring bfloat16, whose 8 bits are too few for the weights.
    with torch.autocast(source.device.type, enabled=False):
        levels = source.to(column_weights.dtype).sub_(_MIDDLE).reshape(k, height * 3, width)
        levels = _round_to_levels(levels @ column_weights.mT).reshape(k, height, -1)
        levels = _round_to_levels(row_weights @ levels).add_(_MIDDLE)
    return levels.reshape(k, row_weights.shape[1], 3, -1).permute(0, 2, 1, 3).to(torch.uint8).contiguous()


def _round_to_levels(values: Tensor) -> Tensor:
    """Round half up, as Pillow does, and clamp to the grey levels less 128; in place."""
    return values.add_(0.5).floor_().clamp_(-_MIDDLE, 255 - _MIDDLE)


def _kernel(distance: Tensor, kernel: Kernel) -> Tensor:
    """The interpolation kernel at signed distances from its centre."""
    d = distance.abs()
    if kernel == "bilinear":
        return (1 - d).clamp(min=0)
    near, far = (1.5 * d - 2.5) * d * d + 1, ((2.5 - 0.5 * d) * d - 4) * d + 2
    return torch.where(d < 1, near, torch.where(d < 2, far, 0.0))


def _resize_with_pillow(image: Tensor, size: tuple[int, int]) -> Tensor:
    """One image (h, w, 3) on the CPU resized bilinearly to uint8 (3, *size)."""
    resized = Image.fromarray(image.numpy()).resize(size[::-1], Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def _resize_natively(image: Tensor, size: tuple[int, int], kernel: Kernel) -> Tensor:
    """One window (h, w, 3) on the CPU resized to uint8 (3, *size) by PyTorch's own uint8 kernels."""
    return F.interpolate(image.permute(2, 0, 1)[None], size=size, mode=kernel, antialias=True)[0]


def _product_dtype(pixels: Tensor) -> torch.dtype:
    return torch.float16 if pixels.device.type == "cuda" else torch.float32


def _check_pixels(pixels: Tensor) -> None:
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(f"pixels must be uint8 (B, H, W, 3), got {pixels.dtype} {tuple(pixels.shape)}")
