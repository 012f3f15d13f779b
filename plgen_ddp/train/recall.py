"""Class-agnostic recall of proposals, as COCO's average recall counts it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou


def recalled(boxes_xyxy: Tensor, truth_xyxy: Tensor, limits: Sequence[int], ious: Sequence[float]) -> Tensor:
    """How many ground-truth boxes of one image the first proposals find.

    One to one: in the proposals' order, each takes the free ground-truth box that it overlaps most, if their IoU
    reaches the threshold.

    Args:
        boxes_xyxy: (n, 4), best proposal first.
        truth_xyxy: (m, 4), without crowds.
        limits: how many proposals count.
        ious: thresholds.

    Returns:
        int64 (len(limits), len(ious)).
    """
    found = torch.zeros(len(limits), len(ious), dtype=torch.int64)
    if not len(boxes_xyxy) or not len(truth_xyxy):
        return found
    overlaps = box_iou(boxes_xyxy[: max(limits)].double(), truth_xyxy.double()).cpu()
    for column, threshold in enumerate(ious):
        free = overlaps.clone()
        takes = torch.zeros(len(free), dtype=torch.int64)
        # Only proposals that reach the threshold at all need a look, and they are few.
        for row in (free >= threshold).any(dim=1).nonzero().flatten().tolist():
            best = int(free[row].argmax())
            if free[row, best] >= threshold:
                free[:, best] = -1
                takes[row] = 1
        for line, limit in enumerate(limits):
            found[line, column] = takes[:limit].sum()
    return found
