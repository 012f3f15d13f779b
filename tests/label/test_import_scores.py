"""Scores of VL-PLM or MarvelOVD: imported and labelled, they give what those projects' own stage 2 gives."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import call, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import CaptureFixture, TempPathFactory

from plgen_ddp.benchmark.reference_recipe import reference_top_labels
from plgen_ddp.store import RegionStore

NOVEL = {"cow": 21, "umbrella": 9, "bus": 6}
WIDTH, HEIGHT = 640, 480
KEYS = ("img_ids_list", "bbox_all_list", "rpn_score_all_list", "clip_score_all_list", "clip_catIDs_all_list")


def scored_image(seed: int, count: int, *, digits: int | None = None) -> list[Any]:
    """Boxes, RPN scores, and of two names each the CLIP scores and category ids, as Python's json writes them.

    Boxes lie in clusters, so that suppression has work. Scores rounded to few `digits` are often equal to each other
    and to a threshold.
    """
    generator = np.random.default_rng(seed)
    corners = generator.choice(generator.uniform(0, 300, (max(1, count // 4), 2)), count) + generator.uniform(
        0, 12, (count, 2)
    )
    boxes = np.concatenate([corners, corners + generator.choice([40, 80, 100, 150], (count, 2))], axis=1)
    rpn, clip = generator.uniform(0.3, 1, count), generator.uniform(0.3, 1, count)
    if digits is not None:
        boxes, rpn, clip = boxes.round(0), rpn.round(digits), clip.round(digits)
    ids = generator.choice(list(NOVEL.values()), (count, 2))
    return [boxes.tolist(), rpn.tolist(), np.stack([clip, clip / 10], axis=1).tolist(), ids.tolist()]


class Published:
    """A dataset and a folder of scores, as the published stage 1 leaves it."""

    def __init__(self, folder: Path, image_ids: list[int]) -> None:
        self.scores, self.output = folder / "scores", folder / "out"
        self.scores.mkdir(parents=True)
        self.annotations = folder / "instances.json"
        images = [{"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in image_ids]
        categories = [{"id": i, "name": name} for name, i in {"person": 1, **NOVEL, "dog": 18}.items()]
        self.base = {"id": 7, "image_id": image_ids[0], "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0, "area": 9}
        data = {"images": images, "annotations": [self.base], "categories": categories}
        self.annotations.write_text(json.dumps(data))

    def write(self, number: int, images: dict[int, list[Any]]) -> Path:
        path = self.scores / f"CLIP_scores_{number}.json"
        columns = [list(images), *map(list, zip(*images.values(), strict=True))]
        path.write_text(json.dumps(dict(zip(KEYS, columns, strict=True)), separators=(",", ":")))
        return path

    def words(self, *more: str) -> list[str]:
        return [
            "--config",
            "coco_vlplm",
            f"data.annotations={self.annotations}",
            f"label.vocabulary={','.join(NOVEL)}",
            "label.templates=['a {}.']",
            f"run.output={self.output}",
            *more,
        ]

    def import_them(self, *more: str) -> None:
        call("import_scores", "--scores", self.scores, *self.words("run.images_per_part=3", *more))

    def labels(self, *more: str) -> dict[str, Any]:
        call("label", *self.words(*more))
        return json.loads((self.output / "labels.json").read_text())


def stage_two(image_id: int, image: list[Any], weight: float, threshold: float, iou: float) -> list[dict[str, Any]]:
    boxes, rpn, clip, ids = (torch.tensor(values, dtype=torch.float64) for values in image)
    if not len(boxes):
        return []
    return reference_top_labels(image_id, boxes, rpn, clip[:, 0], ids[:, 0].long(), weight, threshold, nms_iou=iou)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    digits=st.sampled_from([None, 1, 2]),
    weight=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    threshold=st.sampled_from([0.0, 0.5, 0.7, 0.8]),
    iou=st.sampled_from([0.3, 0.5, 0.6, 1.0]),
)
def test_labels_are_those_of_the_published_stage_two(
    tmp_path_factory: TempPathFactory, seed: int, digits: int | None, weight: float, threshold: float, iou: float
) -> None:
    """Every number of every label to the last bit, ties included, and images without boxes."""
    counts = {12: 40, 5: 1, 80: 0, 44: 90, 3: 25}
    images = {i: scored_image(seed + i, count, digits=digits) for i, count in counts.items()}
    published = Published(tmp_path_factory.mktemp("published"), list(images))
    published.write(1, dict(list(images.items())[:2]))
    published.write(4, dict(list(images.items())[2:]))
    published.import_them()
    made = published.labels(
        f"label.objectness_weight={weight}", f"label.score_threshold={threshold}", f"label.nms_iou={iou}"
    )
    base, *labels = made["annotations"]
    assert base == published.base
    for image_id, image in images.items():
        own = [label for label in labels if label["image_id"] == image_id]
        expected = stage_two(image_id, image, weight, threshold, iou)
        for key in ("bbox", "category_id", "confidence", "clip_score", "rpn_score", "thing_isNovel", "iscrowd"):
            assert [label[key] for label in own] == [label[key] for label in expected], (image_id, key)
    assert len(labels) > 0


def test_the_store_says_what_it_is_and_has_no_embeddings(tmp_path: Path) -> None:
    published = Published(tmp_path, [3, 5])
    images = {3: scored_image(0, 4), 5: scored_image(1, 0)}
    published.write(1, images)
    published.import_them()
    store = RegionStore(published.output / "store")
    assert store.manifest().vocabulary is not None and store.manifest().dim == 0
    assert set(store.part_of_images()) == {3, 5} and store.failures() == []
    first, second = (image for path in store.part_paths() for image in store.read_part(path))
    assert first.boxes_xyxy.tolist() == images[3][0] and first.objectness.tolist() == images[3][1]
    assert first.embeddings.shape == (4, 0) and first.agreement is None
    assert len(second.objectness) == 0 and second.top_name is not None
    assert [path.name for path in published.output.iterdir()] == ["store"], "nothing else is left"


def test_images_that_are_twice_missing_or_unknown_are_counted_and_the_first_copy_is_taken(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    published = Published(tmp_path, [1, 2, 3, 4])
    images = {i: scored_image(i, 6) for i in (1, 2, 3)}
    published.write(1, images)
    published.write(2, {2: scored_image(20, 9), 3: scored_image(30, 9), 77: scored_image(7, 2)})
    published.import_them()
    printed = capsys.readouterr()
    assert "3 images, 18 boxes from 2 files" in printed.out
    notes = printed.err.splitlines()
    assert "2 images are in the files more than once" in notes[0] and "(first: image 2)" in notes[0]
    assert "1 image of the files is not in data.annotations" in notes[1] and "image 77" in notes[1]
    assert "1 image of data.annotations is in no file" in notes[2] and "image 4" in notes[2]
    assert "1 of 4 images is not in the store" in refused(capsys, "label", published.words())
    made = published.labels("label.allow_partial=true", "label.score_threshold=0", "label.nms_iou=1")
    assert [label["bbox"][:2] for label in made["annotations"] if label["image_id"] == 2 and label["id"] < 0] == [
        label["bbox"][:2] for label in stage_two(2, images[2], 0.5, 0.0, 1.0)
    ]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("label.vocabulary=cow,umbrella", "its novel lacks bus, and the imported scores were computed for 3 novel"),
        ("label.vocabulary=cow,umbrella,bus,dog", "its novel has dog, and"),
        ("label.vocabulary={novel: [cow, umbrella, bus], distractors: [sky]}", "its distractors has sky"),
        ("label.vocabulary={novel: [cow, umbrella, bus], aliases: {cow: cattle}}", "its aliases differ"),
        ("label.templates=['the {}.']", "label.templates differ"),
        ("label.temperature=0.02", "computed at 0.01.*label.temperature=null or 0.01"),
        ("label.class_score=all", "label.class_score is all, .*; use label.class_score=novel"),
        ("label.class_score=retrieved", "label.class_score is retrieved"),
        ("label.box_score=agreement", "label.box_score is agreement, .* no evidence"),
        ("label.box_score=verified", "label.box_score is verified"),
        ("label.threshold=f_beta_base", "label.threshold is f_beta_base, .* base names"),
    ],
)
def test_what_imported_scores_cannot_answer_is_refused_with_the_reason(
    imported: Published, word: str, message: str, capsys: CaptureFixture[str]
) -> None:
    line = refused(capsys, "label", imported.words(word))
    assert re.search(message, line), line
    assert not (imported.output / "labels.json").exists()


@pytest.fixture(scope="module")
def imported(tmp_path_factory: TempPathFactory) -> Published:
    published = Published(tmp_path_factory.mktemp("imported"), [1, 2])
    published.write(1, {i: scored_image(i, 20) for i in (1, 2)})
    published.import_them()
    return published


def test_names_in_another_order_and_other_category_ids_are_the_same_names(imported: Published, tmp_path: Path) -> None:
    words = (f"label.output={tmp_path / 'made.json'}", "label.score_threshold=0.6")
    call("label", *imported.words(*words))
    first = json.loads((tmp_path / "made.json").read_text())
    other = json.loads(imported.annotations.read_text())
    for category in other["categories"]:
        category["id"] += 100
    other["annotations"] = []
    (tmp_path / "other.json").write_text(json.dumps(other))
    call(
        "label",
        *imported.words(*words, "label.vocabulary=bus,cow,umbrella", f"label.annotations={tmp_path}/other.json"),
    )
    second = json.loads((tmp_path / "made.json").read_text())
    before = [label | {"category_id": label["category_id"] + 100} for label in first["annotations"] if label["id"] < 0]
    assert before == second["annotations"] and len({label["category_id"] for label in before}) > 1


def test_a_store_that_is_there_is_not_imported_over(imported: Published, capsys: CaptureFixture[str]) -> None:
    line = refused(capsys, "import_scores", ["--scores", imported.scores, *imported.words()])
    assert "exists; choose another run.output" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.pop("bbox_all_list"), "missing required field `bbox_all_list`"),
        (lambda file: file["rpn_score_all_list"].pop(), "2 images and 1 entries in rpn_score_all_list"),
        (lambda file: file["rpn_score_all_list"][1].pop(), "image 2 has 5 boxes, 4 RPN scores"),
        (lambda file: file["bbox_all_list"][1][0].pop(), "image 2: .*length 4"),
        (lambda file: file["clip_score_all_list"][1].__setitem__(0, []), "image 2: "),
        (lambda file: file["clip_score_all_list"].__setitem__(1, [[]] * 5), "image 2: a box has no CLIP score"),
        (lambda file: file["clip_score_all_list"][0][3].__setitem__(0, float("nan")), "it holds NaN or Infinity"),
        (lambda file: file["rpn_score_all_list"][0].__setitem__(3, 2.5), r"image 1 has a score outside \[0, 1\]"),
        (lambda file: file["bbox_all_list"][0].__setitem__(3, [50, 50, 9, 9]), "image 1 has a box that is not"),
        (lambda file: file["bbox_all_list"][0].__setitem__(3, [0, 0, 641, 9]), "outside 640 x 480 pixels"),
        (lambda file: file["clip_catIDs_all_list"][0][2].__setitem__(0, 18), "category id 18, which no novel name"),
        (lambda file: file.__setitem__("img_ids_list", [88, 99]), "none of the images in .* is in data.annotations"),
        (lambda file: file.clear(), "not a file of CLIP scores"),
    ],
)
def test_a_file_of_another_form_is_refused_and_leaves_no_store(
    tmp_path: Path, change: Any, message: str, capsys: CaptureFixture[str]
) -> None:
    published = Published(tmp_path, [1, 2])
    path = published.write(1, {i: scored_image(i, 5) for i in (1, 2)})
    file = json.loads(path.read_text())
    change(file)
    path.write_text(json.dumps(file))
    line = refused(capsys, "import_scores", ["--scores", published.scores, *published.words()])
    assert re.search(message, line), line
    assert list(published.output.iterdir()) == []


def test_no_files_an_empty_one_and_no_json_are_refused(tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    published = Published(tmp_path, [1])
    words = [*published.words(), "--scores"]
    assert "no folder at" in refused(capsys, "import_scores", [*words, tmp_path / "nowhere"])
    assert "no CLIP_scores_*.json in" in refused(capsys, "import_scores", [*words, published.scores])
    path = published.scores / "CLIP_scores_1.json"
    for content, reason in ((b"", "it is empty"), (b"no json", "malformed"), (b'{"img_ids_list":[1]', "truncated")):
        path.write_bytes(content)
        assert reason in refused(capsys, "import_scores", [*words, published.scores])


def test_base_annotations_can_teach_a_box_score(tmp_path: Path) -> None:
    """It looks at objectness and the boxes, which imported scores have."""
    published = Published(tmp_path, list(range(1, 21)))
    images = {i: scored_image(i, 20) for i in range(1, 21)}
    published.write(1, images)
    data = json.loads(published.annotations.read_text())
    for image_id, (boxes, *_) in images.items():
        for number, (x0, y0, x1, y1) in enumerate(boxes[:8]):
            box = {"id": 100 * image_id + number, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            data["annotations"].append(published.base | box | {"image_id": image_id})
    published.annotations.write_text(json.dumps(data))
    published.import_them()
    made = published.labels("label.box_score=learned", "label.score_threshold=0.5")
    labels = [label for label in made["annotations"] if label["id"] < 0]
    assert len({label["box_score"] for label in labels}) > 20
    for label in labels:
        assert label["confidence"] == pytest.approx((label["box_score"] + label["clip_score"]) / 2)


def test_imported_scores_record_no_encoder_for_text_embeddings(tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    published = Published(tmp_path, [1])
    published.write(0, {1: scored_image(0, 8)})
    published.import_them()
    assert not any("text_emb" in category for category in published.labels()["categories"])
    assert "note: 5 categories stay without text_emb" in capsys.readouterr().err
    published.labels("label.text_embeddings=none")
    assert "without text_emb" not in capsys.readouterr().err
    line = refused(capsys, "label", published.words("label.text_embeddings=replace"))
    assert "imported scores record no encoder" in line
