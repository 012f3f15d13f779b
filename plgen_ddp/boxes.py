"""How boxes lie to each other, and which of them find an object. Pure functions on arrays, float64, xyxy."""

import numpy as np


def corners(boxes_xywh: np.ndarray) -> np.ndarray:
    """Boxes xywh (n, 4) as xyxy (n, 4)."""
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)


def intersections(boxes_xyxy: np.ndarray, others_xyxy: np.ndarray) -> np.ndarray:
    """The common area of each pair, (n, m), of boxes (n, 4) and others (m, 4)."""
    return paired_intersections(boxes_xyxy[:, None], others_xyxy[None])


def areas(boxes_xyxy: np.ndarray) -> np.ndarray:
    """(n,), of boxes (n, 4)."""
    x0, y0, x1, y1 = boxes_xyxy.T
    return (x1 - x0) * (y1 - y0)


def ious(boxes_xyxy: np.ndarray, others_xyxy: np.ndarray) -> np.ndarray:
    """Intersection over union of each pair, (n, m); 0 for two boxes without area."""
    shared = intersections(boxes_xyxy, others_xyxy)
    union = areas(boxes_xyxy)[:, None] + areas(others_xyxy)[None, :] - shared
    return shared / np.maximum(union, np.finfo(np.float64).tiny)


def covered(boxes_xyxy: np.ndarray, others_xyxy: np.ndarray) -> np.ndarray:
    """The share of each box's own area that lies in each of the others, (n, m)."""
    own = np.maximum(areas(boxes_xyxy), np.finfo(np.float64).tiny)
    return intersections(boxes_xyxy, others_xyxy) / own[:, None]


def paired_intersections(boxes_xyxy: np.ndarray, others_xyxy: np.ndarray) -> np.ndarray:
    """The common area of each box with the other in its place, (...,), of boxes (..., 4) and others (..., 4)."""
    # Side by side: NumPy is several times slower along a last axis of two or four numbers.
    shared = [
        np.maximum(
            np.minimum(boxes_xyxy[..., side + 2], others_xyxy[..., side + 2])
            - np.maximum(boxes_xyxy[..., side], others_xyxy[..., side]),
            0,
        )
        for side in (0, 1)
    ]
    return shared[0] * shared[1]


def paired_ious(boxes_xyxy: np.ndarray, others_xyxy: np.ndarray) -> np.ndarray:
    """`ious` of each box (n, 4) with the other (n, 4) in its place, (n,)."""
    shared = paired_intersections(boxes_xyxy, others_xyxy)
    return shared / np.maximum(areas(boxes_xyxy) + areas(others_xyxy) - shared, np.finfo(np.float64).tiny)


def paired_covered(boxes_xyxy: np.ndarray, others_xyxy: np.ndarray) -> np.ndarray:
    """`covered` of each box (n, 4) by the other (n, 4) in its place, (n,)."""
    own = np.maximum(areas(boxes_xyxy), np.finfo(np.float64).tiny)
    return paired_intersections(boxes_xyxy, others_xyxy) / own


def pairs_in_ranges(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every pair (row, number) with start[row] <= number < end[row], row by row: two int64 arrays of one length.

    Args:
        start, end: int64 (n,), no end before its start.
    """
    count = end - start
    row = np.repeat(np.arange(len(count)), count)
    return row, np.arange(len(row)) + np.repeat(start - (np.cumsum(count) - count), count)


def match_one_to_one(overlap: np.ndarray, same_name: np.ndarray, iou: float) -> np.ndarray:
    """Which labels of one image are right: each takes the free object of its name that it overlaps most.

    Args:
        overlap: IoU float64 (n, m) of labels, by falling score, and objects.
        same_name: bool (n, m).
        iou: the smallest overlap of a match.

    Returns:
        bool (n,).
    """
    free = np.where(same_name, overlap, 0)
    right = np.zeros(len(free), bool)
    for label in np.flatnonzero((free >= iou).any(axis=1)).tolist():
        best = int(free[label].argmax())
        if free[label, best] >= iou:
            right[label] = True
            free[:, best] = 0
    return right
