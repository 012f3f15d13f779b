"""What labels are right, and what the wrong ones are: one to one with ground truth, at the labels' own threshold.

AP ranks labels and never punishes those at its end: it always votes for the lowest threshold. A training takes every
label of the file, so what counts for it is the share of right ones, and how many objects they find.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plgen_ddp.boxes import covered, ious, match_one_to_one

RIGHT_IOU = 0.5
PART = 0.8
"""A wrong box is a part of an object from this share of its area inside it on."""
KINDS = ("right", "duplicate", "wrong_name", "base_object", "part", "background")
"""What a label can be; each label is of the first kind that fits. `LabelQuality` says what they mean."""


@dataclass(frozen=True, slots=True)
class LabelQuality:
    """Labels of novel names against ground truth of novel and base names.

    Attributes:
        labels, objects, images: how many there are; objects are of novel names.
        precision, recall, f1: at IoU 0.5, each object found once, in [0, 1].
        on_nothing: share of labels with an IoU under 0.5 with every novel object; it is the sum of the next three.
        base_object: of these, on an object of a base name. part: inside a novel object. background: the others.
        wrong_name: share of labels on a novel object of another name. duplicate: on one that is found already.
        reliability: for each tenth of the confidence, (labels, their mean confidence, share of right ones).
    """

    labels: int
    objects: int
    images: int
    precision: float
    recall: float
    f1: float
    on_nothing: float
    base_object: float
    part: float
    background: float
    wrong_name: float
    duplicate: float
    reliability: tuple[tuple[int, float, float], ...]

    @property
    def confidence_off_by(self) -> float:
        """How far the stated confidence is from the share of right labels: the mean over the tenths; 0 without any."""
        gaps = [abs(stated - measured) for _, stated, measured in self.reliability]
        return sum(gaps) / max(len(gaps), 1)


@dataclass(frozen=True, slots=True)
class ImageBoxes:
    """Boxes of one image: float64 (n, 4) xyxy, names int64 (n,), scores float64 (n,) (1 for objects)."""

    boxes_xyxy: np.ndarray
    names: np.ndarray
    scores: np.ndarray


NO_BOXES = ImageBoxes(np.empty((0, 4)), np.empty(0, np.int64), np.empty(0))


@dataclass(frozen=True, slots=True)
class JudgedBoxes:
    """The labels of one image by falling score, and what ground truth says of each; no verdict depends on lower scores.

    Attributes:
        labels: the boxes.
        kinds: int64 (n,), place in KINDS.
        on: int64 (n,), the name of the object that a label lies on (IoU 0.5), novel or base; -1 where it lies on none.
    """

    labels: ImageBoxes
    kinds: np.ndarray
    on: np.ndarray


def judge_boxes(labels: ImageBoxes, novel: ImageBoxes, base: ImageBoxes) -> JudgedBoxes:
    """What each label of an image is, against its novel and base objects; crowds are left out by the caller."""
    if not len(labels.scores):
        return JudgedBoxes(labels, np.empty(0, np.int64), np.empty(0, np.int64))
    order = np.argsort(-labels.scores, kind="stable")
    boxes, names = labels.boxes_xyxy[order], labels.names[order]
    overlap, with_base = ious(boxes, novel.boxes_xyxy), ious(boxes, base.boxes_xyxy)
    same = names[:, None] == novel.names[None, :]
    fits = [
        match_one_to_one(overlap, same, RIGHT_IOU),
        (np.where(same, overlap, 0) >= RIGHT_IOU).any(axis=1),
        (overlap >= RIGHT_IOU).any(axis=1),
        (with_base >= RIGHT_IOU).any(axis=1),
        (covered(boxes, novel.boxes_xyxy) >= PART).any(axis=1),
        np.ones(len(names), bool),
    ]
    kinds = np.argmax(np.stack(fits), axis=0)
    on = np.full(len(names), -1, np.int64)
    for kind, overlaps, objects in ((2, overlap, novel), (3, with_base, base)):
        which = kinds == kind
        if which.any():
            on[which] = objects.names[overlaps[which].argmax(axis=1)]
    on[kinds <= 1] = names[kinds <= 1]
    return JudgedBoxes(ImageBoxes(boxes, names, labels.scores[order]), kinds, on)


def label_quality(images: Sequence[tuple[ImageBoxes, ImageBoxes, ImageBoxes]]) -> LabelQuality:
    """Counts over images, each (labels, novel objects, base objects); crowds are left out by the caller."""
    judged = [judge_boxes(labels, novel, base) for labels, novel, base in images]
    return quality_of(judged, sum(len(novel.names) for _, novel, _ in images))


def quality_of(judged: Sequence[JudgedBoxes], objects: int) -> LabelQuality:
    """The counts over judged images with this many novel objects."""
    every = np.concatenate([np.empty(0), *(image.labels.scores for image in judged)])
    verdicts = np.concatenate([np.empty(0, np.int64), *(image.kinds for image in judged)])
    kinds = dict(zip(KINDS, np.bincount(verdicts, minlength=len(KINDS)).tolist(), strict=True))
    count = max(len(every), 1)
    precision, recall = kinds["right"] / count, kinds["right"] / max(objects, 1)
    return LabelQuality(
        labels=len(every),
        objects=objects,
        images=len(judged),
        precision=precision,
        recall=recall,
        f1=f1_score(precision, recall),
        on_nothing=(kinds["base_object"] + kinds["part"] + kinds["background"]) / count,
        base_object=kinds["base_object"] / count,
        part=kinds["part"] / count,
        background=kinds["background"] / count,
        wrong_name=kinds["wrong_name"] / count,
        duplicate=kinds["duplicate"] / count,
        reliability=reliability(every, verdicts == 0),
    )


def f1_score(precision: float, recall: float) -> float:
    """The harmonic mean of both; 0 where both are 0."""
    return 2 * precision * recall / max(precision + recall, 1e-12)


def reliability(scores: np.ndarray, right: np.ndarray) -> tuple[tuple[int, float, float], ...]:
    """For each tenth of the confidence that has labels: (labels, their mean confidence, share of right ones).

    Args:
        scores: (n,), in [0, 1]. right: bool (n,).
    """
    tenth = np.minimum((scores * 10).astype(int), 9)
    rows = []
    for number in range(10):
        chosen = tenth == number
        if chosen.any():
            rows.append((int(chosen.sum()), float(scores[chosen].mean()), float(right[chosen].mean())))
    return tuple(rows)
