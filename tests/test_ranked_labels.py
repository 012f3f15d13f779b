"""Labels cut at thresholds: the figures are pycocotools' and those of the one-to-one match, at every cut."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from plgen_ddp.label_quality import ImageBoxes, label_quality
from plgen_ddp.ranked_labels import Objects, RankedLabels, judge
from plgen_ddp.records import PseudoLabels, concatenated

NAMES, IMAGES = 3, 6
SEEDS = st.integers(0, 2**32 - 1)


def scene(seed, labels, objects, crowds, levels=20):
    """Objects, and labels that lie near some of them, with scores that repeat."""
    random = np.random.default_rng(seed)
    boxes = np.concatenate([random.uniform(0, 60, (objects, 2)), random.uniform(5, 40, (objects, 2))], axis=1)
    truth = (
        random.integers(0, IMAGES, objects),
        random.integers(0, NAMES, objects),
        boxes,
        random.random(objects) < crowds,
    )
    near = random.integers(0, max(objects, 1), labels) if objects else np.zeros(labels, int)
    own = boxes[near] + random.normal(0, 3, (labels, 4)) if objects else random.uniform(5, 40, (labels, 4))
    own[:, 2:] = np.maximum(own[:, 2:], 1)
    image = np.where(random.random(labels) < 0.9, truth[0][near] if objects else 0, random.integers(0, IMAGES, labels))
    name = np.where(random.random(labels) < 0.8, truth[1][near] if objects else 0, random.integers(0, NAMES, labels))
    scores = random.integers(1, levels + 1, labels) / levels
    order = np.lexsort((-scores, image))
    return truth, tuple(column[order] for column in (image, name, own, scores))


def ranked(truth, labels, images=IMAGES):
    image, name, boxes, scores = labels
    objects = Objects.of(NAMES, np.arange(images), *truth)
    columns = PseudoLabels(image, name, boxes, scores, scores, scores, scores)
    # In parts, as labelling hands them over.
    half = np.searchsorted(image, IMAGES // 2)
    parts = [columns.chosen(slice(None, half)), columns.chosen(slice(half, None))]
    judged = concatenated([judge(part, part.category_ids, objects) for part in parts])
    return RankedLabels(judged, objects, NAMES)


def coco_figures(truth, labels, thresholds):
    """(AP, AP50) of all names, and of each, by pycocotools."""

    def rows(image, name, boxes, more):
        return [
            {"id": place + 1, "image_id": int(image[place]), "category_id": int(name[place]) + 1}
            | {"bbox": boxes[place].tolist(), "area": float(boxes[place, 2] * boxes[place, 3])}
            | more(place)
            for place in range(len(image))
        ]

    image, name, boxes, crowd = truth
    target, found = COCO(), COCO()
    target.dataset = {
        "images": [{"id": number} for number in range(IMAGES)],
        "categories": [{"id": number + 1} for number in range(NAMES)],
        "annotations": rows(image, name, boxes, lambda place: {"iscrowd": int(crowd[place])}),
    }
    image, name, boxes, scores = labels
    above = scores > thresholds[name]
    kept = rows(
        image[above], name[above], boxes[above], lambda place: {"score": float(scores[above][place]), "iscrowd": 0}
    )
    found.dataset = target.dataset | {"annotations": kept}
    with contextlib.redirect_stdout(io.StringIO()):
        target.createIndex()
        found.createIndex()
        run = COCOeval(target, found, "bbox")
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, -1]

    def mean(values):
        return float(values[values > -1].mean()) if (values > -1).any() else -1.0

    each = [(mean(precision[:, :, name]), mean(precision[0, :, name])) for name in range(NAMES)]
    return (mean(precision), mean(precision[0])), each


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(0, 60), st.integers(0, 25), st.sampled_from([0.0, 0.3]))
def test_average_precision_is_cocos_above_every_threshold(seed, labels, objects, crowds):
    truth, made = scene(seed, labels, objects, crowds)
    cut = ranked(truth, made)
    random = np.random.default_rng(seed)
    for thresholds in (np.zeros(NAMES), np.full(NAMES, 0.5), random.random(NAMES)):
        figures, by_name = cut.figures(thresholds)
        expected, each = coco_figures(truth, made, thresholds)
        assert pytest.approx(expected, abs=1e-12) == (figures.AP, figures.AP50)
        for own, plain in zip(by_name, each, strict=True):
            assert pytest.approx(plain, abs=1e-12) == (own.AP, own.AP50)


def test_more_than_a_hundred_labels_of_a_name_in_an_image_are_cocos_business_too():
    truth, (image, name, boxes, scores) = scene(1, 700, 20, 0.0)
    made = np.zeros_like(image), np.zeros_like(name), boxes, np.sort(scores)[::-1]
    truth = (np.zeros_like(truth[0]), np.zeros_like(truth[1]), *truth[2:])
    expected, _ = coco_figures(truth, made, np.zeros(NAMES))
    figures, _ = ranked(truth, made).figures(np.zeros(NAMES))
    assert pytest.approx(expected, abs=1e-12) == (figures.AP, figures.AP50)
    assert figures.recall == 1 and figures.AP50 < 1


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(0, 60), st.integers(0, 25))
def test_right_labels_are_those_of_the_one_to_one_match(seed, labels, objects):
    truth, made = scene(seed, labels, objects, 0.0)
    cut = ranked(truth, made)

    def of_image(rows, number, scores=None, thresholds=None):
        image, name, boxes = rows[:3]
        here = image == number
        if scores is not None:
            here &= scores > thresholds[name]
        corners = np.concatenate([boxes[here, :2], boxes[here, :2] + boxes[here, 2:]], axis=1)
        return ImageBoxes(corners, name[here], np.ones(here.sum()) if scores is None else scores[here])

    nothing = ImageBoxes(np.empty((0, 4)), np.empty(0, int), np.empty(0))
    for level in (0.0, 0.3, 0.8):
        thresholds = np.clip(np.array([level, level, level - 0.2]), 0, 1)
        images = [
            (of_image(made, number, made[3], thresholds), of_image(truth, number), nothing) for number in range(IMAGES)
        ]
        plain = label_quality(images)
        figures, by_name = cut.figures(thresholds)
        assert int(cut.counts(thresholds).sum()) == plain.labels
        assert (figures.precision, figures.recall, figures.f1) == pytest.approx(
            (plain.precision, plain.recall, plain.f1)
        )
        for number, own in enumerate(by_name):
            only = [
                tuple(ImageBoxes(*(column[boxes.names == number] for column in columns(boxes))) for boxes in image)
                for image in images
            ]
            assert (own.precision, own.recall) == pytest.approx(
                (label_quality(only).precision, label_quality(only).recall)
            )


def columns(boxes):
    return boxes.boxes_xyxy, boxes.names, boxes.scores


def test_labels_on_images_without_ground_truth_count_and_are_not_judged():
    truth, made = scene(3, 60, 20, 0.0)
    few = truth[0] < 3
    few = tuple(column[few] for column in truth)
    cut = ranked(few, made, images=3)
    here = made[0] < 3
    alone = ranked(few, tuple(column[here] for column in made), images=3)
    assert cut.counts(np.zeros(NAMES)).sum() == 60 > alone.counts(np.zeros(NAMES)).sum()
    assert cut.figures(np.zeros(NAMES)) == alone.figures(np.zeros(NAMES))
