"""The second round: pseudo labels of a labelled JSON as boxes to learn from, once its audit has found no leak."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plgen_ddp.coco import CocoFile
from plgen_ddp.errors import UserError, suggestion
from plgen_ddp.label.audit import audit
from plgen_ddp.label.labelled_file import read_labelled
from plgen_ddp.train.config import ProposalTrainingConfig


@dataclass(frozen=True, slots=True)
class PseudoBoxes:
    """The pseudo labels to learn from, of all novel names, in the file's order.

    Attributes:
        image_ids: int64 (n,).
        boxes_xywh: float64 (n, 4), original pixels.
        sha256: digest of the file's content.
    """

    image_ids: np.ndarray
    boxes_xywh: np.ndarray
    sha256: str


def read_pseudo_labels(config: ProposalTrainingConfig, source: CocoFile, novel: Sequence[str]) -> PseudoBoxes | None:
    """The labels of `data.pseudo_labels` whose confidence is `data.min_confidence` or more; None without that file.

    Args:
        source: the JSON to train on.
        novel: the novel names of `data.vocabulary`, whose annotations nothing may see.

    Raises:
        UserError: not a labelled JSON, one of other images or made for other names, a leak, or no label to learn from.
    """
    if config.data.pseudo_labels is None:
        return None
    key, path = "data.pseudo_labels", config.data.pseudo_labels
    labelled = read_labelled(CocoFile(path, key))
    others = sorted(set(labelled.novel) - set(novel))
    if others:
        raise UserError(
            f"{key}: {path} was made for {others[0]!r}, which is not a novel name of data.vocabulary"
            f"{suggestion(others[0], novel)}"
        )
    count = len(source.images())
    if labelled.images < count:
        raise UserError(
            f"{key}: {path} has {labelled.images} of the {count} images of data.annotations; in the others novel "
            "objects would be background. Label all of them"
        )
    found = audit(labelled, source, also_novel=novel)
    if found.leaks:
        raise UserError(
            f"{key}: {path} leaks against {source.path}: {found.leaks[0]}; launch/audit.py lists every leak"
        )
    learned = labelled.confidences >= config.data.min_confidence
    if not learned.any():
        raise UserError(
            f"{key}: none of the {len(learned)} pseudo labels of {path} has a confidence of data.min_confidence="
            f"{config.data.min_confidence:g} or more"
        )
    return PseudoBoxes(labelled.image_ids[learned], labelled.boxes_xywh[learned], labelled.coco.sha256)
