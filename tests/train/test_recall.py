"""Recall of proposals is the recall that COCO's own evaluation counts."""

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from plgen_ddp.box_recall import recalled


def test_recall_is_cocos():
    generator = np.random.default_rng(0)
    limits, ious = (5, 10, 30), (0.5, 0.75)
    images, truths, results = [], [], []
    ours = np.zeros((len(limits), len(ious)), np.int64)
    for image_id in range(1, 41):
        images.append({"id": image_id})
        count = int(generator.integers(0, 7))
        corners = generator.uniform(0, 100, (count, 2))
        truth = np.concatenate([corners, corners + generator.uniform(20, 60, (count, 2))], axis=1)
        noise = generator.normal(0, 8, (30, 4)) if count else generator.uniform(0, 50, (30, 4))
        boxes = truth[generator.integers(0, count, 30)] + noise if count else noise
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        ours += recalled(boxes, truth, limits, ious)
        for box in truth:
            size = box[2:] - box[:2]
            row = {"id": len(truths) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0}
            truths.append(row | {"bbox": [*box[:2], *size], "area": float(size.prod())})
        for rank, box in enumerate(boxes):
            row = {"image_id": image_id, "category_id": 1, "score": 1 - rank / 100}
            results.append(row | {"bbox": [*box[:2], *(box[2:] - box[:2])]})
    coco = COCO()
    coco.dataset = {"images": images, "annotations": truths, "categories": [{"id": 1, "name": "object"}], "info": {}}
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
    evaluation.params.maxDets, evaluation.params.iouThrs = list(limits), np.array(ious)
    evaluation.evaluate()
    evaluation.accumulate()
    theirs = evaluation.eval["recall"][:, 0, 0, :].T
    np.testing.assert_allclose(ours / len(truths), theirs, atol=1e-9)
    assert theirs.min() > 0.05 and theirs.max() < 1, "neither nothing nor everything is found"
    assert recalled(np.empty((0, 4)), np.ones((3, 4)), limits, ious).sum() == 0
