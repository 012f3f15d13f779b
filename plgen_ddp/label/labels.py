"""From scored regions to pseudo labels: fusion, threshold, suppression. Pure functions on arrays.

VL-PLM and MarvelOVD differ in two numbers of it: the weight of objectness in the score, and the threshold.
"""

import numpy as np

from plgen_ddp.boxes import areas, paired_covered, paired_intersections, paired_ious, pairs_in_ranges
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
    order = np.lexsort((-scores, groups))  # group by group, in each by falling score
    boxes, groups = boxes_xyxy[order].astype(np.float64), groups[order]
    area = areas(boxes)
    left, kept = np.arange(len(order)), [np.empty(0, np.int64)]
    while len(left):  # each round keeps the best box that is left of every group
        first = np.append(True, np.diff(groups[left]) != 0)
        best = left[first][np.cumsum(first) - 1]
        kept.append(left[first])
        overlap = paired_intersections(boxes[best], boxes[left])
        union = area[best] + area[left] - overlap
        # As a product, not a quotient: two boxes without area have no IoU, and must not warn of it.
        left = left[(overlap <= iou * union) & ~first]
    found = np.sort(order[np.concatenate(kept)])
    return found[np.argsort(-scores[found], kind="stable")]


def kept_boxes(
    boxes_xyxy: np.ndarray,
    scored: ScoredBoxes,
    base_boxes_xyxy: np.ndarray,
    options: LabelConfig,
    threshold: float | np.ndarray,
) -> np.ndarray:
    """Which boxes of one image become labels: indices int64 by falling score. See `kept_boxes_of_images`."""
    place, base_place = np.zeros(len(boxes_xyxy), np.int64), np.zeros(len(base_boxes_xyxy), np.int64)
    return kept_boxes_of_images(boxes_xyxy, place, scored, base_boxes_xyxy, base_place, options, threshold)


def kept_boxes_of_images(
    boxes_xyxy: np.ndarray,
    place: np.ndarray,
    scored: ScoredBoxes,
    base_boxes_xyxy: np.ndarray,
    base_place: np.ndarray,
    options: LabelConfig,
    threshold: float | np.ndarray,
) -> np.ndarray:
    """Which boxes of some images become labels: indices int64, image by image, in an image by falling score.

    A box is dropped only for a better box of its name. So the boxes that a higher threshold keeps are those that a
    lower one keeps and whose score is above the higher one.

    Args:
        boxes_xyxy: (n, 4). place: int64 (n,), ascending, which image each is of.
        base_boxes_xyxy: (m, 4), the images' base annotations, for `label.suppress`. base_place: int64 (m,), ascending.
        threshold: a box is kept where its score is above it; float64 (names,): above that of its name.
    """
    least = threshold[scored.name] if isinstance(threshold, np.ndarray) else threshold
    above = np.flatnonzero((scored.score > least) & (scored.box_score >= options.box_threshold))
    if len(base_boxes_xyxy) and {"base_iou", "base_inside"} & set(options.suppress):
        # Every box with each base annotation of its image.
        box, base = pairs_in_ranges(*(np.searchsorted(base_place, place[above], side) for side in ("left", "right")))
        boxes, base_boxes = boxes_xyxy[above[box]].astype(np.float64), base_boxes_xyxy[base]
        explains = np.zeros(len(box), bool)
        if "base_iou" in options.suppress:
            explains |= paired_ious(boxes, base_boxes) > options.base_iou
        if "base_inside" in options.suppress:
            explains |= paired_covered(boxes, base_boxes) > INSIDE
        above = np.delete(above, box[explains])
    groups = place * (1 + scored.name.max(initial=0)) + scored.name  # no two images have one in common
    kept = above[nms(boxes_xyxy[above], scored.score[above], groups[above], options.nms_iou)]
    if "inside" in options.suppress:
        kept = kept[np.argsort(groups[kept], kind="stable")]
        # Every box with each better one of its group.
        box, better = pairs_in_ranges(np.searchsorted(groups[kept], groups[kept]), np.arange(len(kept)))
        inside = paired_covered(boxes_xyxy[kept[box]].astype(np.float64), boxes_xyxy[kept[better]].astype(np.float64))
        kept = np.sort(np.delete(kept, box[inside > INSIDE]))
        kept = kept[np.argsort(-scored.score[kept], kind="stable")]
    return kept[np.argsort(place[kept], kind="stable")]


def label_image(regions: Regions, scored: ScoredBoxes, kept: np.ndarray, category_ids: np.ndarray) -> PseudoLabels:
    """The pseudo labels of one image.

    Args:
        kept: from `kept_boxes`.
        category_ids: int64, of the names that `scored` indexes.
    """
    return label_boxes(np.full(len(kept), regions.image_id, np.int64), regions, scored, kept, category_ids)


def label_boxes(
    image_ids: np.ndarray, regions: Regions, scored: ScoredBoxes, kept: np.ndarray, category_ids: np.ndarray
) -> PseudoLabels:
    """The pseudo labels of the kept boxes; image_ids: int64 (kept,). For the rest see `label_image`."""
    corners = regions.boxes_xyxy[kept].astype(np.float64)
    return PseudoLabels(
        image_ids=image_ids,
        category_ids=category_ids[scored.name[kept]],
        boxes_xywh=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
        scores=scored.score[kept],
        clip_scores=scored.class_score[kept],
        box_scores=scored.box_score[kept],
        objectness=regions.objectness[kept].astype(np.float64),
    )
