"""How much a detector's other boxes agree with a box: evidence that costs no further pass of the network."""

import torch
from torch import Tensor

# The number of largest IoUs that `agreement` takes the mean of.
_NEIGHBOURS = 5


def agreement(refined_xyxy: Tensor, proposed_xyxy: Tensor, candidates_xyxy: Tensor) -> Tensor:
    """How much the RPN's other boxes agree with each refined box: float32 (n,), in [0, 1].

    The mean of its five largest IoUs with them; one that is missing for want of boxes counts as 0.

    Args:
        refined_xyxy: (n, 4), after the passes of the box head.
        proposed_xyxy: (n, 4), the same boxes as the RPN gave them. Each is left out of its own neighbours.
        candidates_xyxy: (m, 4), all boxes that the RPN had to choose from, those among them.
    """
    if not len(refined_xyxy):
        return refined_xyxy.new_zeros(0)
    ious = box_iou(refined_xyxy[:, None], candidates_xyxy)
    # By distance and not equality: an exponential may differ in the last bit with its place in a vector.
    own = torch.cdist(proposed_xyxy, candidates_xyxy, p=1).argmin(dim=1, keepdim=True)
    largest = ious.scatter_(1, own, 0).topk(min(_NEIGHBOURS, ious.shape[1]), dim=1).values
    return largest.sum(dim=1) / _NEIGHBOURS


def box_iou(boxes_xyxy: Tensor, others_xyxy: Tensor) -> Tensor:
    """The IoUs of boxes (..., 4) with others that broadcast against them; 0 where one of them is empty.

    Coordinate by coordinate, which for thousands of pairs takes a third of the time of torchvision's corner by corner.
    """
    x0, y0, x1, y1 = boxes_xyxy.unbind(-1)
    other_x0, other_y0, other_x1, other_y1 = others_xyxy.unbind(-1)
    overlap = (torch.minimum(x1, other_x1) - torch.maximum(x0, other_x0)).clamp_(min=0)
    overlap *= (torch.minimum(y1, other_y1) - torch.maximum(y0, other_y0)).clamp_(min=0)
    union = (x1 - x0) * (y1 - y0) + (other_x1 - other_x0) * (other_y1 - other_y0) - overlap
    return (overlap / union).nan_to_num_(0)
