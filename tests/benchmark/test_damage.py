"""The table of damage: what a decoder can notice, it notices, and what the README says cannot be seen is seen here."""

import cv2
import numpy as np
import pytest

from plgen_ddp.benchmark.damage import DAMAGES, main, try_damages


@pytest.fixture
def folder(tmp_path):
    """An image as JPEG and PNG, each in a folder of its own."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    pixels = cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC)
    for kind in ("jpg", "png"):
        (tmp_path / kind).mkdir()
        cv2.imwrite(str(tmp_path / kind / f"0.{kind}"), pixels)
    return tmp_path


def test_a_png_has_checksums(folder):
    found = try_damages(folder / "png", None, 20, 0)
    assert {name: one.unseen for name, one in found.items()} == dict.fromkeys(DAMAGES, 0)


def test_a_jpeg_has_none(folder):
    found = try_damages(folder / "jpg", None, 20, 0)
    bit, half = found["one bit flipped"], found["second half missing"]
    assert bit.unseen > 10 and half.unseen == 0
    assert all(one.trials == 20 and one.spoilt <= one.unseen for one in found.values())
    assert any(one.spoilt for one in found.values())


def test_the_table_names_every_damage(folder, capsys):
    assert main([str(folder / "jpg"), "--trials", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == list(DAMAGES)
    assert all(line.split("|")[2].strip() == "2" for line in lines[2:])


def test_a_folder_without_a_whole_image_is_refused(tmp_path, capsys):
    (tmp_path / "0.jpg").write_bytes(b"no image")
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert capsys.readouterr().err.count("\n") == 1
