"""Decoding: in colour where it can be, else a reason; batches and units of one shape."""

import io
import os
import threading

import cv2
import numpy as np
import pytest
from PIL import Image

from plgen_ddp import images
from plgen_ddp.image_files import ImageIndex
from plgen_ddp.score.images import DecodeError, decode_bgr, image_batches, plan_units

HEIGHT, WIDTH = 48, 64


@pytest.fixture
def photo():
    """Smooth colours, RGB uint8 (48, 64, 3): what JPEG keeps within a few levels."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([rows * 4, columns * 3, 255 - rows * 2 - columns], axis=2).astype(np.uint8)


def encoded(pixels, kind, mode=None, **options):
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", None, {"quality": 95}),
        ("JPEG", None, {"quality": 95, "progressive": True}),
        ("JPEG", "CMYK", {"quality": 95}),
        ("PNG", None, {}),
        ("PNG", "RGBA", {}),
        ("WEBP", None, {"lossless": True}),
        ("BMP", None, {}),
    ],
)
def test_colour_formats_decode_to_bgr(photo, kind, mode, options):
    pixels = decode_bgr(encoded(photo, kind, mode, **options), HEIGHT, WIDTH)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels[..., ::-1].astype(int) - photo).mean() < 4


def test_grayscale_and_16_bit_become_8_bit_colour(photo):
    gray = photo[..., 0]
    for kind in ("JPEG", "PNG"):
        pixels = decode_bgr(encoded(gray, kind), HEIGHT, WIDTH)
        assert np.abs(pixels.astype(int) - gray[..., None]).mean() < 3
    wide = cv2.imencode(".png", photo[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    assert np.array_equal(decode_bgr(wide, HEIGHT, WIDTH)[..., ::-1], photo)


def test_exif_orientation_is_applied_unless_only_the_stored_one_has_the_size(photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: to be turned by 90 degrees clockwise
    data = encoded(photo, "JPEG", quality=95, exif=exif)
    turned = decode_bgr(data, WIDTH, HEIGHT)
    assert np.abs(turned[..., ::-1].astype(int) - np.rot90(photo, -1)).mean() < 4
    stored = decode_bgr(data, HEIGHT, WIDTH)
    assert np.abs(stored[..., ::-1].astype(int) - photo).mean() < 4


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {})])
def test_a_truncated_file_is_no_image(photo, kind, options, cut):
    data = encoded(np.random.default_rng(0).integers(0, 255, photo.shape, np.uint8), kind, **options)
    decode_bgr(data, HEIGHT, WIDTH)
    with pytest.raises(DecodeError):
        decode_bgr(data[: int(len(data) * cut)], HEIGHT, WIDTH)


def test_an_embedded_thumbnail_does_not_hide_a_cut(photo):
    thumbnail = encoded(photo[::4, ::4], "JPEG")
    whole = encoded(photo, "JPEG")
    segment = b"\xff\xe1" + (len(thumbnail) + 8).to_bytes(2, "big") + b"Exif\0\0" + thumbnail
    with_thumbnail = whole[:2] + segment + whole[2:]
    decode_bgr(with_thumbnail, HEIGHT, WIDTH)
    with pytest.raises(DecodeError, match="truncated"):
        decode_bgr(with_thumbnail[:-40], HEIGHT, WIDTH)


def test_bytes_behind_the_end_are_no_cut(photo):
    """A phone appends a film; some servers append anything."""
    for kind in ("JPEG", "PNG"):
        decode_bgr(encoded(photo, kind) + b"\x00\xff\xda" * 50, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "empty"), (b"<html>not found</html>", "not an image"), (b"\xff\xd8\xff", "truncated")],
)
def test_no_image_has_a_reason(data, message):
    with pytest.raises(DecodeError, match=message):
        decode_bgr(data, HEIGHT, WIDTH)


def test_another_size_than_the_datasets_is_a_failure(photo):
    with pytest.raises(DecodeError, match="size is 64 x 48, the dataset says 100 x 48"):
        decode_bgr(encoded(photo, "PNG"), 48, 100)


def index_of(root, extents):
    count = len(extents)
    return ImageIndex(
        str(root),
        np.arange(count) * 10,
        np.array([height for height, _ in extents], np.int32),
        np.array([width for _, width in extents], np.int32),
        np.array([b"%d.png" % number for number in range(count)]),
    )


def test_units_partition_the_dataset_and_hold_one_shape_each(tmp_path):
    extents = [(48 + 16 * (number % 3), 64) for number in range(500)]
    index = index_of(tmp_path, extents)
    units = plan_units(index, lambda height, width: (height, width), images_per_part=64)
    assert sorted(np.concatenate(units).tolist()) == list(range(500))
    for unit in units:
        assert len(unit) <= 7  # 500 images make 64 units or more
        assert len({extents[position] for position in unit}) == 1
        assert unit.tolist() == sorted(unit.tolist())
    assert list(map(len, units)) == sorted(map(len, units), reverse=True)


def test_units_are_whole_batches_where_that_is_asked_for(tmp_path):
    extents = [(48 + 16 * (number % 3), 64) for number in range(100)]
    for smallest, longest in ((1, 1), (8, 8), (500, 34)):
        units = plan_units(index_of(tmp_path, extents), lambda height, width: (height, width), 64, smallest)
        assert max(map(len, units)) == longest and sorted(np.concatenate(units).tolist()) == list(range(100))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_each_image_once_and_failures_beside_them(tmp_path, workers):
    generator = np.random.default_rng(0)
    extents = [(20, 30), (24, 28), (20, 30), (22, 26), (20, 30)]
    pixels = [generator.integers(0, 255, (*extent, 3), np.uint8) for extent in extents]
    for number in (0, 1, 3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), pixels[number])
    (tmp_path / "2.png").write_bytes(b"")
    units = [np.array([0, 1, 2]), np.array([3, 4])]
    batches = list(image_batches(index_of(tmp_path, extents), units, images_per_batch=2, workers=workers, pin=False))
    assert [batch.image_ids for batch in batches] == [(0, 10), (), (30,)]
    assert [batch.last for batch in batches] == [False, True, True]
    assert [batch.unit for batch in batches] == [0, 0, 1]
    failures = [(failure.image_id, failure.stage, failure.reason) for batch in batches for failure in batch.failures]
    assert failures == [(20, "decode", "empty file"), (40, "read", "no such file")]
    first = batches[0]
    assert tuple(first.pixels_bgr.shape) == (2, 24, 30, 3)
    for position in range(2):
        height, width = first.heights[position], first.widths[position]
        assert np.array_equal(first.pixels_bgr[position, :height, :width].numpy(), pixels[position])
        assert not first.pixels_bgr[position, height:].any() and not first.pixels_bgr[position, :, width:].any()


def test_decoders_stay_few_batches_ahead_and_end_with_the_iteration(tmp_path, monkeypatch):
    decoded = []
    real = images._decoded
    monkeypatch.setattr(images, "_decoded", lambda *batch: decoded.append(batch) or real(*batch))
    index = index_of(tmp_path, [(20, 30)] * 50)
    batches = image_batches(index, [np.arange(50)], images_per_batch=1, workers=2, pin=False)
    assert not decoded
    next(batches)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("decoder")]
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decoder")]
    assert 0 < len(decoded) <= 8


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_a_failure(tmp_path):
    path = tmp_path / "0.png"
    cv2.imwrite(str(path), np.zeros((20, 30, 3), np.uint8))
    path.chmod(0)
    (batch,) = image_batches(index_of(tmp_path, [(20, 30)]), [np.array([0])], 1, 0, False)
    assert batch.failures[0].reason == "Permission denied"
