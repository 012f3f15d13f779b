"""Stage 2 against torchvision's NMS and the plainly written recipe, given the same scores."""

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from plgen_ddp.benchmark import reference_recipe
from plgen_ddp.config import LabelConfig
from plgen_ddp.label.class_scores import best_names
from plgen_ddp.label.labels import label_image, nms
from plgen_ddp.records import Regions

PRESETS = {
    "vlplm": LabelConfig(objectness_weight=0.5, score_threshold=0.8),
    "marvelovd": LabelConfig(objectness_weight=0.0, score_threshold=0.5),
}
NAMES, DIM = 17, 32
CATEGORY_IDS = np.arange(NAMES)[::-1] * 3 + 2


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_image(seed, count):
    """Clustered boxes, so that NMS has work, and embeddings near some of the names, so that thresholds do."""
    generator = np.random.default_rng(seed)
    corners = generator.choice(generator.uniform(0, 400, (max(1, count // 4), 2)), count) + generator.normal(
        0, 6, (count, 2)
    )
    boxes = np.concatenate([corners, corners + generator.uniform(20, 120, (count, 2))], axis=1).astype(np.float32)
    texts = unit(generator.standard_normal((NAMES, DIM)) * 0.35 + generator.standard_normal(DIM))
    near = texts[generator.integers(0, NAMES, count)] + generator.normal(0, 0.05, (count, DIM))
    objectness = np.sort(generator.uniform(0.3, 1, count).astype(np.float32))[::-1].copy()
    return Regions(seed, boxes, objectness, unit(near).astype(np.float16)), texts


@pytest.mark.parametrize("iou", [0.0, 0.3, 0.6, 1.0])
def test_nms_is_torchvisions(iou):
    kept_some = dropped_some = False
    for seed in range(30):
        generator = np.random.default_rng(seed)
        image, _ = random_image(seed, 60)
        scores = np.round(generator.random(60), 2)  # with ties
        groups = generator.integers(0, 3, 60)
        ours = nms(image.boxes_xyxy, scores, groups, iou)
        boxes = torch.from_numpy(image.boxes_xyxy).double()
        theirs = batched_nms(boxes, torch.from_numpy(scores), torch.from_numpy(groups), iou).numpy()
        np.testing.assert_array_equal(np.sort(ours), np.sort(theirs))
        assert (np.diff(scores[ours]) <= 0).all()
        kept_some |= len(ours) > 3
        dropped_some |= len(ours) < 60
    assert kept_some and (dropped_some or iou == 1)


def test_nms_of_nothing_and_of_boxes_without_area():
    assert len(nms(np.empty((0, 4)), np.empty(0), np.empty(0, int), 0.5)) == 0
    points = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 2, 2]], float)
    assert nms(points, np.array([0.9, 0.8, 0.7]), np.zeros(3, int), 0.5).tolist() == [0, 1, 2]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("count", [0, 1, 100])
def test_labels_are_the_recipes(preset, count):
    made = 0
    for seed in range(1, 21):
        image, texts = random_image(seed, count)
        embeddings = torch.nn.functional.normalize(torch.from_numpy(image.embeddings).float(), dim=1)
        expected = reference_recipe.reference_labels(
            seed,
            torch.from_numpy(image.boxes_xyxy),
            torch.from_numpy(image.objectness),
            embeddings @ torch.from_numpy(texts).T,
            CATEGORY_IDS.tolist(),
            preset,
        )
        ours = list(label_image(image, texts, CATEGORY_IDS, PRESETS[preset]).rows(first_id=-1))
        made += len(ours)
        assert [(label.id, label.category_id) for label in ours] == [
            (row["id"], row["category_id"]) for row in expected
        ]
        for label, row in zip(ours, expected, strict=True):
            np.testing.assert_allclose(label.bbox, row["bbox"], atol=1e-9)
            np.testing.assert_allclose(label.confidence, row["confidence"], atol=1e-5)
    assert made > 20 or count < 2, "the comparison must have something to compare"


def test_a_score_at_the_threshold_is_not_above_it():
    image = Regions(1, np.array([[0, 0, 9, 9]], np.float32), np.array([0.5], np.float32), np.ones((1, 1), np.float16))
    for threshold, count in ((0.75, 0), (0.7499, 1)):
        options = LabelConfig(objectness_weight=0.5, score_threshold=threshold)
        assert len(label_image(image, np.ones((1, 1), np.float32), np.array([7]), options)) == count


def test_distractors_take_their_share_and_are_never_chosen():
    texts = unit(np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]))
    regions = unit(np.array([[0.9, 0.1, 0.2], [0.1, 0.2, 0.9]])).astype(np.float16)
    best, alone = best_names(regions, texts[:2], 0.1, novel=2)
    same, shared = best_names(regions, texts, 0.1, novel=2)
    assert best.tolist() == same.tolist() == [0, 1]
    assert shared[0] == pytest.approx(alone[0], abs=0.01) and alone[1] > 0.5 and shared[1] < 0.01


def test_temperature_sharpens():
    texts = unit(np.array([[1.0, 0], [0, 1]]))
    region = unit(np.array([[1.0, 0.9]])).astype(np.float16)
    (_, cold), (_, warm) = best_names(region, texts, 0.01, 2), best_names(region, texts, 1.0, 2)
    assert cold[0] > 0.99 and 0.5 < warm[0] < 0.6


def test_a_regions_name_does_not_depend_on_how_many_regions_there_are():
    """To the last bit: a store may lack the embeddings of boxes that cannot be labelled."""
    image, texts = random_image(3, 100)
    best, probability = best_names(image.embeddings, texts, 0.01, len(texts))
    for count in (1, 2, 7, 8, 64, 99):
        fewer = best_names(image.embeddings[:count], texts, 0.01, len(texts))
        np.testing.assert_array_equal(fewer[0], best[:count])
        np.testing.assert_array_equal(fewer[1], probability[:count])
