"""A folder of images as a COCO-format JSON: sizes that stage 1 finds too, ids that depend on names alone."""

import json
import os

import pytest
from commands import call, refused
from PIL import Image

from plgen_ddp.coco import CocoFile
from plgen_ddp.image_files import index_images
from plgen_ddp.score.decode import decode_bgr


def photo(path, size=(30, 20), orientation=1):
    """An image file of a (width, height) as stored, which its EXIF may turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(path, exif=exif)
    return path


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "photos"


def made(folder, *words):
    output = folder.parent / "made.json"
    call("make_json", folder, "--output", output, *words)
    return json.loads(output.read_text())


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", ["jpg", "PNG", "webp", "tiff"])
def test_sizes_are_those_that_stage_1_decodes(folder, suffix, orientation):
    path = photo(folder / f"a.{suffix}", orientation=orientation)
    (image,) = made(folder)["images"]
    upright = (20, 30) if orientation >= 5 else (30, 20)
    assert (image["width"], image["height"]) == upright
    assert decode_bgr(path.read_bytes(), image["height"], image["width"]).shape[:2] == upright[::-1]


def test_scoring_finds_every_image_of_folders_in_folders(folder):
    for name in ("b/2.jpg", "a.png", "b/c/1.jpeg", "B/0.bmp"):
        photo(folder / name)
    (folder / "notes.txt").write_text("no image")
    data = made(folder)
    assert [(image["id"], image["file_name"]) for image in data["images"]] == [
        (1, "B/0.bmp"),
        (2, "a.png"),
        (3, "b/2.jpg"),
        (4, "b/c/1.jpeg"),
    ]
    path = folder.parent / "made.json"
    index = index_images(CocoFile(path, "data.annotations").images(), str(folder), path)
    assert all(index.path(position).is_file() for position in range(4))


def test_names_become_categories_and_the_same_folder_the_same_bytes(folder):
    photo(folder / "a.jpg")
    data = made(folder, "--names", "traffic cone", "scooter")
    assert data["categories"] == [{"id": 1, "name": "traffic cone"}, {"id": 2, "name": "scooter"}]
    assert data["annotations"] == []
    first = (folder.parent / "made.json").read_bytes()
    made(folder, "--names", "traffic cone", "scooter")
    assert (folder.parent / "made.json").read_bytes() == first


def test_unreadable_files_are_listed_with_their_reason(folder, capsys):
    photo(folder / "good.jpg")
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("no image")
    (folder / "new\nline.jpg").write_bytes((folder / "good.jpg").read_bytes())
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes((folder / "good.jpg").read_bytes())
    os.mkfifo(folder / "pipe.jpg")  # opening it would wait for ever
    assert [image["file_name"] for image in made(folder)["images"]] == ["good.jpg"]
    printed = capsys.readouterr()
    assert "1 images, 0 categories; 5 files left out" in printed.out
    listed = printed.err.splitlines()
    assert len(listed) == 5
    for name, reason in (
        ("empty.jpg", "not an image"),
        ("text.png", "not an image"),
        ("new\\nline.jpg", "rename it"),
        ("\\udcff.jpg", "rename it"),
        ("pipe.jpg", "a named pipe, not a regular file"),
    ):
        assert any(name in line and reason in line for line in listed), name


def test_mistakes_are_one_line(folder, capsys, tmp_path):
    words = ["--output", tmp_path / "made.json"]
    assert "no folder at" in refused(capsys, "make_json", [folder, *words])
    folder.mkdir()
    assert "no file there ends with one of .bmp" in refused(capsys, "make_json", [folder, *words])
    (folder / "a.jpg").write_text("no image")
    assert "none of the 1 images" in refused(capsys, "make_json", [folder, *words])
    photo(folder / "a.jpg")
    for names in (["fish", "fish"], [""], ["fish", " "]):
        assert f"{names[-1]!r} is given twice, or empty" in refused(
            capsys, "make_json", [folder, *words, "--names", *names]
        )
    assert not (tmp_path / "made.json").exists()
    assert "is a folder" in refused(capsys, "make_json", [folder, "--output", tmp_path])
