"""Images that nobody checked: each is a failure with a reason, the others are scored, nothing hangs or fills memory."""

import functools
import io
import json
import os
import socket
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import REPOSITORY, call, command, environment, refused
from PIL import Image
from small_datasets import SmallDataset

from plgen_ddp.image_files import ImageIndex
from plgen_ddp.image_rules import ImageRules
from plgen_ddp.safe_reading import read_image
from plgen_ddp.score.decode import DecodeError, decode_bgr
from plgen_ddp.score.images import UnitBatchSampler
from plgen_ddp.score.jpeg import jpeg_damage
from plgen_ddp.store import RegionStore

END_OF_IMAGE = b"\xff\xd9"
SCENE = REPOSITORY / "plgen_ddp" / "demo" / "data" / "demo" / "000000000001.jpg"
WHOLE = SCENE.read_bytes()
WIDTH, HEIGHT = Image.open(SCENE).size


def pipe(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def unix_socket(path):
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path may have 107 bytes
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def folder(path):
    path.mkdir()


def sparse(path):
    with path.open("wb") as file:
        file.truncate(4 << 30)


def link_out(path):
    outside = path.parents[2] / "outside.jpg"
    outside.write_bytes(WHOLE)
    path.symlink_to(outside)


def link_to_itself(path):
    path.symlink_to(path.name)


def chunk(kind, content):
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def png(width, height, content):
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


@functools.cache
def png_bomb():
    """12,000 x 12,000 black pixels in 0.4 MB: 432 MB to whoever decodes it."""
    deflate = zlib.compressobj(9)
    row = b"\0" * (1 + 3 * 12_000)
    return png(12_000, 12_000, b"".join(deflate.compress(row) for _ in range(12_000)) + deflate.flush())


@functools.cache
def jpeg(progressive=False):
    """The first scene's size, textured, so that each part of it counts."""
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT // 4, WIDTH // 4, 3), np.uint8)
    flags = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    return cv2.imencode(".jpg", cv2.resize(noise, (WIDTH, HEIGHT)), flags)[1].tobytes()


def halved(data):
    return data[: len(data) // 2] + END_OF_IMAGE


def zeroed(data, count=2000):
    middle = len(data) // 2
    return data[: middle - count // 2] + bytes(count) + data[middle + count // 2 :]


def flipped(data, place=0.5):
    at = int(len(data) * place)
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def small_png():
    return cv2.imencode(".png", cv2.imdecode(np.frombuffer(WHOLE, np.uint8), cv2.IMREAD_COLOR))[1].tobytes()


def halved_png():
    """Half of the pixels, and every checksum of a chunk is right."""
    rows = zlib.compress(b"\0" * (1 + 3 * WIDTH) * HEIGHT)
    return png(WIDTH, HEIGHT, rows[: len(rows) // 2])


def many_scans():
    """A progressive JPEG that repeats its last scan a thousand times."""
    data = jpeg(progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * 1000 + END_OF_IMAGE


def png_text():
    data = small_png()
    end = data.index(b"IDAT") - 4
    return data[:end] + flipped(chunk(b"tEXt", b"Comment\0fine"), 0.7) + data[end:]


@dataclass(frozen=True)
class Hostile:
    """What lies in the place of an image: bytes, or what `make` puts there; and its failure."""

    name: str
    make: object
    stage: str
    reason: str


TABLE = [
    Hostile("pipe", pipe, "read", "a named pipe, not a regular file"),
    Hostile("device", device, "read", "a link out of the image root, to '/dev/zero'"),
    Hostile("socket", unix_socket, "read", "a socket, not a regular file"),
    Hostile("folder", folder, "read", "Is a directory"),
    Hostile("sparse", sparse, "read", "4294967296 bytes are more than data.max_bytes=100000000"),
    Hostile("link_out", link_out, "read", "data.follow_links=true follows it"),
    Hostile("link_to_itself", link_to_itself, "read", "Too many levels of symbolic links"),
    Hostile("bomb", png_bomb, "decode", "12000 x 12000 pixels are more than data.max_pixels=64000000"),
    Hostile("huge_header", lambda: png(2**31 - 1, 2**31 - 1, b""), "decode", "are more than data.max_pixels"),
    Hostile("other_size", lambda: png(7000, 7000, b""), "decode", "size is 7000 x 7000, the dataset says"),
    Hostile("halved", lambda: halved(jpeg()), "decode", "damaged: Corrupt JPEG data: premature end"),
    Hostile("halved_progressive", lambda: halved(jpeg(True)), "decode", "damaged: "),
    Hostile("zeroed", lambda: zeroed(jpeg()), "decode", "damaged: Corrupt JPEG data"),
    Hostile("flipped", lambda: flipped(jpeg(), 0.6), "decode", "damaged: Corrupt JPEG data"),
    Hostile("extra", lambda: WHOLE[:-2] + bytes(20) + END_OF_IMAGE, "decode", "extraneous bytes"),
    Hostile("scans", many_scans, "decode", "more than 100 scans"),
    Hostile("png_flipped", lambda: flipped(small_png()), "decode", "damaged: wrong checksum in chunk 'IDAT'"),
    Hostile("png_text", png_text, "decode", "damaged: wrong checksum in chunk 'tEXt'"),
    Hostile("png_halved", halved_png, "decode", "damaged: the pixels end early"),
    Hostile("segments", lambda: b"\xff\xd8" + b"\xff\xe0\0\2" * 20_000, "decode", "truncated file"),
    Hostile("html", lambda: b"<html>404</html>", "decode", "not an image of a known format"),
]


# These put something into the place; the others return bytes.
PLACED = {pipe, device, unix_socket, folder, sparse, link_out, link_to_itself}


@dataclass(frozen=True)
class HostileRun:
    """A scoring of some of the demo's scenes; all but three have been replaced."""

    words: list[str]
    store: RegionStore
    expected: dict[int, Hostile]
    images: int
    printed: str


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory, tiny_models):
    root = tmp_path_factory.mktemp("hostile") / "root"
    images = len(TABLE) + 3
    dataset = SmallDataset.copy(root, images)
    data, expected = dataset.read(), {}
    for row, path, hostile in zip(data["images"][1:-2], dataset.files()[1:-2], TABLE, strict=True):
        path.unlink()
        row["width"], row["height"] = WIDTH, HEIGHT
        expected[row["id"]] = hostile
        if isinstance(content := hostile.make(path) if hostile.make in PLACED else hostile.make(), bytes):
            path.write_bytes(content)
    dataset.write(data | {"annotations": []})
    words = ["--config", str(REPOSITORY / "configs" / "coco_vlplm.yaml"), *tiny_models.words(), *dataset.words()]
    words += [f"run.output={root.parent / 'out'}", "--no-label"]
    # Whatever hangs ends the test; it takes ten seconds.
    done = subprocess.run(command("score.py", *words), capture_output=True, text=True, env=environment(), timeout=200)
    assert done.returncode == 1, done.stdout + done.stderr
    return HostileRun(words, RegionStore(root.parent / "out" / "store"), expected, images, done.stdout + done.stderr)


@pytest.mark.parametrize("name", [hostile.name for hostile in TABLE])
def test_each_is_a_failure_with_its_reason(hostile_run, name):
    ((image_id, hostile),) = ((key, value) for key, value in hostile_run.expected.items() if value.name == name)
    found = {failed: (stage, reason) for failed, stage, reason in hostile_run.store.failures()}
    stage, reason = found[image_id]
    assert stage == hostile.stage and hostile.reason in reason
    assert "\n" not in reason


def test_all_others_are_scored(hostile_run):
    assert {failed for failed, _, _ in hostile_run.store.failures()} == set(hostile_run.expected)
    assert len(hostile_run.store.part_of_images()) == hostile_run.images


def test_the_cause_is_on_the_screen_and_in_the_exit_status(hostile_run):
    assert f"error: {len(TABLE)} images could not be scored" in hostile_run.printed
    assert "Traceback" not in hostile_run.printed


def test_damaged_images_and_links_are_taken_where_the_user_asks_for_them(tmp_path):
    for damaged in (halved(jpeg()), zeroed(jpeg()), flipped(jpeg(), 0.6)):
        with pytest.raises(DecodeError, match=r"damaged: Corrupt JPEG data: .*; data\.damaged=accept takes it"):
            decode_bgr(damaged, HEIGHT, WIDTH)
        assert decode_bgr(damaged, HEIGHT, WIDTH, ImageRules(damaged="accept")).shape == (HEIGHT, WIDTH, 3)
    (tmp_path / "a" / "root").mkdir(parents=True)
    path = tmp_path / "a" / "root" / "1.jpg"
    link_out(path)
    with pytest.raises(OSError, match="a link out of the image root"):
        read_image(path, path.parent, ImageRules())
    assert read_image(path, path.parent, ImageRules(follow_links=True)) == WHOLE
    (tmp_path / "root").symlink_to(path.parent)
    path.unlink()
    (path.parent / "2.jpg").write_bytes(WHOLE)
    path.symlink_to("2.jpg")
    assert read_image(tmp_path / "root" / "1.jpg", tmp_path / "root", ImageRules()) == WHOLE, "a link as the root"


def test_a_device_is_refused_where_links_are_followed(tmp_path):
    device(tmp_path / "1.jpg")
    with pytest.raises(OSError, match="a device, not a regular file"):
        read_image(tmp_path / "1.jpg", tmp_path, ImageRules(follow_links=True))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000", "PPM"])
def test_the_limit_of_pixels_holds_in_every_format(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (101, 100)).save(buffer, kind)
    assert decode_bgr(buffer.getvalue(), 100, 101, ImageRules(max_pixels=10_100)).shape == (100, 101, 3)
    with pytest.raises(DecodeError, match="101 x 100 pixels are more than data"):
        decode_bgr(buffer.getvalue(), 100, 101, ImageRules(max_pixels=10_099))


def test_a_big_tiff_and_one_of_16_bits_are_images():
    pixels = np.random.default_rng(0).integers(0, 65535, (20, 30, 3), np.uint16)
    data = cv2.imencode(".tiff", pixels)[1].tobytes()
    assert decode_bgr(data, 20, 30).shape == (20, 30, 3)
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20)).save(buffer, "TIFF", big_tiff=True)
    assert decode_bgr(buffer.getvalue(), 20, 30).shape == (20, 30, 3)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}])
def test_whole_images_are_not_damaged(mode, options):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg())).convert(mode).save(buffer, "JPEG", **options)
    decode_bgr(buffer.getvalue(), HEIGHT, WIDTH)
    decode_bgr(buffer.getvalue() + b"appended \xff\xda" * 200, HEIGHT, WIDTH)


def test_real_photos_are_not_damaged(coco_mini):
    for path in sorted(coco_mini.glob("*/*.jpg")):
        assert jpeg_damage(path.read_bytes()) is None, path


def test_a_dataset_behind_a_link_is_refused_in_one_line_with_the_option(small_dataset, tiny_models, tmp_path, capsys):
    dataset = small_dataset(2)
    (dataset.root / "demo").rename(tmp_path / "disk")
    (dataset.root / "demo").symlink_to(tmp_path / "disk")
    words = ["--config", "coco_vlplm", *tiny_models.words(), *dataset.words(), f"run.output={tmp_path / 'out'}"]
    line = refused(capsys, "score", [*words, "--no-label"])
    assert "lead out of it" in line and line.endswith("if that is meant, add data.follow_links=true\n")
    call("score", *words, "data.follow_links=true", "--no-label")


def test_a_folder_of_links_is_listed_and_taken_where_the_user_asks_for_it(tmp_path, capsys):
    (tmp_path / "a" / "photos").mkdir(parents=True)
    link_out(tmp_path / "a" / "photos" / "1.jpg")
    (tmp_path / "a" / "photos" / "2.jpg").write_bytes(WHOLE)
    words = [tmp_path / "a" / "photos", "--output", tmp_path / "made.json"]
    call("make_json", *words)
    assert "'1.jpg': a link out of the folder" in capsys.readouterr().err
    call("make_json", *words, "--follow-links")
    assert len(json.loads((tmp_path / "made.json").read_text())["images"]) == 2


MEMORY = """
import resource, sys, time
import numpy as np, torch
from plgen_ddp.image_files import ImageIndex
from plgen_ddp.score.images import UnitBatchSampler, image_batches

count = 64
size = np.full(count, 3000, np.int32)
index = ImageIndex(sys.argv[1], np.arange(count), size, size, np.full(count, b"large.jpg"))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before, images = peak(), 0
with image_batches(index, UnitBatchSampler([np.arange(count)], 8, index), 2, torch.device("cpu")) as batches:
    for batch in batches:
        images += len(batch)
        time.sleep(0.3)  # a detector that is slower than the disk
print(images, peak() - before)
"""


def test_the_memory_of_a_rank_does_not_grow_with_the_images(tmp_path):
    """Eight batches of eight images of 3,000 x 3,000 pixels would be 1.7 GB."""
    cv2.imwrite(str(tmp_path / "large.jpg"), np.full((3000, 3000, 3), 127, np.uint8))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    images, megabytes = map(int, done.stdout.split())
    assert images == 64 and megabytes < 500


def test_batches_of_large_images_are_short_and_the_others_as_before():
    heights = np.array([480] * 20 + [3000] * 5 + [8000] + [480] * 3, np.int32)
    index = ImageIndex("", np.arange(len(heights)), heights, heights, np.full(len(heights), b"a.jpg"))
    sampler = UnitBatchSampler([np.arange(len(heights))], 8, index)
    assert list(map(len, sampler)) == [8, 8, 4, 2, 2, 1, 1, 3]
    assert [place for batch in sampler for place in batch] == list(range(len(heights)))


@pytest.mark.parametrize("option", ["max_pixels=0", "max_bytes=0", "damaged=maybe", "follow_links=maybe"])
def test_a_wrong_rule_is_one_line(capsys, option):
    key = option.partition("=")[0]
    assert refused(capsys, "score", ["--config", "demo", "--print-config", f"data.{option}"]).startswith(
        f"error: data.{key} is "
    )
