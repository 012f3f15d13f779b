"""From scored regions to pseudo labels: fusion, threshold, suppression. Pure functions on arrays.

VL-PLM and MarvelOVD differ in two numbers of it: the weight of objectness in the score, and the threshold.
"""

from dataclasses import replace

import numpy as np

from plgen_ddp.config import LabelConfig
from plgen_ddp.label.class_scores import best_names
from plgen_ddp.records import PseudoLabels, Regions, Similarity


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
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    alive = np.ones(len(order), bool)
    for place in range(len(order)):
        if not alive[place]:
            continue
        low = np.maximum(boxes[place, :2], boxes[place + 1 :, :2])
        high = np.minimum(boxes[place, 2:], boxes[place + 1 :, 2:])
        overlap = np.clip(high - low, 0, None).prod(axis=1)
        union = areas[place] + areas[place + 1 :] - overlap
        # As a product, not a quotient: two boxes without area have no IoU, and must not warn of it.
        alive[place + 1 :] &= (overlap <= iou * union) | (groups[place + 1 :] != groups[place])
    return order[alive]


def label_image(
    regions: Regions,
    text_embeddings: np.ndarray,
    category_ids: np.ndarray,
    similarity: Similarity,
    options: LabelConfig,
) -> PseudoLabels:
    """The pseudo labels of one image, by falling score.

    Args:
        text_embeddings: float32 (c, d), unit length, the novel names first.
        category_ids: int64, of the novel names in that order.
        similarity: the store's; `label.temperature` takes the place of its temperature.
    """
    if options.temperature is not None:
        similarity = replace(similarity, temperature=options.temperature)
    best, probability = best_names(regions.embeddings, text_embeddings, similarity, len(category_ids))
    objectness = regions.objectness.astype(np.float64)
    score = options.objectness_weight * objectness + (1 - options.objectness_weight) * probability
    above = np.flatnonzero(score > options.score_threshold)
    kept = above[nms(regions.boxes_xyxy[above], score[above], best[above], options.nms_iou)]
    corners = regions.boxes_xyxy[kept].astype(np.float64)
    return PseudoLabels(
        image_ids=np.full(len(kept), regions.image_id, np.int64),
        category_ids=category_ids[best[kept]],
        boxes_xywh=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
        scores=score[kept],
        clip_scores=probability[kept],
        objectness=objectness[kept],
    )
