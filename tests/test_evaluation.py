"""Evaluation: perfect labels are 1, known mistakes cost what COCO says, names decide and not ids."""

import json

import pytest
from commands import REPOSITORY

from plgen_ddp.errors import UserError
from plgen_ddp.evaluation import evaluate

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "bus"}]
TRUTHS = [  # (image, category, box): one cat an image, dogs on the first two
    *[(image, 1, [10, 10, 50, 40]) for image in range(1, 5)],
    *[(image, 2, [100, 20, 60, 60]) for image in (1, 2)],
    (4, 3, [5, 5, 30, 30]),
]


def write(path, rows, categories=CATEGORIES, images=range(1, 6), novel=("cat", "dog")):
    annotations = [
        {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        | ({"confidence": rest[0]} if rest else {})
        for number, (image, category, box, *rest) in enumerate(rows, start=1)
    ]
    info = {"plgen_ddp": {"label": {"novel": list(novel)}}} if novel else {}
    images = [{"id": image} for image in images]
    path.write_text(json.dumps({"info": info, "images": images, "categories": categories, "annotations": annotations}))
    return path


@pytest.fixture
def truth(tmp_path):
    return write(tmp_path / "truth.json", TRUTHS)


def test_perfect_labels_have_ap_1_and_base_annotations_do_not_count(tmp_path, truth):
    rows = [(*row, 0.9) for row in TRUTHS if row[1] != 3] + [(4, 3, [5, 5, 30, 30])]
    result = evaluate(write(tmp_path / "labels.json", rows), truth)
    assert (result.AP, result.AP50, result.AR100) == (1, 1, 1)
    assert (result.pseudo_labels, result.images, result.pls_per_image) == (6, 5, 6 / 5)
    assert result.AP50_by_name == {"cat": 1, "dog": 1}
    only = evaluate(tmp_path / "labels.json", truth, only_images_with_novel=True)
    assert only.images == 4


def test_half_the_dogs_and_loose_boxes_cost_what_coco_says(tmp_path, truth):
    loose = [(image, 1, [10, 10, 50, 30], 0.9) for image in range(1, 5)]  # IoU 0.75: right at 0.5 to 0.75
    result = evaluate(write(tmp_path / "labels.json", [*loose, (1, 2, [100, 20, 60, 60], 0.8)]), truth)
    half = 51 / 101  # recall reaches 0.5 of COCO's 101 points
    assert pytest.approx((1 + half) / 2) == result.AP50
    assert result.AP50_by_name == pytest.approx({"cat": 1, "dog": half})
    assert pytest.approx((6 / 10 + half) / 2) == result.AP


def test_a_false_label_above_the_true_ones_costs_precision(tmp_path, truth):
    rows = [(*row, 0.5) for row in TRUTHS if row[1] != 3] + [(5, 1, [10, 10, 50, 40], 0.9)]
    result = evaluate(write(tmp_path / "labels.json", rows), truth)
    assert result.AP50_by_name["cat"] == pytest.approx(4 / 5, abs=0.01) and result.AP50_by_name["dog"] == 1


def test_names_are_matched_and_not_ids(tmp_path, truth):
    swapped = [{"id": 7, "name": "dog"}, {"id": 1, "name": "bus"}, {"id": 2, "name": "cat"}]
    to_new = {1: 2, 2: 7, 3: 1}
    rows = [(image, to_new[category], box, 0.9) for image, category, box in TRUTHS if category != 3]
    assert evaluate(write(tmp_path / "labels.json", rows, swapped), truth).AP == 1


def test_each_name_has_its_own_figure_in_whatever_order(tmp_path, truth):
    """COCOeval sorts ids: the first name given has the highest."""
    rows = [(image, 1, [10, 10, 50, 40], 0.9) for image in (1, 2)] + [(4, 3, [5, 5, 30, 30], 0.9)]
    labels = write(tmp_path / "labels.json", rows, novel=("bus", "dog", "cat"))
    assert evaluate(labels, truth).AP50_by_name == pytest.approx({"bus": 1, "dog": 0, "cat": 51 / 101})


def test_no_labels_at_all_is_zero(tmp_path, truth):
    result = evaluate(write(tmp_path / "labels.json", []), truth)
    assert (result.AP, result.AP50, result.pls_per_image) == (0, 0, 0)


def test_mistakes_are_named(tmp_path, truth):
    with pytest.raises(UserError, match="no category 'dogg'; did you mean 'dog'"):
        evaluate(truth, truth, ["dogg"])
    with pytest.raises(UserError, match="not made for 'bus', only for cat, dog"):
        evaluate(truth, truth, ["cat", "bus"])
    others = [category for category in CATEGORIES if category["name"] != "dog"]
    with pytest.raises(UserError, match=r"labels\.json has no category 'dog'"):
        evaluate(write(tmp_path / "labels.json", [], others), truth)
    with pytest.raises(UserError, match="no annotation with `confidence`"):
        evaluate(write(tmp_path / "labels.json", TRUTHS, novel=()), truth, ["cat"])
    with pytest.raises(UserError, match="does not say which names"):
        evaluate(write(tmp_path / "labels.json", [], novel=[["cat"], 1]), truth)
    with pytest.raises(UserError, match="does not say which names"):
        evaluate(write(tmp_path / "labels.json", [], novel=()), truth)
    with pytest.raises(UserError, match="no image to compare"):
        evaluate(write(tmp_path / "labels.json", [], images=[99]), truth)
    with pytest.raises(UserError, match="cannot read the labels"):
        evaluate(tmp_path / "nowhere.json", truth)
    with pytest.raises(UserError, match="not a COCO-format JSON"):
        evaluate(REPOSITORY / "setup.cfg", truth)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: [row.update(iscrowd=1) for row in data["annotations"]], "only crowds, of cat, dog"),
        (lambda data: data["categories"].append({"id": 9, "name": "dog"}), "two categories with name 'dog'"),
        (lambda data: data["annotations"][0].update(confidence=0.5), "is a file of pseudo labels"),
    ],
)
def test_ground_truth_that_would_answer_silently_is_refused(tmp_path, truth, change, message):
    labels = write(tmp_path / "labels.json", [(1, 1, [10, 10, 50, 40], 0.9)])
    data = json.loads(truth.read_text())
    change(data)
    truth.write_text(json.dumps(data))
    with pytest.raises(UserError, match=message):
        evaluate(labels, truth)


def test_a_byte_order_mark_is_read_over(tmp_path, truth):
    labels = write(tmp_path / "labels.json", [(1, 1, [10, 10, 50, 40], 0.9)])
    before = evaluate(labels, truth)
    truth.write_bytes(b"\xef\xbb\xbf" + truth.read_bytes())
    assert evaluate(labels, truth) == before
