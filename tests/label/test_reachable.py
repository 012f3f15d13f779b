"""Which boxes are worth float64, and many images at once: the labels are those that the images give one by one."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plgen_ddp.config import LabelConfig
from plgen_ddp.label.labels import kept_boxes, kept_boxes_of_images
from plgen_ddp.label.reachable import boxes_to_score, to_float32
from plgen_ddp.label.rule import NameTable, Rule, ScoredBoxes
from plgen_ddp.label.stacked import NO_EXTENT, StackedBoxes
from plgen_ddp.records import EVIDENCE, Regions, Similarity, concatenated

NOVEL, BASE, OTHERS = 3, 2, 1


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def texts(generator, dim):
    return unit(generator.standard_normal(dim) + 0.5 * generator.standard_normal((NOVEL + BASE + OTHERS, dim)))


def image(image_id, boxes, words, generator, evidence=()):
    corners = generator.uniform(0, 60, (boxes, 2))
    near = words[generator.integers(0, len(words), boxes)] + 0.3 * generator.standard_normal((boxes, words.shape[1]))
    return Regions(
        image_id,
        np.concatenate([corners, corners + generator.uniform(1, 60, (boxes, 2))], axis=1).astype(np.float32),
        np.sort(generator.random(boxes, np.float32))[::-1].copy(),
        unit(near).astype(np.float16),
        **{name: generator.random(boxes, np.float32) for name in evidence},
    )


def rule_of(options, words, similarity):
    return Rule(options, NameTable([()] * len(words), NOVEL, BASE, OTHERS, {}), words, similarity)


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.sampled_from([1, 8, 512]),
    class_score=st.sampled_from(["novel", "all"]),
    box_score=st.sampled_from(["objectness", "foreground", "none"]),
    fusion=st.sampled_from(["mean", "geometric", "logits", "class_only"]),
    weight=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    similarity=st.sampled_from(
        [
            *(Similarity("softmax", temperature) for temperature in (1e-6, 1e-3, 0.01, 1.0)),
            Similarity("sigmoid", 0.01, -10.0),
            Similarity("sigmoid", 0.1, -5.0),
        ]
    ),
)
def test_no_box_above_the_threshold_is_left_out(seed, dim, class_score, box_score, fusion, weight, similarity):
    """Also where its score is the next number above the threshold."""
    generator = np.random.default_rng(seed)
    words = texts(generator, dim)
    images = [image(number, count, words, generator, EVIDENCE) for number, count in enumerate((7, 0, 300))]
    options = LabelConfig(class_score=class_score, box_score=box_score, fusion=fusion, objectness_weight=weight)
    rule = rule_of(options, words, similarity)
    alone = [rule.score(one, rule.cosines(one), NO_EXTENT) for one in images]
    exact = concatenated(alone)
    for threshold in np.nextafter(generator.choice(exact.score, 3), -1).tolist():
        boxes = boxes_to_score([(rule, threshold)], images)
        scored = rule.score(boxes.regions, rule.cosines(boxes.regions), NO_EXTENT)
        above, expected = scored.score > threshold, exact.score > threshold
        assert expected.any()
        for name in ScoredBoxes.__slots__:
            np.testing.assert_array_equal(getattr(scored, name)[above], getattr(exact, name)[expected])
        place = np.repeat([0, 1, 2], [7, 0, 300])
        np.testing.assert_array_equal(boxes.place[above], place[expected])


@pytest.mark.parametrize(("weight", "threshold"), [(0.5, 0.8), (0.0, 0.5)], ids=["VL-PLM", "MarvelOVD"])
def test_most_boxes_that_become_no_label_are_left_out(weight, threshold):
    generator = np.random.default_rng(0)
    words = texts(generator, 64)
    images = [image(number, 100, words, generator) for number in range(3)]
    rule = rule_of(LabelConfig(objectness_weight=weight), words, Similarity("softmax", 0.1))
    exact = np.concatenate([rule.score(one, rule.cosines(one), NO_EXTENT).score for one in images])
    assert 0 < (exact > threshold).sum() <= len(boxes_to_score([(rule, threshold)], images).place) < 0.5 * len(exact)


def test_a_box_alone_scores_as_among_others():
    """To the last bit, also with more names than NumPy adds in their order."""
    generator = np.random.default_rng(3)
    words = unit(generator.standard_normal((40, 16)))
    rule = Rule(LabelConfig(), NameTable([()] * 40, 40, 0, 0, {}), words, Similarity("softmax", 0.07))
    every = StackedBoxes.of([boxes := image(1, 100, words, generator)]).rows(np.ones(100, bool), [boxes])
    among = rule.score(every.regions, rule.cosines(every.regions), NO_EXTENT)
    for place in range(100):
        one = every.those(np.arange(100) == place).regions
        assert rule.score(one, rule.cosines(one), NO_EXTENT).score == among.score[place]


def test_a_low_temperature_of_a_sigmoid_does_not_warn():
    generator = np.random.default_rng(4)
    words = texts(generator, 16)
    rule = rule_of(LabelConfig(), words, Similarity("sigmoid", 1e-6, -16.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        boxes = boxes_to_score([(rule, 0.4)], [image(1, 50, words, generator)])
        rule.score(boxes.regions, rule.cosines(boxes.regions), NO_EXTENT)


def test_a_box_threshold_leaves_out_what_no_rule_could_keep():
    generator = np.random.default_rng(1)
    words = texts(generator, 8)
    images = [image(1, 50, words, generator)]
    rule = rule_of(LabelConfig(objectness_weight=0.0, box_threshold=0.7), words, Similarity("softmax", 0.1))
    kept = boxes_to_score([(rule, 0.0)], images).regions.objectness
    np.testing.assert_array_equal(kept, images[0].objectness[images[0].objectness >= 0.7])


def test_every_finite_float16_is_converted_exactly():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(-1, 8)
    converted = to_float32(finite)
    assert converted.dtype == np.float32
    np.testing.assert_array_equal(converted.view(np.uint32), finite.astype(np.float32).view(np.uint32))


def test_stacked_boxes_are_the_images_in_their_order():
    generator = np.random.default_rng(2)
    words = texts(generator, 8)
    images = [image(number, count, words, generator, ("agreement",)) for number, count in ((5, 4), (7, 0), (6, 3))]
    which = np.array([True, False, True, True, False, True, False])
    boxes = StackedBoxes.of(images).rows(which, images)
    assert boxes.place.tolist() == [0, 0, 0, 2]
    for name in ("boxes_xyxy", "objectness", "embeddings", "agreement"):
        expected = np.concatenate([getattr(one, name) for one in images])[which]
        np.testing.assert_array_equal(getattr(boxes.regions, name), expected)
    assert boxes.regions.foreground is None
    bare = replace(images[1], agreement=None)
    assert StackedBoxes.of([bare]).regions.agreement is None, "as of the image itself"
    assert StackedBoxes.of(images[1:2]).regions.agreement is not None


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    suppress=st.sets(st.sampled_from(["inside", "base_iou", "base_inside"])),
    nms_iou=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
    by_name=st.booleans(),
)
def test_many_images_keep_what_each_of_them_keeps(seed, suppress, nms_iou, by_name):
    generator = np.random.default_rng(seed)
    counts, base_counts = generator.integers(0, 12, 4), generator.integers(0, 4, 4)
    boxes, base = (
        np.concatenate([low := generator.uniform(0, 30, (n.sum(), 2)), low + generator.uniform(1, 30, (n.sum(), 2))], 1)
        for n in (counts, base_counts)
    )
    scores = generator.integers(0, 5, (3, len(boxes))) / 5  # with ties
    scored = ScoredBoxes(generator.integers(0, NOVEL, len(boxes)), *scores)
    options = LabelConfig(suppress=tuple(suppress), nms_iou=nms_iou, base_iou=0.2, box_threshold=0.2)
    threshold = generator.random(NOVEL) / 2 if by_name else 0.3
    expected = []
    for end, count, base_end, base_count in zip(
        counts.cumsum(), counts, base_counts.cumsum(), base_counts, strict=True
    ):
        own = slice(end - count, end)
        of_image = ScoredBoxes(*(getattr(scored, name)[own] for name in ScoredBoxes.__slots__))
        kept = kept_boxes(boxes[own], of_image, base[base_end - base_count : base_end], options, threshold)
        expected += (end - count + kept).tolist()
    place, base_place = np.repeat(np.arange(4), counts), np.repeat(np.arange(4), base_counts)
    found = kept_boxes_of_images(boxes, place, scored, base, base_place, options, threshold)
    assert found.tolist() == expected
