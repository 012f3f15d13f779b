"""Decoding: in colour where it can be, else a reason; batches and units of one shape."""

import io
import itertools
import os
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from plgen_ddp.image_files import ImageIndex
from plgen_ddp.records import Failure
from plgen_ddp.score import images
from plgen_ddp.score.decode import DecodeError, decode_bgr
from plgen_ddp.score.images import (
    ExactDistributedSampler,
    UnitBatchSampler,
    image_batches,
    plan_units,
    run_ahead,
    units_of_rank,
)

CPU = torch.device("cpu")
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


@pytest.mark.parametrize("ranks", range(1, 9))
def test_every_position_is_on_exactly_one_rank(ranks):
    for length in (*range(20), 63, 64, 65):
        samplers = [ExactDistributedSampler(length, rank, ranks) for rank in range(ranks)]
        shares = [list(sampler) for sampler in samplers]
        assert sorted(itertools.chain(*shares)) == list(range(length))
        assert shares == [list(range(rank, length, ranks)) for rank in range(ranks)], "in turn, so that sizes even out"
        assert list(map(len, samplers)) == list(map(len, shares))
        units = [np.array([number]) for number in range(length)]
        assert [unit[0] for rank in range(ranks) for unit in units_of_rank(units, rank, ranks)] == [
            number for share in shares for number in share
        ]


@pytest.mark.parametrize("images_per_batch", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("sizes", [[], [1], [3, 3, 3], [8, 7, 1, 1], [5, 16]])
def test_no_batch_crosses_a_unit(sizes, images_per_batch):
    ends = list(itertools.accumulate(sizes, initial=0))
    units = [np.arange(start, stop)[::-1] for start, stop in itertools.pairwise(ends)]
    sampler = UnitBatchSampler(units, images_per_batch)
    batches = list(sampler)
    assert [position for batch in batches for position in batch] == [place for unit in units for place in unit.tolist()]
    assert len(batches) == sum(map(sampler.batches_in, units))
    rest = iter(batches)
    for unit in units:
        own = list(itertools.islice(rest, sampler.batches_in(unit)))
        assert [position for batch in own for position in batch] == unit.tolist()
        assert all(len(batch) == images_per_batch for batch in own[:-1]) and 0 < len(own[-1]) <= images_per_batch


def threads_left():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("decoder", "loader"))]


@pytest.fixture
def files(tmp_path):
    """An index of 50 images of one size, each of one grey level: its position."""
    for number in range(50):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((20, 30, 3), number, np.uint8))
    return index_of(tmp_path, [(20, 30)] * 50)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_each_image_once_and_failures_beside_them(tmp_path, workers):
    generator = np.random.default_rng(0)
    extents = [(20, 30), (24, 28), (20, 30), (22, 26), (20, 30)]
    pixels = [generator.integers(0, 255, (*extent, 3), np.uint8) for extent in extents]
    for number in (0, 1, 3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), pixels[number])
    (tmp_path / "2.png").write_bytes(b"")
    sampler = UnitBatchSampler([np.array([0, 1, 2]), np.array([3, 4])], images_per_batch=2)
    with image_batches(index_of(tmp_path, extents), sampler, workers, CPU) as decoded:
        batches = list(decoded)
    assert [batch.image_ids for batch in batches] == [(0, 10), (), (30,)]
    failures = [(failure.image_id, failure.failure) for batch in batches for failure in batch.failures]
    assert failures == [(20, Failure("decode", "empty file")), (40, Failure("read", "no such file"))]
    first = batches[0]
    assert tuple(first.pixels_bgr.shape) == (2, 24, 30, 3)
    for position in range(2):
        height, width = first.heights[position], first.widths[position]
        assert np.array_equal(first.pixels_bgr[position, :height, :width].numpy(), pixels[position])
        assert not first.pixels_bgr[position, height:].any() and not first.pixels_bgr[position, :, width:].any()


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_order_is_the_samplers_however_long_an_image_takes(files, monkeypatch, workers):
    real = images.decode_bgr
    order = np.random.default_rng(0).permutation(50)

    def uneven(data, height, width):
        pixels = real(data, height, width)
        time.sleep(0.003 * (int(pixels[0, 0, 0]) % 3))
        return pixels

    monkeypatch.setattr(images, "decode_bgr", uneven)
    with image_batches(files, UnitBatchSampler([order[:20], order[20:]], 8), workers, CPU) as decoded:
        batches = list(decoded)
    assert [number // 10 for batch in batches for number in batch.image_ids] == order.tolist()
    levels = [int(level) for batch in batches for level in batch.pixels_bgr[:, 0, 0, 0]]
    assert levels == order.tolist(), "each image has its own pixels"


def test_decoders_stay_few_batches_ahead_and_end_with_the_block(files, monkeypatch):
    decoded = []
    real = images.decode_bgr
    monkeypatch.setattr(images, "decode_bgr", lambda *given: decoded.append(given) or real(*given))
    with image_batches(files, UnitBatchSampler([np.arange(50)], 1), 2, CPU) as batches:
        next(batches)
        assert {name.split("_")[0] for name in threads_left()} == {"decoder", "loader"}
        ahead = 0
        while ahead != len(decoded):  # until they wait for room
            ahead = len(decoded)
            time.sleep(0.1)
        # One taken, eight in the queue, one that waits for room in it.
        assert 1 < len(decoded) <= 10
    assert not threads_left()
    assert len(decoded) <= 12


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [0, 1, 7, None], ids=["none", "one", "some", "all"])
def test_nothing_is_left_when_a_block_is_left(files, workers, taken):
    before = threading.active_count()
    with image_batches(files, UnitBatchSampler([np.arange(50)], 4), workers, CPU) as batches:
        assert len(list(itertools.islice(batches, taken))) == (13 if taken is None else taken)
    assert not threads_left() and threading.active_count() == before
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        image_batches(files, UnitBatchSampler([np.arange(50)], 4), workers, CPU) as batches,
    ):
        list(itertools.islice(batches, taken))
        raise RuntimeError("out of memory")
    assert not threads_left() and threading.active_count() == before


def test_without_workers_there_is_no_thread_and_nothing_is_decoded_ahead(files, monkeypatch):
    threads, decoded = threading.active_count(), []
    real = images.decode_bgr
    monkeypatch.setattr(images, "decode_bgr", lambda *given: decoded.append(given) or real(*given))
    with image_batches(files, UnitBatchSampler([np.arange(50)], 4), 0, CPU) as batches:
        for number, _ in enumerate(batches, start=1):
            assert len(decoded) == min(4 * number, 50)
            assert threading.active_count() == threads


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_nothing_forks_and_nothing_goes_through_shared_memory(files, monkeypatch):
    """A rank that is in a process group cannot fork safely, and a container has 64 MB of /dev/shm."""
    forks = []
    os.register_at_fork(before=lambda: forks.append(threading.current_thread().name))

    def shared_mappings():
        return Path("/proc/self/maps").read_text().count("/dev/shm/")

    before = shared_mappings()
    with image_batches(files, UnitBatchSampler([np.arange(50)], 4), 2, CPU) as batches:
        for batch in batches:
            assert not batch.pixels_bgr.is_shared() and shared_mappings() == before
    assert not forks


def test_the_loader_draws_nothing_from_the_callers_random_state(files):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with image_batches(files, UnitBatchSampler([np.arange(50)], 4), 2, CPU) as batches:
        list(batches)
    assert torch.equal(torch.rand(3), expected)


def test_running_ahead_gives_the_items_and_raises_what_went_wrong_in_its_place():
    with run_ahead(range(100), depth=3) as items:
        assert list(items) == list(range(100))

    def broken():
        yield from range(5)
        raise ValueError("no sixth")

    with run_ahead(broken(), depth=2) as items:
        assert list(itertools.islice(items, 5)) == list(range(5))
        with pytest.raises(ValueError, match="no sixth"):
            next(items)
    with run_ahead(broken(), depth=2) as items:
        assert next(items) == 0, "what is not taken is not raised"
    assert not threads_left()


def test_running_ahead_begins_in_its_own_thread():
    names = []

    def begin():
        names.append(threading.current_thread().name)

    with run_ahead(range(3), 1, begin) as items:
        assert list(items) == [0, 1, 2]
    assert names == ["loader"]

    def fail():
        raise RuntimeError("no such device")

    with run_ahead(range(3), 1, fail) as items, pytest.raises(RuntimeError, match="no such device"):
        next(items)


def test_a_file_that_cannot_be_read_is_a_failure(tmp_path):
    (tmp_path / "0.png").mkdir()  # and not one without permissions, which root reads
    with image_batches(index_of(tmp_path, [(20, 30)]), UnitBatchSampler([np.array([0])], 1), 0, CPU) as batches:
        (batch,) = batches
    assert batch.failures[0].failure == Failure("read", "Is a directory")
