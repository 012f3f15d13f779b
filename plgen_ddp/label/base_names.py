"""What base names teach a rule before it labels novel ones: how cosines spread, which boxes are right, where to cut.

The base names of the JSON are labelled as if they were novel and compared with the JSON's own base annotations. All of
it looks at a sample of the store, so that a data set of any size costs about as much.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from plgen_ddp.boxes import ious, match_one_to_one
from plgen_ddp.errors import UserError
from plgen_ddp.label.labels import kept_boxes
from plgen_ddp.label.rule import Rule
from plgen_ddp.label.thresholds import ChosenThreshold, best_f_beta, lowest_with_precision
from plgen_ddp.label.verified import (
    RIGHT_IOU,
    TAUGHT_IOU,
    Classifier,
    box_features,
    fewest_to_learn_from,
    pair_features,
    stack_features,
    train,
)
from plgen_ddp.label_quality import reliability
from plgen_ddp.records import Regions

# A learned box score says how likely a box fits an object this well.
_FITS_IOU = 0.6
# The fewest right boxes, and the fewest wrong ones, to learn from.
_FEWEST = 50


@dataclass(frozen=True, slots=True)
class SampledImage:
    """One image of the sample.

    Attributes:
        regions: without embeddings.
        cosine: float64 (n, words), with the words of the rule's table.
        extent: (width, height), pixels.
        base_boxes_xyxy: float64 (m, 4), its base annotations. base_names: int64 (m,), index into the base names.
    """

    regions: Regions
    cosine: np.ndarray
    extent: tuple[int, int]
    base_boxes_xyxy: np.ndarray
    base_names: np.ndarray


def learn_from_base(rule: Rule, sample: Sequence[SampledImage]) -> Rule:
    """The rule with what it needs of the base names: the spread of cosines, and its classifier.

    Raises:
        UserError: too few base annotations in the sample to learn from.
    """
    options = rule.options
    if not options.trains_classifier:
        return rule
    if options.box_score == "verified" and sample:
        every = np.concatenate([image.cosine for image in sample])
        rule = replace(rule, cosine_mean=every.mean(axis=0), cosine_deviation=np.maximum(every.std(axis=0), 1e-6))
    return replace(rule, classifier=_train_classifier(rule, sample))


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


def judge_on_base(rule: Rule, sample: Sequence[SampledImage]) -> OnBaseNames:
    """Labels the base names of the sample and compares them with the base annotations.

    Raises:
        UserError: a threshold is to be chosen, and no image of the sample has a base annotation.
    """
    options = rule.options
    if options.asks_base_names and not any(len(image.base_names) for image in sample):
        raise UserError(
            f"label.threshold is {options.threshold}, which compares labels of base names with base annotations, and "
            "no scored image has any; set label.threshold=fixed and label.score_threshold"
        )
    scores, right, objects = base_labels(rule, sample)
    chosen = None
    if options.threshold == "precision":
        chosen = lowest_with_precision(scores, right, objects, options.wanted_precision)
    elif options.threshold == "f_beta_base":
        chosen = best_f_beta(scores, right, objects, options.f_beta)
    return OnBaseNames(chosen, reliability(scores, right))


def base_labels(rule: Rule, sample: Sequence[SampledImage]) -> tuple[np.ndarray, np.ndarray, int]:
    """The labels of the base names at every threshold.

    Returns:
        (scores float64 (n,), right bool (n,), number of base annotations).
    """
    scores, right = [], []
    # Base annotations are what is to be found here, so they must not suppress anything.
    options = replace(rule.options, suppress=tuple(kind for kind in rule.options.suppress if kind == "inside"))
    nothing = np.empty((0, 4))
    for image in sample:
        scored = rule.score(image.regions, image.cosine, image.extent, "base")
        kept = kept_boxes(image.regions.boxes_xyxy, scored, nothing, options, threshold=0.0)
        overlap = ious(image.regions.boxes_xyxy[kept].astype(np.float64), image.base_boxes_xyxy)
        same = scored.name[kept][:, None] == image.base_names[None, :]
        scores.append(scored.score[kept])
        right.append(match_one_to_one(overlap, same, RIGHT_IOU))
    if not sample:
        return np.empty(0), np.empty(0, bool), 0
    return np.concatenate(scores), np.concatenate(right), sum(len(image.base_names) for image in sample)


def _train_classifier(rule: Rule, sample: Sequence[SampledImage]) -> Classifier:
    rows, right, image_ids = [], [], []
    for image in sample:
        overlap = ious(image.regions.boxes_xyxy.astype(np.float64), image.base_boxes_xyxy)
        if rule.options.box_score == "verified":
            named = rule.named(image.cosine, "base")
            asked = named.likely()
            rows.append(pair_features(image.regions, named, image.extent, asked))
            overlap = np.where(named.name[:, None] == image.base_names[None, :], overlap, 0)[asked]
            right.append(overlap.max(axis=1, initial=0) >= TAUGHT_IOU)
        else:
            rows.append(box_features(image.regions, image.extent))
            right.append(overlap.max(axis=1, initial=0) >= _FITS_IOU)
        image_ids.append(np.full(len(right[-1]), image.regions.image_id))
    answers = np.concatenate(right) if right else np.empty(0, bool)
    images = np.concatenate(image_ids) if image_ids else np.empty(0, np.int64)
    if fewest_to_learn_from(answers, images) < _FEWEST:
        raise UserError(
            f"label.box_score is {rule.options.box_score}, which learns from base annotations, and of the "
            f"{len(answers)} boxes on images that have some, {int(answers.sum())} fit one; it needs {_FEWEST} that fit "
            f"and {_FEWEST} that do not, without a fifth of the images: label more images, or use another box_score"
        )
    return train(stack_features(rows), answers, images)
