"""From scored regions to pseudo labels: fusion, threshold, suppression. Pure functions on arrays.

VL-PLM and MarvelOVD differ in two numbers of it: the weight of objectness in the score, and the threshold.
"""

import numpy as np

from plgen_ddp.boxes import covered, ious
from plgen_ddp.config import LabelConfig
from plgen_ddp.label.rule import ScoredBoxes
from plgen_ddp.records import PseudoLabels, Regions

INSIDE = 0.8
"""From this share of its area on, a box lies inside another."""


def nms(boxes_xyxy: np.ndarray, scores: np.ndarray, groups: np.ndarray, iou: float) -> np.ndarray:
    """Greedy non-maximum suppression within each group: torchvision's `batched_nms`, in float64.

    Args:
        boxes_xyxy: (n, 4). scores: (n,). groups: (n,), boxes of different groups do not suppress each other.
        iou: a box is dropped when its IoU with a kept one is above this.

    Returns:
        Indices int64 of the kept boxes by falling score; of equal scores the earlier box comes first.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, groups = boxes_xyxy[order].astype(np.float64), groups[order]
    # All pairs at once, the better box first: at a low threshold most boxes are kept, and a loop over them is slow.
    first, second = np.nonzero(np.triu(groups[:, None] == groups[None, :], 1))
    extent = np.minimum(boxes[first, 2:], boxes[second, 2:]) - np.maximum(boxes[first, :2], boxes[second, :2])
    overlap = np.clip(extent, 0, None).prod(axis=1)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    # As a product, not a quotient: two boxes without area have no IoU, and must not warn of it.
    rivals = np.flatnonzero(overlap > iou * (areas[first] + areas[second] - overlap))
    alive = [True] * len(order)
    for better, worse in zip(first[rivals].tolist(), second[rivals].tolist(), strict=True):
        if alive[better]:  # decided: its own rivals came before
            alive[worse] = False
    return order[np.array(alive, bool)]


def kept_boxes(
    boxes_xyxy: np.ndarray,
    scored: ScoredBoxes,
    base_boxes_xyxy: np.ndarray,
    options: LabelConfig,
    threshold: float | np.ndarray,
) -> np.ndarray:
    """Which boxes of one image become labels: indices int64 by falling score.

    A box is dropped only for a better box of its name. So the boxes that a higher threshold keeps are those that a
    lower one keeps and whose score is above the higher one.

    Args:
        boxes_xyxy: (n, 4).
        base_boxes_xyxy: (m, 4), the image's base annotations, for `label.suppress`.
        threshold: a box is kept where its score is above it; float64 (names,): above that of its name.
    """
    least = threshold[scored.name] if isinstance(threshold, np.ndarray) else threshold
    above = np.flatnonzero((scored.score > least) & (scored.box_score >= options.box_threshold))
    boxes = boxes_xyxy[above].astype(np.float64)
    if len(base_boxes_xyxy) and len(above):
        explained = np.zeros(len(above), bool)
        if "base_iou" in options.suppress:
            explained |= (ious(boxes, base_boxes_xyxy) > options.base_iou).any(axis=1)
        if "base_inside" in options.suppress:
            explained |= (covered(boxes, base_boxes_xyxy) > INSIDE).any(axis=1)
        above, boxes = above[~explained], boxes[~explained]
    order = nms(boxes, scored.score[above], scored.name[above], options.nms_iou)
    if "inside" in options.suppress and len(order):
        inside = covered(boxes[order], boxes[order]) > INSIDE
        same = scored.name[above][order]
        inside &= same[:, None] == same[None, :]
        order = order[~np.tril(inside, -1).any(axis=1)]  # those before it score higher
    return above[order]


def label_image(regions: Regions, scored: ScoredBoxes, kept: np.ndarray, category_ids: np.ndarray) -> PseudoLabels:
    """The pseudo labels of one image.

    Args:
        kept: from `kept_boxes`.
        category_ids: int64, of the names that `scored` indexes.
    """
    corners = regions.boxes_xyxy[kept].astype(np.float64)
    return PseudoLabels(
        image_ids=np.full(len(kept), regions.image_id, np.int64),
        category_ids=category_ids[scored.name[kept]],
        boxes_xywh=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
        scores=scored.score[kept],
        clip_scores=scored.class_score[kept],
        box_scores=scored.box_score[kept],
        objectness=regions.objectness[kept].astype(np.float64),
    )
