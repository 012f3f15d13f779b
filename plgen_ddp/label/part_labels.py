"""The labels of many images at once: those of a part of the store.

Where a box's score depends on that box alone, as in the recipes, the boxes of all images are scored together, and only
those that can reach the threshold. The labels are those that the images give one by one.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from plgen_ddp.label.labels import kept_boxes, label_boxes, label_image, nms
from plgen_ddp.label.reachable import can_be_named, can_exceed
from plgen_ddp.label.rule import Rule, ScoredBoxes
from plgen_ddp.records import EVIDENCE, PseudoLabels, Regions

BaseBoxesOf = Callable[[int], np.ndarray]
"""The base annotations of an image, by its id: boxes float64 (m, 4), xyxy."""

# Of boxes of many images; a rule that scores boxes alone does not look at it.
_NO_EXTENT = (0, 0)
_NO_IMAGE = -1


def label_images(
    rule: Rule,
    images: Sequence[tuple[Regions, tuple[int, int]]],
    base_boxes_of: BaseBoxesOf,
    threshold: float,
    category_ids: np.ndarray,
) -> PseudoLabels:
    """The pseudo labels of these images, those of an image by falling score.

    Args:
        images: each with its (width, height), pixels.
        threshold: a box is kept where its score is above it.
        category_ids: int64, of the novel names.
    """
    if rule.scores_boxes_alone:
        return _label_boxes(rule, [image for image, _ in images], base_boxes_of, threshold, category_ids)
    labels = []
    for image, extent in images:
        scored = rule.score(image, rule.cosines(image), extent)
        kept = kept_boxes(image.boxes_xyxy, scored, base_boxes_of(image.image_id), rule.options, threshold)
        labels.append(label_image(image, scored, kept, category_ids))
    return PseudoLabels.concatenate(labels)


def _label_boxes(
    rule: Rule, images: Sequence[Regions], base_boxes_of: BaseBoxesOf, threshold: float, category_ids: np.ndarray
) -> PseudoLabels:
    images = [image for image in images if len(image.objectness)]
    if not images:
        return PseudoLabels.concatenate([])
    boxes, place = _boxes_to_score(rule, images, threshold)
    scored = rule.score(boxes, rule.cosines(boxes), _NO_EXTENT)
    if rule.options.suppress:
        kept = _kept_by_image(rule, images, boxes, scored, place, base_boxes_of, threshold)
    else:
        above = np.flatnonzero((scored.score > threshold) & (scored.box_score >= rule.options.box_threshold))
        groups = (place * len(category_ids) + scored.name)[above]  # no two images share one
        kept = above[nms(boxes.boxes_xyxy[above], scored.score[above], groups, rule.options.nms_iou)]
    image_ids = np.array([image.image_id for image in images], np.int64)
    return label_boxes(image_ids[place[kept]], boxes, scored, kept, category_ids)


def _boxes_to_score(rule: Rule, images: Sequence[Regions], threshold: float) -> tuple[Regions, np.ndarray]:
    """The boxes of all images that can become labels, as if of one image, and the place int64 (n,) of each one's."""
    counts = [len(image.objectness) for image in images]
    place = np.repeat(np.arange(len(images)), counts)
    evidence = {}
    for name in EVIDENCE:
        columns = [getattr(image, name) for image in images]
        evidence[name] = None if any(column is None for column in columns) else np.concatenate(columns)
    boxes = Regions(
        _NO_IMAGE,
        np.concatenate([image.boxes_xyxy for image in images]),
        np.concatenate([image.objectness for image in images]),
        np.empty((len(place), 0), np.float16),
        **evidence,
    )
    box_score = rule.box_score(boxes, _NO_EXTENT)
    likely = can_exceed(rule, box_score, threshold)
    ends = np.cumsum(counts)
    embeddings = np.concatenate(
        [image.embeddings[likely[end - count : end]] for image, count, end in zip(images, counts, ends, strict=True)]
    )
    named = can_be_named(rule, embeddings, box_score[likely], threshold)
    rows = np.flatnonzero(likely)[named]
    return _rows(boxes, rows, embeddings[named]), place[rows]


def _rows(boxes: Regions, rows: np.ndarray, embeddings: np.ndarray) -> Regions:
    """Some of the boxes, with these embeddings."""
    columns = {
        name: None if (column := getattr(boxes, name)) is None else column[rows]
        for name in ("boxes_xyxy", "objectness", *EVIDENCE)
    }
    return replace(boxes, embeddings=embeddings, **columns)


def _kept_by_image(
    rule: Rule,
    images: Sequence[Regions],
    boxes: Regions,
    scored: ScoredBoxes,
    place: np.ndarray,
    base_boxes_of: BaseBoxesOf,
    threshold: float,
) -> np.ndarray:
    """`kept_boxes` of each image: indices int64 into `boxes`."""
    kept = [np.empty(0, np.int64)]
    ends = np.cumsum(np.bincount(place, minlength=len(images)))
    for image, start, end in zip(images, np.append(0, ends), ends, strict=False):
        own = slice(start, end)
        of_image = ScoredBoxes(*(getattr(scored, name)[own] for name in ScoredBoxes.__slots__))
        base_boxes = base_boxes_of(image.image_id)
        kept.append(start + kept_boxes(boxes.boxes_xyxy[own], of_image, base_boxes, rule.options, threshold))
    return np.concatenate(kept)
