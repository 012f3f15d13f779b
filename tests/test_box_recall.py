"""Recall of the store's boxes is COCO's own, base and novel apart; and a store that does not belong is refused."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from plgen_ddp.box_recall import IOUS, LIMITS, recalled
from plgen_ddp.errors import UserError
from plgen_ddp.evaluation import evaluate
from plgen_ddp.records import Regions, Similarity
from plgen_ddp.store import Manifest, RegionStore

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "bus"}]
GROUPS = {"novel": {1, 2}, "base": {3}}
SIDE = 300


def scene(images=24):
    """Ground truth with crowds, and 120 stored boxes an image, some of them near objects."""
    random = np.random.default_rng(0)
    truths, regions = [], []
    for image_id in range(1, images + 1):
        count = int(random.integers(0, 9)) if image_id > 1 else 4
        corners = random.uniform(0, 200, (count, 2))
        objects = np.concatenate([corners, corners + random.uniform(20, 90, (count, 2))], axis=1)
        for low_x, low_y, high_x, high_y in objects.tolist():
            row = {"id": len(truths) + 1, "image_id": image_id, "category_id": int(random.integers(1, 4))}
            box = [low_x, low_y, high_x - low_x, high_y - low_y]
            truths.append(row | {"bbox": box, "area": box[2] * box[3], "iscrowd": int(random.random() < 0.1)})
        shifts = random.normal(0, 1, (120, 4)) * random.uniform(0.5, 40, (120, 1))
        near = objects[random.integers(0, count, 120)] + shifts if count else np.empty((0, 4))
        boxes = np.clip(near, 0, SIDE - 20)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 5)
        scores = np.sort(random.random(len(boxes)).astype(np.float32))[::-1]
        regions.append(Regions(image_id, boxes.astype(np.float32), scores, np.zeros((len(boxes), 2), np.float16)))
    return truths, regions


def write_store(folder, regions):
    store = RegionStore(folder / "store")
    store.open_for_scoring(Manifest(2, Similarity("softmax", 0.01), {"dataset": {"digest": folder.name}}, {}))
    store.write_part(regions[:10])
    store.write_part(regions[10:])
    return store


def write_json(path, annotations, images=24, fingerprint=None):
    made = {"label": {"novel": ["cat", "dog"], "base": ["bus"]}, "store": {"fingerprint": fingerprint}}
    sizes = [{"id": image_id, "width": SIDE, "height": SIDE} for image_id in range(1, images + 1)]
    content = {"info": {"plgen_ddp": made} if fingerprint else {}, "images": sizes, "categories": CATEGORIES}
    path.write_text(json.dumps(content | {"annotations": annotations}))
    return path


@pytest.fixture
def files(tmp_path):
    truths, regions = scene()
    store = write_store(tmp_path / "out", regions)
    truth = write_json(tmp_path / "truth.json", truths)
    labels = write_json(tmp_path / "labels.json", [], fingerprint=store.manifest().fingerprint())
    return labels, truth, tmp_path / "out"


def cocos_recall(truths, regions, categories):
    """IoU x limit, by COCOeval without categories."""
    coco = COCO()
    kept = [row for row in truths if row["category_id"] in categories]
    coco.dataset = {
        "info": {},
        "images": [{"id": image.image_id} for image in regions],
        "annotations": kept,
        "categories": CATEGORIES,
    }
    found = [
        {"image_id": image.image_id, "category_id": 1, "score": float(score), "bbox": [x, y, right - x, bottom - y]}
        for image in regions
        for (x, y, right, bottom), score in zip(image.boxes_xyxy.tolist(), image.objectness, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(found), "bbox")
        run.params.useCats, run.params.maxDets, run.params.iouThrs = 0, list(LIMITS), np.array(IOUS)
        run.evaluate()
        run.accumulate()
    return run.eval["recall"][:, 0, 0, :]


def test_recall_of_the_stores_boxes_is_cocos(files):
    labels, truth, out = files
    measured = evaluate(labels, truth, store=out).store
    truths, regions = scene()
    assert measured.absent == 0 and len(measured.rows) == len(GROUPS) * len(LIMITS) * len(IOUS)
    for group, categories in GROUPS.items():
        theirs = cocos_recall(truths, regions, categories)
        ours = {(row.iou, row.limit): row.recall for row in measured.rows if row.group == group}
        for line, iou in enumerate(IOUS):
            for column, limit in enumerate(LIMITS):
                assert ours[iou, limit] == pytest.approx(theirs[line, column], abs=1e-9)
        assert theirs.min() > 0 and len(np.unique(theirs)) > 6, "every limit and IoU says something else"


def test_the_order_is_that_of_objectness_whatever_the_files(files, tmp_path):
    labels, truth, out = files
    before = evaluate(labels, truth, store=out / "store").store
    _, regions = scene()
    shuffled = []
    for image in regions:
        order = np.random.default_rng(1).permutation(len(image.objectness))
        columns = (image.boxes_xyxy[order], image.objectness[order], image.embeddings)
        shuffled.append(Regions(image.image_id, *columns))
    write_store(tmp_path / "other" / "out", shuffled)
    assert evaluate(labels, truth, store=tmp_path / "other" / "out").store == before


def test_images_that_the_store_lacks_find_nothing(files, tmp_path):
    labels, truth, _ = files
    _, regions = scene()
    whole = evaluate(labels, truth, store=files[2]).store
    write_store(tmp_path / "less" / "out", regions[:12])
    less = evaluate(labels, truth, store=tmp_path / "less" / "out").store
    assert less.absent == 12
    assert [row.objects for row in less.rows] == [row.objects for row in whole.rows]
    for all_of_them, half in zip(whole.rows, less.rows, strict=True):
        if all_of_them.limit == max(LIMITS) and all_of_them.iou == min(IOUS):
            assert 0.2 < half.recall < 0.8 < all_of_them.recall


def test_a_group_without_objects_has_no_recall(files):
    labels, truth, out = files
    content = json.loads(truth.read_text())
    content["annotations"] = [row for row in content["annotations"] if row["category_id"] in GROUPS["novel"]]
    truth.write_text(json.dumps(content))
    result = evaluate(labels, truth, store=out)
    assert {row.recall for row in result.store.rows if row.group == "base"} == {-1.0}
    assert result.base_objects == 0


def test_a_store_that_does_not_belong_is_refused(files, tmp_path):
    labels, truth, out = files
    with pytest.raises(UserError, match=r"--store: no region store at .*it takes run\.output"):
        evaluate(labels, truth, store=tmp_path)
    _, regions = scene()
    write_store(tmp_path / "another", regions)
    with pytest.raises(UserError, match="--store: the labels were made from another store"):
        evaluate(labels, truth, store=tmp_path / "another")
    content = json.loads(truth.read_text())
    for image in content["images"]:
        del image["width"]
    truth.write_text(json.dumps(content))
    assert evaluate(labels, truth, store=out).store is not None  # a size that nobody says cannot be wrong
    for image in content["images"]:
        image["width"], image["height"] = 100, SIDE
    truth.write_text(json.dumps(content))
    labels.write_text(labels.read_text().replace(f'"width": {SIDE}', '"width": 100'))
    with pytest.raises(UserError, match=r"image \d+ is 100 x 300, and .* has boxes of it that lie outside"):
        evaluate(labels, truth, store=out)
    content["images"] = [{"id": 900}]
    content["annotations"] = [dict(content["annotations"][0], image_id=900, category_id=1, iscrowd=0)]
    truth.write_text(json.dumps(content))
    labels.write_text(labels.read_text().replace('"id": 1,', '"id": 900,'))
    with pytest.raises(UserError, match="has none of the images"):
        evaluate(labels, truth, store=out)


def test_each_object_is_found_once_and_by_the_box_that_comes_first():
    objects = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float64)
    boxes = np.array([[0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 8]], np.float64)
    assert recalled(boxes, objects, (1, 2, 3), (0.5, 0.85, 0.95)).tolist() == [[1, 1, 0], [1, 1, 1], [2, 1, 1]]
    assert recalled(np.empty((0, 4)), objects, (1,), (0.5,)).tolist() == [[0]]
