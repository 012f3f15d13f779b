"""Crops and resizes against Pillow's and torchvision's own, on noise, gradients and photos."""

import json

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from plgen_ddp.score import resample

Window = tuple[int, int, int, int]

steady = settings(derandomize=True, deadline=None, max_examples=60)
seeds = st.integers(0, 2**32 - 1)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def black_and_white(height: int, width: int, seed: int = 0) -> np.ndarray:
    return (noise(height, width, seed) > 127).astype(np.uint8) * 255


def gradient(height: int, width: int, seed: int = 0) -> np.ndarray:
    slopes = np.random.default_rng(seed).uniform(-3, 3, (2, 3))
    ramp = np.arange(height)[:, None, None] * slopes[0] + np.arange(width)[:, None] * slopes[1]
    return (255 * (ramp - ramp.min()) / max(np.ptp(ramp), 1)).astype(np.uint8)


pictures = st.sampled_from([noise, black_and_white, gradient])


def pillow_resize(image: Image.Image, height: int, width: int, filter_: Image.Resampling) -> Image.Image:
    """Pillow's resize, rows first: Pillow 13 takes columns first for some shapes, but has no choice in two calls."""
    return image.resize((width, image.height), filter_).resize((width, height), filter_)


def clip_preprocessing(
    image: np.ndarray, window: Window, size: int, resize: str = "crop", kernel: str = "bicubic"
) -> np.ndarray:
    """What CLIP's Resize and CenterCrop, or SigLIP's Resize, make of the window: uint8 (3, size, size)."""
    crop = Image.fromarray(image).crop(window)
    width, height = Resize(size if resize == "crop" else (size, size), InterpolationMode(kernel))(crop).size
    resized = pillow_resize(crop, height, width, Image.Resampling[kernel.upper()])
    return np.asarray(CenterCrop(size)(resized)).transpose(2, 0, 1)


def detector_preprocessing(image: np.ndarray, height: int, width: int) -> np.ndarray:
    resized = pillow_resize(Image.fromarray(image), height, width, Image.Resampling.BILINEAR)
    return np.asarray(resized).transpose(2, 0, 1)


def crop_by_products(
    pixels: torch.Tensor,
    indices: torch.Tensor,
    windows: torch.Tensor,
    size: int,
    dtype: torch.dtype,
    resize: str = "crop",
    kernel: str = "bicubic",
) -> torch.Tensor:
    plan = resample._plan_windows(pixels, indices, windows, size, resize)
    return resample._crop_by_products(pixels, plan, size, kernel, dtype)


def crops_of_every_path(
    image: np.ndarray, windows: list[Window], size: int, resize: str = "crop", kernel: str = "bicubic"
) -> dict[str, np.ndarray]:
    arguments = torch.from_numpy(image)[None], torch.zeros(len(windows), dtype=torch.int64), torch.tensor(windows), size
    return {
        "public": resample.crop_windows(*arguments, resize, kernel).numpy(),
        "float32": crop_by_products(*arguments, torch.float32, resize, kernel).numpy(),
        "float16": crop_by_products(*arguments, torch.float16, resize, kernel).numpy(),
    }


def check(got: np.ndarray, expected: np.ndarray, share_off_by_two: float = 1e-3) -> None:
    """Within 2 grey levels everywhere, and within 1 except on a share of the values (and 4 where they are few)."""
    assert got.shape == expected.shape
    assert got.dtype == np.uint8
    difference = np.abs(got.astype(int) - expected)
    assert difference.max() <= 2
    assert (difference > 1).sum() <= 4 + share_off_by_two * difference.size


def windows_inside(height: int, width: int, count: int, seed: int) -> list[Window]:
    generator = np.random.default_rng(seed)
    windows = []
    for _ in range(count):
        x1, x2 = sorted(generator.choice(width + 1, 2, replace=False).tolist())
        y1, y2 = sorted(generator.choice(height + 1, 2, replace=False).tolist())
        windows.append((x1, y1, x2, y2))
    return windows


@steady
@given(pictures, st.integers(1, 90), st.integers(1, 90), st.sampled_from([7, 32, 64]), seeds)
def test_crops_equal_pillows(picture, height, width, size, seed):
    image = picture(height, width, seed)
    windows = windows_inside(height, width, 5, seed)
    expected = np.stack([clip_preprocessing(image, window, size) for window in windows])
    for got in crops_of_every_path(image, windows, size).values():
        check(got, expected)


@pytest.mark.parametrize(("resize", "kernel"), [("crop", "bilinear"), ("squash", "bicubic"), ("squash", "bilinear")])
@steady
@given(pictures, st.integers(1, 90), st.integers(1, 90), st.sampled_from([7, 32, 64]), seeds)
@example(gradient, 2, 57, 32, 13865)  # two rows: their exact halves, rounded wrongly, were a whole crop's
def test_crops_of_other_models_equal_pillows(resize, kernel, picture, height, width, size, seed):
    image = picture(height, width, seed)
    windows = windows_inside(height, width, 5, seed)
    expected = np.stack([clip_preprocessing(image, window, size, resize, kernel) for window in windows])
    for got in crops_of_every_path(image, windows, size, resize, kernel).values():
        check(got, expected)


@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    "window",
    [
        (0, 0, 5, 5),
        (635, 475, 640, 480),
        (0, 0, 640, 480),
        (100, 3, 105, 480),  # Pillow's resized crop would be 21,369 px high
        (40, 470, 640, 475),  # ... and 26,880 px wide
        (320, 200, 321, 260),
        (320, 200, 380, 201),
        (639, 479, 640, 480),
        (200, 100, 424, 324),  # already 224 x 224
        (10, 20, 460, 244),
        (100, 0, 331, 480),  # Pillow 13 resizes columns first
        (10, 10, 100, 95),
    ],
)
def test_windows_that_are_hard(window, kernel, resize):
    image = noise(480, 640)
    expected = clip_preprocessing(image, window, 224, resize, kernel)[None]
    for got in crops_of_every_path(image, [window], 224, resize, kernel).values():
        check(got, expected)


def test_elongated_window_is_read_only_where_the_centre_crop_looks():
    pixels = torch.zeros(1, 480, 640, 3, dtype=torch.uint8)
    plan = resample._plan_windows(pixels, torch.tensor([0]), torch.tensor([[20, 100, 620, 105]]), 224, "crop")
    _, rows, columns = resample._axes(plan)
    start, length, taps = columns.read(224, "bicubic")
    assert (columns.resized, taps) == (26880, 4)
    assert length <= 5 + 2 * 2
    assert start <= 298
    assert start + length >= 302
    assert rows.read(224, "bicubic")[1] == 5


def test_float16_products_are_close_on_many_values():
    """The share of values that are off, over enough values to mean something."""
    image = noise(240, 320)
    windows = windows_inside(240, 320, 40, seed=1)
    expected = np.stack([clip_preprocessing(image, window, 112) for window in windows])
    crops = crops_of_every_path(image, windows, 112)
    check(crops["float16"], expected, share_off_by_two=5e-4)
    check(crops["float32"], expected, share_off_by_two=2e-5)
    check(crops["public"], expected, share_off_by_two=5e-5)


@steady
@given(pictures, *[st.integers(1, 120)] * 4, seeds)
def test_resized_images_equal_pillows(picture, height, width, new_height, new_width, seed):
    image = picture(height, width, seed)
    expected = detector_preprocessing(image, new_height, new_width)
    pixels = torch.from_numpy(image)
    (public,) = resample.resize_images(pixels[None], [height], [width], [(new_height, new_width)])
    check(public.numpy(), expected)
    for dtype in (torch.float32, torch.float16):
        check(resample._resize_by_products(pixels, (new_height, new_width), dtype).numpy(), expected)


def test_halves_are_rounded_up():
    """Halving weighs by eighths, so one value in eight is a tie."""
    image = noise(64, 96)
    expected = detector_preprocessing(image, 32, 48)
    for dtype in (torch.float32, torch.float16):
        assert np.array_equal(resample._resize_by_products(torch.from_numpy(image), (32, 48), dtype).numpy(), expected)


@pytest.mark.parametrize("source", [5, 40, 224, 1500])
def test_float32_adds_weighted_levels_exactly(source):
    """What keeps a product free of its order of summation, and so of its batch."""
    zero = torch.tensor([0])
    axis = resample._Axis(zero, zero + source, zero + 224, zero)
    _, _, taps = axis.read(224, "bicubic")
    length = max(source, int(taps))
    weights = axis.weights(zero, length, int(taps), 224, "bicubic", torch.float32)[0]
    levels = torch.from_numpy(black_and_white(length, 200)[:, :, 0].astype(np.float32)) - 128
    assert torch.equal((weights @ levels).double(), weights.double() @ levels.double())


def test_padding_has_no_influence():
    shapes, sizes = [(60, 80), (50, 70), (31, 96)], [(100, 133), (40, 56), (200, 619)]
    images = [noise(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    pixels = torch.full((3, 64, 96, 3), 255, dtype=torch.uint8)
    for padded, image in zip(pixels, images, strict=True):
        padded[: image.shape[0], : image.shape[1]] = torch.from_numpy(image)
    heights, widths = zip(*shapes, strict=True)
    for got, image, size in zip(resample.resize_images(pixels, heights, widths, sizes), images, sizes, strict=True):
        check(got.numpy(), detector_preprocessing(image, *size))

    windows = [(0, 0, 80, 60), (40, 20, 70, 50), (0, 0, 96, 31), (91, 0, 96, 31), (10, 30, 90, 31)]
    indices = [0, 1, 2, 2, 2]
    expected = [clip_preprocessing(images[i], window, 48) for i, window in zip(indices, windows, strict=True)]
    arguments = pixels, torch.tensor(indices), torch.tensor(windows), 48
    check(resample.crop_windows(*arguments).numpy(), np.stack(expected))
    check(crop_by_products(*arguments, torch.float32).numpy(), np.stack(expected))


@pytest.mark.parametrize("by_products", [False, True])
def test_a_window_does_not_depend_on_its_batch(by_products):
    pixels = torch.from_numpy(np.stack([noise(200, 300, seed) for seed in range(2)]))
    windows = torch.tensor([*windows_inside(200, 300, 60, seed=2), (0, 0, 300, 4), (7, 0, 9, 200)])
    indices = torch.arange(len(windows)) % 2

    def crop(which: torch.Tensor) -> torch.Tensor:
        arguments = pixels, indices[which], windows[which], 96
        return crop_by_products(*arguments, torch.float32) if by_products else resample.crop_windows(*arguments)

    together = crop(torch.arange(len(windows)))
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    assert torch.equal(crop(order), together[order])
    for i in range(len(windows)):
        assert torch.equal(crop(torch.tensor([i]))[0], together[i])


def test_autocast_does_not_reach_the_products():
    image = noise(50, 60)
    alone = crops_of_every_path(image, [(3, 4, 50, 44)], 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = crops_of_every_path(image, [(3, 4, 50, 44)], 64)
    for path, crops in alone.items():
        assert np.array_equal(crops, inside[path]), path


def test_no_window_gives_no_crop():
    pixels = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    none = pixels, torch.empty(0, dtype=torch.int64), torch.empty(0, 4, dtype=torch.int64), 32
    assert resample.crop_windows(*none).shape == (0, 3, 32, 32)
    assert crop_by_products(*none, torch.float32).shape == (0, 3, 32, 32)
    assert resample.resize_images(pixels[:0], [], [], []) == []


@pytest.mark.parametrize(
    ("window", "image"),
    [
        ((3, 3, 3, 5), 0),
        ((3, 5, 5, 3), 0),
        ((0, 0, 11, 8), 0),
        ((0, 0, 10, 9), 0),
        ((-1, 0, 4, 4), 0),
        ((0, 0, 4, 4), 1),
    ],
)
def test_window_that_is_empty_or_outside_is_named(window, image):
    pixels = torch.zeros(1, 8, 10, 3, dtype=torch.uint8)
    windows = torch.tensor([(0, 0, 4, 4), window])
    with pytest.raises(
        ValueError, match=r"window 1, xyxy \[.*\] of image \d, is empty or leaves the 1 images of 10 x 8 px"
    ):
        resample.crop_windows(pixels, torch.tensor([0, image]), windows, 16)


def test_wrong_arguments_are_refused():
    pixels, indices, windows = (
        torch.zeros(1, 8, 8, 3, dtype=torch.uint8),
        torch.tensor([0]),
        torch.tensor([[0, 0, 4, 4]]),
    )
    with pytest.raises(ValueError, match="pixels must be uint8"):
        resample.crop_windows(pixels.float(), indices, windows, 16)
    with pytest.raises(ValueError, match="pixels must be uint8"):
        resample.resize_images(pixels.permute(0, 3, 1, 2), [8], [8], [(4, 4)])
    with pytest.raises(ValueError, match="windows_xyxy must be int64"):
        resample.crop_windows(pixels, indices, windows.float(), 16)
    with pytest.raises(ValueError, match="image_indices must be int64"):
        resample.crop_windows(pixels, torch.tensor([0, 0]), windows, 16)
    with pytest.raises(ValueError, match="1 images, 2 heights"):
        resample.resize_images(pixels, [8, 8], [8], [(4, 4)])
    with pytest.raises(ValueError, match="cannot resize 9 x 8 pixels"):
        resample.resize_images(pixels, [9], [8], [(4, 4)])


def test_photos(coco_mini):
    """Annotated objects, at scales 1.0 and 1.5 about their centre, of five photos."""
    coco = json.loads((coco_mini / "annotations" / "instances_val2017.json").read_text())
    for record in coco["images"][:5]:
        image = np.array(Image.open(coco_mini / "val2017" / record["file_name"]).convert("RGB"))
        height, width = image.shape[:2]
        windows = []
        for x, y, w, h in [a["bbox"] for a in coco["annotations"] if a["image_id"] == record["id"]][:6]:
            for half in (0.5, 0.75):
                x1, x2 = (round(min(max(x + w / 2 + side * w, 0), width)) for side in (-half, half))
                y1, y2 = (round(min(max(y + h / 2 + side * h, 0), height)) for side in (-half, half))
                if min(x2 - x1, y2 - y1) >= 5:
                    windows.append((x1, y1, x2, y2))
        expected = np.stack([clip_preprocessing(image, window, 224) for window in windows])
        for got in crops_of_every_path(image, windows, 224).values():
            check(got, expected)
        scale = 800 / min(height, width)
        size = round(height * scale), round(width * scale)
        (resized,) = resample.resize_images(torch.from_numpy(image)[None], [height], [width], [size])
        check(resized.numpy(), detector_preprocessing(image, *size))


@pytest.mark.cuda
def test_cuda_equals_pillow_and_does_not_wait_for_the_device():
    image = noise(300, 400)
    windows = [*windows_inside(300, 400, 1000, seed=3), (0, 0, 400, 3), (0, 0, 3, 300), (399, 299, 400, 300)]
    expected = np.stack([clip_preprocessing(image, window, 224) for window in windows])
    pixels, indices = torch.from_numpy(image)[None].cuda(), torch.zeros(len(windows), dtype=torch.int64)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        crops = resample.crop_windows(pixels, indices, torch.tensor(windows), 224)
        (resized,) = resample.resize_images(pixels, [300], [400], [(800, 1067)])
        return crops, resized

    both()  # the first call allocates, which may wait
    torch.cuda._sleep(2_000_000_000)  # cycles: about a second
    crops, resized = both()
    assert not torch.cuda.current_stream().query(), "the host came back before the device was done with what came first"
    check(crops.cpu().numpy(), expected)
    check(resized.cpu().numpy(), detector_preprocessing(image, 800, 1067))
    on_device = resample.crop_windows(pixels, indices.cuda(), torch.tensor(windows).cuda(), 224)
    assert torch.equal(on_device, crops)
