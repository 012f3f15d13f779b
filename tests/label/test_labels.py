"""Stage 2 against torchvision's NMS and the plainly written recipe, given the same scores."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms

from plgen_ddp.benchmark import reference_recipe
from plgen_ddp.config import LabelConfig
from plgen_ddp.label.class_scores import best_names, cosines, probabilities
from plgen_ddp.label.labels import kept_boxes, label_image, nms
from plgen_ddp.label.rule import NameTable, Rule
from plgen_ddp.records import Regions, Similarity

PRESETS = {
    "vlplm": LabelConfig(objectness_weight=0.5, score_threshold=0.8),
    "marvelovd": LabelConfig(objectness_weight=0.0, score_threshold=0.5),
}
CLIP = Similarity("softmax", 0.01)
NAMES, DIM = 17, 32
CATEGORY_IDS = np.arange(NAMES)[::-1] * 3 + 2


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def labels_of(image, texts, category_ids, similarity, options):
    """The pseudo labels of one image as labelling makes them, all texts being novel names."""
    rule = Rule(options, NameTable([()] * len(texts), len(texts), 0, 0, {}), texts, similarity)
    scored = rule.score(image, rule.cosines(image), (1000, 1000))
    kept = kept_boxes(image.boxes_xyxy, scored, np.empty((0, 4)), options, options.score_threshold)
    return label_image(image, scored, kept, category_ids)


def named(embeddings, texts, similarity, novel):
    return best_names(probabilities(cosines(embeddings, texts), similarity), novel)


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
        ours = list(labels_of(image, texts, CATEGORY_IDS, CLIP, PRESETS[preset]).rows(first_id=-1))
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
        assert len(labels_of(image, np.ones((1, 1), np.float32), np.array([7]), CLIP, options)) == count


def test_distractors_take_their_share_and_are_never_chosen():
    texts = unit(np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]))
    regions = unit(np.array([[0.9, 0.1, 0.2], [0.1, 0.2, 0.9]])).astype(np.float16)
    best, alone = named(regions, texts[:2], Similarity("softmax", 0.1), 2)
    same, shared = named(regions, texts, Similarity("softmax", 0.1), 2)
    assert best.tolist() == same.tolist() == [0, 1]
    assert shared[0] == pytest.approx(alone[0], abs=0.01) and alone[1] > 0.5 and shared[1] < 0.01


def test_temperature_sharpens():
    texts = unit(np.array([[1.0, 0], [0, 1]]))
    region = unit(np.array([[1.0, 0.9]])).astype(np.float16)
    (_, cold), (_, warm) = (named(region, texts, Similarity("softmax", t), 2) for t in (0.01, 1.0))
    assert cold[0] > 0.99 and 0.5 < warm[0] < 0.6


def test_a_temperature_in_the_config_takes_the_place_of_the_stores():
    image, texts = random_image(5, 40)
    options = LabelConfig(objectness_weight=0.0, score_threshold=0.0)
    own = labels_of(image, texts, CATEGORY_IDS, Similarity("softmax", 0.05), options)
    given_one = LabelConfig(objectness_weight=0.0, score_threshold=0.0, temperature=0.05)
    for other in (0.01, 1.0):
        same = labels_of(image, texts, CATEGORY_IDS, Similarity("softmax", other), given_one)
        np.testing.assert_array_equal(same.clip_scores, own.clip_scores)
        assert not np.array_equal(
            labels_of(image, texts, CATEGORY_IDS, Similarity("softmax", other), options).clip_scores, own.clip_scores
        )


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    regions=st.integers(0, 5),
    names=st.integers(1, 6),
    distractors=st.integers(0, 3),
    temperature=st.sampled_from([0.01, 0.1, 1.0]),
    bias=st.sampled_from([0.0, -1.0, -16.5]),
)
def test_probabilities_are_the_plain_formulas(seed, regions, names, distractors, temperature, bias):
    """A softmax is over all names, a sigmoid (arXiv 2303.15343) of each name alone."""
    generator = np.random.default_rng(seed)
    texts = unit(generator.standard_normal((names + distractors, 5)))
    embeddings = unit(generator.standard_normal((regions, 5))).astype(np.float16)
    rows = embeddings.astype(np.float64)
    cosine = (rows / np.linalg.norm(rows, axis=1, keepdims=True)) @ texts.T.astype(np.float64)
    softmax = torch.softmax(torch.from_numpy(cosine / temperature), dim=1).numpy()
    sigmoid = torch.sigmoid(torch.from_numpy(cosine / temperature + bias)).numpy()
    rules = [(Similarity("softmax", temperature), softmax), (Similarity("sigmoid", temperature, bias), sigmoid)]
    for similarity, expected in rules:
        best, probability = named(embeddings, texts, similarity, names)
        assert best.shape == probability.shape == (regions,) and (best < names).all()
        # cosines are rounded to float32: 6e-8, times 1 / temperature
        chosen = expected[np.arange(regions), best]
        np.testing.assert_allclose(probability, chosen, rtol=1e-7 / temperature)
        np.testing.assert_allclose(chosen, expected[:, :names].max(axis=1, initial=0), rtol=1e-6 / temperature)


def test_a_sigmoid_is_of_each_name_alone():
    """No distractor, and no other name, changes it."""
    image, texts = random_image(2, 30)
    siglip = Similarity("sigmoid", 0.1, -5.0)
    best, alone = named(image.embeddings, texts[:5], siglip, 5)
    same, beside = named(image.embeddings, texts, siglip, 5)
    np.testing.assert_array_equal(same, best)
    np.testing.assert_array_equal(beside, alone)


@pytest.mark.parametrize("similarity", [CLIP, Similarity("sigmoid", 0.1, -5.0)], ids=["softmax", "sigmoid"])
def test_a_regions_name_does_not_depend_on_how_many_regions_there_are(similarity):
    """To the last bit: a store may lack the embeddings of boxes that cannot be labelled."""
    image, texts = random_image(3, 100)
    best, probability = named(image.embeddings, texts, similarity, len(texts))
    for count in (1, 2, 7, 8, 64, 99):
        fewer = named(image.embeddings[:count], texts, similarity, len(texts))
        np.testing.assert_array_equal(fewer[0], best[:count])
        np.testing.assert_array_equal(fewer[1], probability[:count])
