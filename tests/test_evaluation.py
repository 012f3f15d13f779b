"""Evaluation: perfect labels are 1, known mistakes cost what COCO says, names decide and not ids."""

import json

import numpy as np
import pytest
from commands import REPOSITORY, call
from omegaconf import OmegaConf
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from plgen_ddp.errors import UserError
from plgen_ddp.evaluation import evaluate
from plgen_ddp.summaries import print_evaluation

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


def test_what_wrong_labels_are(tmp_path, truth):
    """One label of each kind, and a right one for three of six objects."""
    rows = [
        *[(image, 1, [10, 10, 50, 40], 0.9) for image in (1, 2, 3)],
        (1, 1, [10, 10, 50, 38], 0.8),  # a duplicate
        (2, 1, [100, 20, 60, 60], 0.8),  # a dog
        (4, 1, [5, 5, 30, 30], 0.8),  # a bus, which is a base object
        (4, 1, [20, 20, 12, 10], 0.8),  # a part of a cat
        (5, 1, [200, 200, 30, 30], 0.8),
    ]
    result = evaluate(write(tmp_path / "labels.json", rows), truth)
    quality = result.quality
    assert (quality.labels, quality.objects, quality.images, result.base_objects) == (8, 6, 5, 1)
    assert (quality.precision, quality.recall) == (3 / 8, 1 / 2)
    assert quality.f1 == pytest.approx(2 * 3 / (8 + 6))
    kinds = (quality.duplicate, quality.wrong_name, quality.base_object, quality.part, quality.background)
    assert kinds == (1 / 8,) * 5


def test_only_names_that_the_labels_take_for_base_are_base_objects(tmp_path, truth):
    on_bus, on_dog = (4, 1, [5, 5, 30, 30], 0.8), (1, 1, [100, 20, 60, 60], 0.8)
    labels = write(tmp_path / "labels.json", [on_bus, on_dog])
    result = evaluate(labels, truth, ["cat"])  # the labels were made for dogs too: they are no base objects
    assert (result.quality.base_object, result.quality.background) == (1 / 2, 1 / 2)
    content = json.loads(labels.read_text())
    content["info"]["plgen_ddp"]["label"]["base"] = ["dog"]  # and nothing else
    labels.write_text(json.dumps(content))
    assert evaluate(labels, truth, ["cat"]).quality.base_object == 1 / 2
    content["info"]["plgen_ddp"]["label"]["base"] = []
    labels.write_text(json.dumps(content))
    result = evaluate(labels, truth, ["cat"])
    assert (result.base_objects, result.quality.base_object, result.quality.background) == (0, 0, 1)
    del content["info"]  # nobody says what is base: all but the name that is evaluated
    labels.write_text(json.dumps(content))
    assert evaluate(labels, truth, ["cat"]).base_objects == 3


def random_files(tmp_path, seed):
    """Labels near objects of two names, with crowds, ties and duplicates."""
    random = np.random.default_rng(seed)
    truths, rows = [], []
    for image in range(1, 31):
        for _ in range(int(random.integers(0, 5))):
            box = [*random.integers(0, 60, 2).tolist(), *random.integers(10, 60, 2).tolist()]
            truths.append((image, int(random.integers(1, 3)), box))
            for _ in range(int(random.integers(0, 3))):
                near = [side + int(random.integers(-5, 6)) for side in box]
                rows.append((image, int(random.integers(1, 3)), near, round(float(random.random()), 1)))
        rows.append((image, 1, [int(random.integers(0, 90)), 0, 9, 80], 0.5))
    files = (
        write(tmp_path / "labels.json", rows, images=range(1, 31)),
        write(tmp_path / "truth.json", truths, images=range(1, 31), novel=()),
    )
    content = json.loads(files[1].read_text())
    for row in content["annotations"]:
        row["iscrowd"] = int(random.random() < 0.2)
    files[1].write_text(json.dumps(content))
    return files


@pytest.mark.parametrize("seed", range(4))
def test_precision_and_recall_are_those_at_the_end_of_cocos_curve(tmp_path, seed):
    labels, truth = random_files(tmp_path, seed)
    result = evaluate(labels, truth)
    quality = result.quality
    coco = COCO(str(truth))
    rows = [row for row in json.loads(labels.read_text())["annotations"] if row["image_id"] in coco.imgs]
    run = COCOeval(coco, coco.loadRes([row | {"score": row["confidence"]} for row in rows]), "bbox")
    run.params.catIds = [1, 2]
    run.evaluate()
    run.accumulate()
    run.summarize()
    assert tuple(run.stats[[0, 1, 2, 8]]) == (result.AP, result.AP50, result.AP75, result.AR100)
    right = wrong = objects = 0
    for image in run.evalImgs:
        if image is not None and image["aRng"] == run.params.areaRng[0]:
            matched, ignored = image["dtMatches"][0] > 0, image["dtIgnore"][0]
            right += (matched & ~ignored).sum()
            wrong += (~matched & ~ignored).sum()
            objects += (np.array(image["gtIgnore"]) == 0).sum()
    assert 0 < right < objects and wrong > 0
    assert (quality.labels, quality.objects) == (right + wrong, objects)
    assert quality.precision == pytest.approx(right / (right + wrong)) and quality.recall == pytest.approx(
        right / objects
    )


@pytest.mark.parametrize(
    ("real", "made", "message"),
    [
        ({"width": 640, "height": 480}, {"width": 480, "height": 640}, "image 2 is 640 x 480 in .* and 480 x 640 in"),
        ({"file_name": "a/7.jpg"}, {"coco_url": "http://x/val2017/8.jpg"}, r"image 2 is 7\.jpg in .* and 8\.jpg in"),
    ],
)
def test_ground_truth_of_other_images_is_refused(tmp_path, truth, real, made, message):
    labels = write(tmp_path / "labels.json", [])
    for path, keys in ((truth, real), (labels, made)):
        content = json.loads(path.read_text())
        content["images"][1].update(keys)
        path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        evaluate(labels, truth)


def test_the_same_image_may_have_a_name_of_another_release(tmp_path, truth):
    labels = write(tmp_path / "labels.json", [])
    for path, name in ((truth, "COCO_val2014_000000000002.jpg"), (labels, "val2017/000000000002.jpg")):
        content = json.loads(path.read_text())
        content["images"][1].update(file_name=name, width=4)
        path.write_text(json.dumps(content))
    assert evaluate(labels, truth).images == 5


def test_published_figures_are_shown_for_their_data_alone(tmp_path, capsys):
    path = REPOSITORY / "configs" / "vocabularies" / "coco_ovd.yaml"
    names = list(OmegaConf.load(path).novel)
    categories = [{"id": number, "name": name} for number, name in enumerate([*names, "person"], start=1)]
    rows = [(1, 1, [10, 10, 50, 40])]
    labels = write(tmp_path / "labels.json", [(*rows[0], 0.9)], categories, images=[1], novel=names)
    truth = write(tmp_path / "truth.json", rows, categories, images=[1], novel=())
    assert evaluate(labels, truth).published is None
    content = json.loads(truth.read_text())
    content["images"][0]["coco_url"] = "http://images.cocodataset.org/val2017/000000000001.jpg"
    truth.write_text(json.dumps(content))
    assert evaluate(labels, truth, names[1:] + names[:1]).published is not None
    assert evaluate(labels, truth, names[:3]).published is None, "other names"
    print_evaluation(evaluate(labels, truth))
    ours, theirs = capsys.readouterr().out.splitlines()[:2]
    assert ours.startswith("AP 1.000  AP50 1.000") and theirs.startswith("AP 0.156  AP50 0.255  AP75 0.160")
    assert "10033 pseudo labels on 2064 images, 4.86 an image" in theirs and "VL-PLM" in theirs


def test_the_command_prints_and_writes_every_figure(tmp_path, truth, capsys):
    labels = write(tmp_path / "labels.json", [(1, 1, [10, 10, 50, 40], 0.9), (5, 1, [90, 90, 9, 9], 0.9)])
    content = json.loads(labels.read_text())
    content["info"]["plgen_ddp"]["label"]["score_threshold"] = 0.85
    labels.write_text(json.dumps(content))
    figures = tmp_path / "figures.json"
    call("evaluate", "--labels", labels, "--ground-truth", truth, "--json", figures)
    metrics, by_name, worth, wrong = capsys.readouterr().out.splitlines()
    assert " small/medium/large -/0.129/- " in metrics, "all objects are of one size"
    assert metrics.startswith("AP 0.") and by_name == "AP50 by name: cat 0.257, dog 0.000"
    assert worth == "precision 0.500  recall 0.167  F1 0.250  (all labels at their threshold 0.85, IoU 0.5, 6 objects)"
    assert wrong.startswith("wrong labels: no object 50.0%, a base object 0.0%, a part 0.0%")
    written = json.loads(figures.read_text())
    assert written["AP50_by_name"]["dog"] == 0 and written["score_threshold"] == 0.85
    assert written["quality"]["precision"] == 0.5 and written["store"] is None and written["published"] is None
