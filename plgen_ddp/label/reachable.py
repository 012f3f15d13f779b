"""Which boxes can score above a threshold at all: most cannot, and single precision is enough to see it.

What a label says is computed in float64 (`class_scores.py`). That is needed only for boxes that may become labels.
"""

from collections.abc import Sequence

import numpy as np

from plgen_ddp.label.box_scores import fuse
from plgen_ddp.label.class_scores import probabilities
from plgen_ddp.label.rule import Rule
from plgen_ddp.label.stacked import StackedBoxes
from plgen_ddp.records import Regions

# Rows of a block: their float32 copy fits into a core's cache.
_BLOCK = 256
# Rounding of float32: a result is off by at most this share of itself.
_ROUNDING = 2.0**-24
# Powers and exponentials are right to the last few bits of float64, so a score may be that much higher than its bound.
_SLACK = 1e-9


def boxes_to_score(
    rules: Sequence[tuple[Rule, float]], images: Sequence[Regions], extents: Sequence[tuple[int, int]] | None = None
) -> StackedBoxes:
    """The boxes of these images that a rule must score: all, if a box's score depends on the others of its image.

    Args:
        rules: each with the lowest threshold of any name.
        extents: see `StackedBoxes.of`.
    """
    if not all(rule.scores_boxes_alone for rule, _ in rules):
        return StackedBoxes.with_embeddings(images, extents)
    boxes = StackedBoxes.of(images, extents)
    reach = [can_exceed(rule, rule.box_score(boxes), threshold) for rule, threshold in rules]
    boxes = boxes.rows(np.any(reach, axis=0), images)
    if len(rules) > 1:  # a sweep needs most boxes anyway
        return boxes
    ((rule, threshold),) = rules
    return boxes.those(can_be_named(rule, boxes, threshold))


def can_exceed(rule: Rule, box_score: np.ndarray, threshold: float) -> np.ndarray:
    """Whether each box would become a candidate if its class score were 1, bool (n,): never False for one that does.

    No class score is above 1, and every fusion rises with it.

    Args:
        box_score: float64 (n,).
        threshold: of the fused score.
    """
    highest = fuse(np.ones(len(box_score)), box_score, rule.options.fusion, rule.options.objectness_weight)
    return (highest > threshold - _SLACK) & (box_score >= rule.options.box_threshold)


def can_be_named(rule: Rule, boxes: StackedBoxes, threshold: float) -> np.ndarray:
    """Whether each box may score above the threshold, bool (n,): never False for one that does.

    Cosines in float32 bound the class score. In a product of vectors of d elements, summed in any order, the error is
    at most d u / (1 - d u) times both lengths, with u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms,
    section 3.1). The squared length of an embedding has the same relative error; a text embedding has length 1. So a
    cosine is off by less than e = 4 d u, which leaves 2 d u for the few roundings around the products. At temperature t
    each exponential of a softmax is then off by a factor of at most exp(e / t), and the probability by exp(2 e / t),
    times the rounding of the sum. A sigmoid rises with its cosine, so it is taken at the cosine + e.

    Args:
        rule: one that scores boxes alone.
        threshold: of the fused score.
    """
    options, similarity, embeddings = rule.options, rule.similarity, boxes.regions.embeddings
    if options.class_score not in ("novel", "all") or not embeddings.shape[1]:  # imported scores have no embeddings
        return np.ones(len(embeddings), bool)
    texts, asked = rule.novel_texts, len(rule.table.asked("novel"))
    error = 4 * embeddings.shape[1] * _ROUNDING
    bound = np.empty(len(embeddings))
    for start in range(0, len(embeddings), _BLOCK):
        rows = to_float32(embeddings[start : start + _BLOCK])
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        cosine = rows @ texts
        cosine /= np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]
        best = cosine[:, :asked].max(axis=1).astype(np.float64)
        if similarity.rule == "sigmoid":
            bound[start : start + _BLOCK] = probabilities(best + error, similarity)
            continue
        largest = cosine.max(axis=1, keepdims=True)
        cosine -= largest
        cosine *= np.float32(1 / similarity.temperature)
        total = np.exp(cosine, out=cosine).sum(axis=1, dtype=np.float64)
        bound[start : start + _BLOCK] = np.exp((best - largest[:, 0]) / similarity.temperature) / total
    if similarity.rule == "softmax":
        with np.errstate(over="ignore", invalid="ignore"):  # 0 times infinity says nothing, and keeps the box
            bound *= np.exp(2 * error / similarity.temperature) * (1 + 16 * _ROUNDING)
    score = fuse(np.minimum(bound, 1), rule.box_score(boxes), options.fusion, options.objectness_weight)
    return ~(score <= threshold - _SLACK)  # what is not a number is no reason to drop a box here


def to_float32(embeddings: np.ndarray) -> np.ndarray:
    """Finite float16 as float32, exactly, several times faster than NumPy's conversion.

    Sign, exponent and fraction move to their places in float32; the product corrects the exponent, also of subnormals.
    """
    bits = embeddings.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= ~0x70000000  # copies of the sign, which the shift has left in the exponent
    values = bits.view(np.float32)
    values *= np.float32(2.0**112)
    return values
