"""Records that travel between rooms: checked when they are built, and frozen."""

from dataclasses import FrozenInstanceError, replace

import msgspec
import numpy as np
import pytest

from plgen_ddp.records import EVIDENCE, Failure, PseudoLabels, Regions, Similarity

BOXES = np.array([[0, 0, 4, 4], [1, 1, 3, 3]], np.float32)
REGIONS = Regions(7, BOXES, np.array([0.9, 0.1], np.float32), np.ones((2, 8), np.float16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes_xyxy": BOXES[:1]}, r"boxes_xyxy has shape \(1, 4\), expected \(2, 4\)"),
        ({"boxes_xyxy": BOXES.reshape(-1)}, r"boxes_xyxy has shape \(8,\), expected \(2, 4\)"),
        ({"embeddings": np.ones((3, 8), np.float16)}, r"embeddings has shape \(3, 8\), expected \(2, d\)"),
        ({"embeddings": np.ones(2, np.float16)}, r"embeddings has shape \(2,\), expected \(2, d\)"),
        *[({name: np.ones(3, np.float32)}, rf"{name} has shape \(3,\), expected \(2,\)") for name in EVIDENCE],
        ({"failure": Failure("read", "no such file")}, "an image that failed has no regions"),
    ],
)
def test_regions_of_another_shape_are_refused(change, message):
    with pytest.raises(AssertionError, match=message):
        replace(REGIONS, **change)


def test_regions_have_evidence_or_none_and_are_frozen():
    assert [getattr(REGIONS, name) for name in EVIDENCE] == [None] * 4
    column = np.zeros(2, np.float32)
    assert replace(REGIONS, last_move=column).last_move is column
    with pytest.raises(FrozenInstanceError):
        REGIONS.image_id = 8


def test_a_failed_image_has_a_reason_and_no_regions():
    failed = Regions.failed(5, "decode", "empty file")
    assert (failed.image_id, failed.failure) == (5, Failure("decode", "empty file"))
    assert failed.boxes_xyxy.shape == (0, 4) and len(failed.objectness) == len(failed.embeddings) == 0


def test_a_similarity_has_a_known_rule():
    with pytest.raises(AssertionError, match="rule is 'argmax', expected softmax or sigmoid"):
        Similarity("argmax", 0.01)


def test_pseudo_labels_are_columns_of_one_length():
    ids, scores = np.arange(3), np.linspace(0, 1, 3)
    labels = PseudoLabels(ids, ids, np.arange(12.0).reshape(3, 4), scores, scores, scores, scores)
    assert len(labels) == 3
    with pytest.raises(AssertionError, match=r"scores has shape \(2,\), expected \(3,\)"):
        replace(labels, scores=scores[:2])
    with pytest.raises(AssertionError, match="boxes_xywh"):
        replace(labels, boxes_xywh=labels.boxes_xywh[:, :3])


def test_pseudo_labels_sort_by_image_and_keep_the_order_within_one():
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    images = np.array([4, 2, 4, 2])
    boxes = np.ones((4, 4)) * [[1, 1, 2, 3]]
    labels = PseudoLabels(images, np.arange(4), boxes, scores, scores, scores / 2, scores)
    rows = list(PseudoLabels.concatenate([labels]).sorted_by_image().rows(first_id=-1))
    assert [(row.id, row.image_id, row.category_id) for row in rows] == [(-1, 2, 1), (-2, 2, 3), (-3, 4, 0), (-4, 4, 2)]
    assert {row.area for row in rows} == {6.0} and rows[0].bbox == [1, 1, 2, 3]
    assert len(PseudoLabels.concatenate([])) == 0


def test_a_pseudo_label_has_its_box_score_only_when_it_is_asked_for():
    column, scores = np.arange(1), np.array([0.5])
    labels = PseudoLabels(column, column, np.ones((1, 4)), scores, scores, np.array([0.25]), scores)
    (plain,), (whole,) = labels.rows(-1), labels.rows(-1, box_score=True)
    assert "box_score" not in msgspec.to_builtins(plain)
    assert msgspec.to_builtins(whole) == {**msgspec.to_builtins(plain), "box_score": 0.25}
