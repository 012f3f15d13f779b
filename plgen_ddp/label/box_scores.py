"""How good a box is, whatever its name, and how that and the name's probability become one score."""

import numpy as np

from plgen_ddp.errors import UserError
from plgen_ddp.records import Regions

COLUMNS = ("objectness", "foreground", "agreement")
"""The evidence columns that `label.box_score` can name."""


def column_score(regions: Regions, name: str) -> np.ndarray:
    """An evidence column as a score, float64 (n,), in [0, 1].

    Raises:
        UserError: the store has no such evidence.
    """
    column = getattr(regions, name)
    if column is None:
        raise no_evidence(name)
    return column.astype(np.float64)


def no_evidence(name: str) -> UserError:
    """The boxes come from a file, which has no evidence beside a score."""
    return UserError(
        f"label.box_score is {name}, and the boxes of this store have no such evidence; use objectness, learned, "
        "verified or none"
    )


def fuse(class_score: np.ndarray, box_score: np.ndarray, fusion: str, box_weight: float) -> np.ndarray:
    """One score of both questions, float64 (n,).

    Args:
        class_score, box_score: float64 (n,), in [0, 1].
        fusion: "mean" is weight x box + (1 - weight) x class (VL-PLM); "geometric" is box^weight x class^(1 - weight)
            (AggDet); "logits" is the sigmoid of the weighted mean of both logits (SAS-Det on LVIS); "class_only" is the
            class score (MarvelOVD).
        box_weight: in [0, 1].
    """
    if fusion == "mean":
        return box_weight * box_score + (1 - box_weight) * class_score
    if fusion == "geometric":
        return box_score**box_weight * class_score ** (1 - box_weight)
    if fusion == "logits":
        return 1 / (1 + np.exp(-(box_weight * logit(box_score) + (1 - box_weight) * logit(class_score))))
    assert fusion == "class_only", f"fusion is {fusion!r}"
    return class_score


def logit(probability: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), with p kept 1e-6 away from 0 and 1."""
    clipped = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped))
