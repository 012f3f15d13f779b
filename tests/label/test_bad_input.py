"""Bad input to labelling: one line that says what is wrong, status 2, and the old output as it was."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import call, refused
from pytest import CaptureFixture
from small_labelling import OLD, Labelling


def _empty(labelling: Labelling) -> None:
    for path in labelling.store.part_paths():
        path.unlink()


def _other_ids(data: dict[str, Any]) -> None:
    for image in data["images"]:
        image["id"] += 1000


def _smaller(data: dict[str, Any]) -> None:
    for image in data["images"]:
        image["width"] = 30


def _renamed(data: dict[str, Any]) -> None:
    data["images"][1]["file_name"] = "another.png"


def _larger(data: dict[str, Any]) -> None:
    data["images"][1]["height"] *= 2


OTHER = "label.annotations={folder}/other.json"
ROWS: dict[str, tuple[Callable[[Labelling], Any], list[str], str]] = {
    "no store": (
        lambda made: made.store.folder.rename(made.folder / "away"),
        [],
        "no region store at .*launch/score.py",
    ),
    "empty store": (_empty, [], "the store .* has no images; .*launch/score.py"),
    "empty store, partial": (_empty, ["label.allow_partial=true"], "the store .* has no images"),
    "store of another dataset": (
        lambda made: made.change_json(_other_ids),
        [],
        "has other images than the store .*; label with the JSON that was scored, .*, or score this one into another",
    ),
    "store of more images": (
        lambda made: made.change_json(lambda data: data["images"].pop()),
        [],
        "has other images than the store .* was made from; label.annotations takes a JSON of images that were scored",
    ),
    "store of other ids": (
        lambda made: made.change_json(_other_ids, "other.json"),
        [OTHER],
        "none of the 3 images of .*other.json is in the store",
    ),
    "store of other ids, partial": (
        lambda made: made.change_json(_other_ids, "other.json"),
        [OTHER, "label.allow_partial=true"],
        "none of the 3 images of .*other.json is in the store",
    ),
    "store of other sizes": (
        lambda made: made.change_json(_smaller, "other.json"),
        [OTHER],
        "image 1 is 30 x 80 there",
    ),
    "store of images of other names": (
        lambda made: made.change_json(_renamed, "other.json"),
        [OTHER],
        "label.annotations: image 2 is .* there, 'another.png', and was scored as",
    ),
    "store of smaller images": (
        lambda made: made.change_json(_larger, "other.json"),
        [OTHER],
        "label.annotations: image 2 is .* there, .* and was scored as",
    ),
    "output in the store": (
        lambda made: None,
        ["label.output={folder}/store/manifest.json"],
        "label.output: .* lies in the region store; choose another name",
    ),
    "output among the logs": (
        lambda made: None,
        ["label.output={folder}/log/rank-0.txt"],
        "label.output: .* lies in the folder of the ranks' logs",
    ),
    "store of fewer images": (
        lambda made: made.change_json(lambda data: data["images"].append(data["images"][0] | {"id": 4}), "other.json"),
        [OTHER],
        r"1 of 4 images is not in the store of run.output=\S+ \(image 4\); .*label.allow_partial=true",
    ),
    "name missing": (lambda made: None, ["label.vocabulary=cow,buss"], "'buss'; did you mean 'bus'"),
    "name twice": (lambda made: None, ["label.vocabulary=cow,bus,cow"], "name given twice: cow"),
    "no name": (lambda made: None, ["label.vocabulary=[]"], "label.vocabulary: it has no novel name"),
    "category twice": (
        lambda made: made.change_json(lambda data: data["categories"].append({"id": 9, "name": "bus"})),
        [],
        "has two categories with name 'bus'",
    ),
    "no JSON": (lambda made: made.annotations.write_text('{"images": ['), [], "is not a COCO-format JSON"),
    "NaN in a box": (lambda made: made.change_part("boxes_xyxy", np.nan), [], "part .*parquet holds NaN .*boxes_xyxy"),
    "infinite objectness": (lambda made: made.change_part("objectness", np.inf), [], "part .*parquet .*objectness"),
    "NaN in evidence": (lambda made: made.change_part("agreement", np.nan), [], "part .*parquet holds NaN .*agreement"),
    "NaN in an embedding": (lambda made: made.change_part("embeddings", np.nan), [], "embedding of image 2 .*NaN"),
    "embedding cut short": (lambda made: made.change_part("embeddings", None), [], "part .*parquet is damaged"),
    "threshold above 1": (lambda made: None, ["label.score_threshold=1.5"], "label.score_threshold is 1.5; .* 0 to 1"),
    "threshold NaN": (lambda made: None, ["label.score_threshold=.nan"], "label.score_threshold is nan; .* 0 to 1"),
    "box threshold": (lambda made: None, ["label.box_threshold=-0.1"], "label.box_threshold is -0.1; .* 0 to 1"),
    "weight": (lambda made: None, ["label.objectness_weight=80"], "label.objectness_weight is 80.0; .* 0 to 1"),
    "NMS": (lambda made: None, ["label.nms_iou=60"], "label.nms_iou is 60.0; .* 0 to 1"),
    "temperature": (
        lambda made: None,
        ["label.temperature=0"],
        "label.temperature is 0.0; expected a number from 1e-6",
    ),
    "threshold is a word": (lambda made: None, ["label.score_threshold=high"], "label.score_threshold is 'high'"),
}


@pytest.fixture
def labelling(tmp_path: Path) -> Labelling:
    return Labelling.make(tmp_path)


@pytest.mark.parametrize("name", ROWS)
def test_bad_input_is_one_line_and_the_old_output_stays(
    labelling: Labelling, name: str, capsys: CaptureFixture[str]
) -> None:
    spoil, words, message = ROWS[name]
    spoil(labelling)
    words = [word.format(folder=labelling.folder) if "{folder}" in word else word for word in words]
    line = refused(capsys, "label", [*labelling.words(), *words])
    assert re.search(message, line), line
    assert labelling.output.read_bytes() == OLD
    assert not list(labelling.folder.glob(".*")), "nothing half done is left"


def test_what_the_table_spoils_is_good_as_it_was(labelling: Labelling) -> None:
    call("label", *labelling.words(), "label.score_threshold=0")
    made = json.loads(labelling.output.read_text())
    assert {label["image_id"] for label in made["annotations"]} == {1, 2, 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: _other_ids(data), "have no image to compare|or only crowds"),
        (lambda data: data["categories"].pop(), "has no category 'bus'"),
        (lambda data: data["categories"].append({"id": 9, "name": "bus"}), "two categories with name 'bus'"),
        (lambda data: data["annotations"].clear(), "has no annotation"),
        (lambda data: data["annotations"][0].update(bbox=[1, 2, 3]), "is not a COCO-format JSON"),
        (lambda data: data["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "is not a COCO-format JSON"),
    ],
    ids=["other image ids", "category missing", "category twice", "no objects", "box cut short", "NaN"],
)
def test_ground_truth_that_cannot_be_compared_is_one_line_and_the_old_figures_stay(
    labelling: Labelling, change: Callable[[dict[str, Any]], Any], message: str, capsys: CaptureFixture[str]
) -> None:
    call("label", *labelling.words(), "label.score_threshold=0")
    truth = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0}
    labelling.change_json(lambda data: data["annotations"].append(truth), "truth.json")
    figures = labelling.folder / "figures.json"
    words = ["--labels", labelling.output, "--ground-truth", labelling.folder / "truth.json", "--json", figures]
    call("evaluate", *words)
    before = figures.read_bytes()
    labelling.change_json(lambda data: (data["annotations"].append(truth), change(data)), "truth.json")
    assert re.search(message, line := refused(capsys, "evaluate", words)), line
    assert figures.read_bytes() == before
