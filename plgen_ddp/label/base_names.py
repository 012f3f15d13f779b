"""What base names teach a rule before it labels novel ones: how cosines spread, which boxes are right, where to cut.

The base names of the JSON are labelled as if they were novel and compared with the JSON's own base annotations. All of
it looks at a sample of the store, so that a data set of any size costs about as much.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np

from plgen_ddp.boxes import ious, match_one_to_one, paired_ious, pairs_in_ranges
from plgen_ddp.errors import UserError
from plgen_ddp.label.labels import kept_boxes_of_images
from plgen_ddp.label.rule import Rule
from plgen_ddp.label.stacked import StackedBoxes
from plgen_ddp.label.thresholds import ChosenThreshold, best_f_beta, lowest_with_precision
from plgen_ddp.label.verified import (
    TAUGHT_IOU,
    Classifier,
    box_features,
    fewest_to_learn_from,
    pair_features,
    stack_features,
    train,
)
from plgen_ddp.label_quality import RIGHT_IOU, reliability

# A learned box score says how likely a box fits an object this well.
_FITS_IOU = 0.6
# The fewest right boxes, and the fewest wrong ones, to learn from.
_FEWEST = 50


@dataclass(frozen=True, slots=True)
class SampledImages:
    """Some images of the sample, one at least.

    Attributes:
        boxes: without embeddings.
        cosine: float64 (n, words), with the words of the rule's table.
        base_place: int64 (m,), ascending, which image each base annotation is of.
        base_boxes_xyxy: float64 (m, 4). base_names: int64 (m,), index into the base names.
    """

    boxes: StackedBoxes
    cosine: np.ndarray
    base_place: np.ndarray
    base_boxes_xyxy: np.ndarray
    base_names: np.ndarray


def learn_from_base(rule: Rule, sample: Sequence[SampledImages], pool: Executor) -> Rule:
    """The rule with what it needs of the base names: the spread of cosines, and its classifier.

    Raises:
        UserError: too few base annotations in the sample to learn from.
    """
    options = rule.options
    if not options.trains_classifier:
        return rule
    if options.box_score == "verified" and sample:
        every = np.concatenate([images.cosine for images in sample])
        rule = replace(rule, cosine_mean=every.mean(axis=0), cosine_deviation=np.maximum(every.std(axis=0), 1e-6))
        del every
    return replace(rule, classifier=_train_classifier(rule, sample, pool))


@dataclass(frozen=True, slots=True)
class OnBaseNames:
    """What the labels of the base names are worth, labelled as if they were novel.

    Attributes:
        chosen: the score threshold that `label.threshold` asks for; None where that is fixed.
        reliability: of all their labels, see `label_quality.reliability`. No annotation of an image decides what a
            trained classifier says of its boxes, so it holds for images without annotations too.
    """

    chosen: ChosenThreshold | None
    reliability: tuple[tuple[int, float, float], ...]


def judge_on_base(rule: Rule, sample: Sequence[SampledImages], pool: Executor) -> OnBaseNames:
    """Labels the base names of the sample and compares them with the base annotations.

    Raises:
        UserError: a threshold is to be chosen, and no image of the sample has a base annotation.
    """
    options = rule.options
    if options.asks_base_names and not sample:
        raise UserError(
            f"label.threshold is {options.threshold}, which compares labels of base names with base annotations, and "
            "no scored image has any; set label.threshold=fixed and label.score_threshold"
        )
    scores, right, objects = base_labels(rule, sample, pool)
    chosen = None
    if options.threshold == "precision":
        chosen = lowest_with_precision(scores, right, objects, options.wanted_precision)
    elif options.threshold == "f_beta_base":
        chosen = best_f_beta(scores, right, objects, options.f_beta)
    return OnBaseNames(chosen, reliability(scores, right))


def base_labels(rule: Rule, sample: Sequence[SampledImages], pool: Executor) -> tuple[np.ndarray, np.ndarray, int]:
    """The labels of the base names at every threshold.

    Returns:
        (scores float64 (n,), right bool (n,), number of base annotations).
    """
    # Base annotations are what is to be found here, so they must not suppress anything.
    options = replace(rule.options, suppress=tuple(kind for kind in rule.options.suppress if kind == "inside"))
    nothing = np.empty((0, 4)), np.empty(0, np.int64)

    def of_images(images: SampledImages) -> tuple[np.ndarray, np.ndarray]:
        boxes, place = images.boxes.regions.boxes_xyxy, images.boxes.place
        scored = rule.score_images(images.boxes, images.cosine, "base")
        kept = kept_boxes_of_images(boxes, place, scored, *nothing, options, threshold=0.0)
        starts = images.boxes.starts(kept)
        base_starts = np.searchsorted(images.base_place, np.arange(len(starts))).tolist()
        right = []
        for image in range(len(starts) - 1):
            own, base = kept[starts[image] : starts[image + 1]], slice(*base_starts[image : image + 2])
            overlap = ious(boxes[own].astype(np.float64), images.base_boxes_xyxy[base])
            right.append(match_one_to_one(overlap, scored.name[own][:, None] == images.base_names[base], RIGHT_IOU))
        return scored.score[kept], np.concatenate(right)

    found = [(np.empty(0), np.empty(0, bool)), *pool.map(of_images, sample)]
    scores, right = (np.concatenate(column) for column in zip(*found, strict=True))
    return scores, right, sum(len(images.base_names) for images in sample)


def _train_classifier(rule: Rule, sample: Sequence[SampledImages], pool: Executor) -> Classifier:
    def lessons(images: SampledImages) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Features, which boxes are right, and the image of each."""
        boxes = images.boxes
        if rule.options.box_score == "verified":
            named = rule.named(images.cosine, "base")
            rows, fits = named.likely(), TAUGHT_IOU
            features = pair_features(boxes, named, rows)
        else:
            named, rows, fits = None, np.arange(len(boxes.place)), _FITS_IOU
            features = box_features(boxes)
        # Every box with each base annotation of its image.
        sides = (np.searchsorted(images.base_place, boxes.place[rows], side) for side in ("left", "right"))
        row, base = pairs_in_ranges(*sides)
        corners = boxes.regions.boxes_xyxy[rows[row]].astype(np.float64)
        fit = paired_ious(corners, images.base_boxes_xyxy[base]) >= fits
        if named is not None:
            fit &= named.name[rows[row]] == images.base_names[base]
        return features, np.bincount(row[fit], minlength=len(rows)) > 0, boxes.image_ids[boxes.place[rows]]

    found = list(pool.map(lessons, sample))
    answers = np.concatenate([np.empty(0, bool), *(right for _, right, _ in found)])
    image_ids = np.concatenate([np.empty(0, np.int64), *(ids for _, _, ids in found)])
    if fewest_to_learn_from(answers, image_ids) < _FEWEST:
        raise UserError(
            f"label.box_score is {rule.options.box_score}, which learns from base annotations, and of the "
            f"{len(answers)} boxes on images that have some, {int(answers.sum())} fit one; it needs {_FEWEST} that fit "
            f"and {_FEWEST} that do not, without a fifth of the images: label more images, or use another box_score"
        )
    columns = stack_features([features for features, _, _ in found])
    del found
    return train(columns, answers, image_ids, pool)
