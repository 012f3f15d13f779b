"""Exports of a labelled JSON: what other tools read is what the JSON says."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from commands import call
from pycocotools.coco import COCO

from plgen_ddp.coco import CocoFile
from plgen_ddp.errors import UserError
from plgen_ddp.export import export
from plgen_ddp.records import PseudoLabels

IMAGES = [
    {
        "id": 9,
        "file_name": "b.jpg",
        "width": 60,
        "height": 40,
        "coco_url": "http://x/train2017/b.jpg",
    },
    {"id": 4, "file_name": "train2017/a.png", "width": 100, "height": 50},
    {"id": 5, "coco_url": "http://x/val2017/e.jpg", "width": 8, "height": 8},
]
CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": 'a "d\u00f6g", red'}, {"id": 8, "name": "no"}]
BASE = [
    {"id": 1, "image_id": 9, "category_id": 8, "bbox": [30, 20, 60, 10], "iscrowd": 0},  # half of it outside
    {"id": 2, "image_id": 9, "category_id": 8, "bbox": [0, 0, 9, 9], "iscrowd": 1},
    {"id": 3, "image_id": 4, "category_id": 8, "bbox": [5, 5, 0, 9], "iscrowd": 0},
]
BOXES = np.array([[10, 20, 30, 10], [0, 0, 50, 25], [0.1, 0.2, 1 / 3, 7]])
SCORES = np.array([0.9, 0.8, 1 / 3])


@pytest.fixture
def labels(tmp_path):
    source, path = tmp_path / "source.json", tmp_path / "labels.json"
    source.write_text(json.dumps({"images": IMAGES, "categories": CATEGORIES, "annotations": BASE}))
    ids = np.array([9, 4, 4])
    columns = PseudoLabels(ids, np.array([7, 3, 3]), BOXES, SCORES, SCORES / 2, SCORES / 3, SCORES / 4)
    made = {"label": {"novel": ["cat"]}}
    CocoFile(source, "data.annotations").write_labelled(path, {8}, columns, made, box_score=True)
    return path


def test_coco_results_are_loaded_by_pycocotools(labels, tmp_path):
    output = tmp_path / "out" / "results.json"
    assert export(labels, "coco_results", output).boxes == 3
    coco = COCO(str(labels))
    found = coco.loadRes(str(output))
    written = [(row["image_id"], row["category_id"], row["bbox"], row["score"]) for row in found.anns.values()]
    expected = [row for row in coco.anns.values() if "confidence" in row]
    assert written == [(row["image_id"], row["category_id"], row["bbox"], row["confidence"]) for row in expected]
    assert len(written) == 3 and written[2] == (4, 3, BOXES[2].tolist(), SCORES[2])


def test_tables_have_a_row_a_label_and_every_digit(labels, tmp_path):
    parquet, text = tmp_path / "labels.parquet", tmp_path / "labels.csv"
    assert export(labels, "parquet", parquet).images == 2
    export(labels, "csv", text)
    rows = pq.read_table(parquet).to_pylist()
    assert rows[1] == {
        "id": -2,
        "image_id": 4,
        "file_name": "train2017/a.png",
        "category_id": 3,
        "name": 'a "d\u00f6g", red',
        **dict(zip(("x", "y", "width", "height"), BOXES[1].tolist(), strict=True)),
        **{name: SCORES[1] / by for name, by in (("score", 1), ("clip_score", 2), ("box_score", 3), ("rpn_score", 4))},
    }
    with text.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(rows) == 3
    for ours, theirs in zip(rows, read, strict=True):
        assert {name: type(ours[name])(value) for name, value in theirs.items()} == ours


def test_a_yolo_folder_says_the_same_boxes(labels, tmp_path):
    output = tmp_path / "yolo"
    done = export(labels, "yolo", output)
    assert (done.boxes, done.images, done.left_out) == (4, 3, 2), "a crowd and a box without area are left out"
    names = yaml.safe_load((output / "data.yaml").read_text(encoding="utf-8"))["names"]
    assert names == dict(enumerate(category["name"] for category in CATEGORIES))
    assert (output / "classes.txt").read_text(encoding="utf-8").splitlines() == list(names.values())
    assert (output / "train.txt").read_text().split() == [
        "./images/train2017/b.jpg",
        "./images/train2017/a.png",
        "./images/val2017/e.jpg",
    ]
    lines = (output / "labels" / "train2017" / "b.txt").read_text().splitlines()
    assert lines == ["2 0.750000 0.625000 0.500000 0.250000", "0 0.416667 0.625000 0.500000 0.250000"]
    assert (output / "labels" / "train2017" / "a.txt").read_text().splitlines()[
        0
    ] == "1 0.250000 0.250000 0.500000 0.500000"
    assert (output / "labels" / "val2017" / "e.txt").read_text() == ""
    assert not list(tmp_path.glob(".*")), "nothing under a temporary name is left"


def test_a_line_end_in_a_name_is_a_space_in_the_list_of_names(labels, tmp_path):
    content = json.loads(labels.read_text())
    content["categories"][0]["name"] = "black\ncat"
    labels.write_text(json.dumps(content))
    export(labels, "yolo", tmp_path / "yolo")
    listed = (tmp_path / "yolo" / "classes.txt").read_text(encoding="utf-8").splitlines()
    assert listed == ["black cat", *(category["name"] for category in CATEGORIES[1:])]
    assert yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text(encoding="utf-8"))["names"][0] == "black\ncat"


def test_every_image_of_a_yolo_list_has_its_file_where_trainers_look(labels, tmp_path):
    content = json.loads(labels.read_text())
    content["images"][1]["file_name"] = "images/a.png"  # the user's images folder is ours
    labels.write_text(json.dumps(content))
    export(labels, "yolo", tmp_path / "yolo")
    for line in (tmp_path / "yolo" / "train.txt").read_text().split():
        path = str(tmp_path / "yolo" / line.removeprefix("./"))
        before, behind = path.rsplit("/images/", 1)
        assert Path(before, "labels", behind).with_suffix(".txt").is_file()


def test_mistakes_are_named_and_write_nothing(labels, tmp_path, monkeypatch):
    content = json.loads(labels.read_text())
    for kind in ("coco_results", "csv"):
        with pytest.raises(UserError, match=r"--output: .* is the labels; choose another name"):
            export(labels, kind, labels)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    with pytest.raises(UserError, match="is not empty; choose a new folder"):
        export(labels, "yolo", tmp_path / "full")
    with pytest.raises(UserError, match="cannot write into"):
        export(labels, "yolo", labels)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match=r"--output: \. is the current folder"):
        export(labels, "yolo", Path())

    def broken(change, message):
        other, data = tmp_path / "other.json", json.loads(json.dumps(content))
        change(data)
        other.write_text(json.dumps(data))
        with pytest.raises(UserError, match=message):
            export(other, "yolo", tmp_path / "broken")
        assert not (tmp_path / "broken").exists()

    broken(lambda data: data["images"].pop(1), "annotation 3 has image 4 and category 8, and the file lacks")
    broken(lambda data: data["images"][0].update(width=None), "image 9 has no width and height")
    broken(lambda data: data["images"][0].update(file_name="../b.jpg"), "no path that stays inside")
    broken(lambda data: data["images"][1].update(file_name="train2017/b.png"), r"the labels train2017/b\.txt")
    broken(lambda data: data.update(info={}, annotations=[]), "no pseudo labels")


def test_the_command_counts_what_it_wrote_and_left_out(labels, tmp_path, capsys):
    call("export", labels, "--format", "yolo", "--output", tmp_path / "yolo")
    printed = capsys.readouterr()
    assert printed.out == f"wrote {tmp_path / 'yolo'}: 4 boxes on 3 images\n"
    assert printed.err.startswith("2 boxes were left out")
