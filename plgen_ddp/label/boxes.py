"""How boxes lie to each other: overlaps, and what they suppress. Pure functions on arrays, float64, xyxy."""

import numpy as np


def intersections(boxes_xyxy: np.ndarray, others_xyxy: np.ndarray) -> np.ndarray:
    """The common area of each pair, (n, m), of boxes (n, 4) and others (m, 4)."""
    low = np.maximum(boxes_xyxy[:, None, :2], others_xyxy[None, :, :2])
    high = np.minimum(boxes_xyxy[:, None, 2:], others_xyxy[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=2)


def areas(boxes_xyxy: np.ndarray) -> np.ndarray:
    """(n,), of boxes (n, 4)."""
    return (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)


def ious(boxes_xyxy: np.ndarray, others_xyxy: np.ndarray) -> np.ndarray:
    """Intersection over union of each pair, (n, m); 0 for two boxes without area."""
    shared = intersections(boxes_xyxy, others_xyxy)
    union = areas(boxes_xyxy)[:, None] + areas(others_xyxy)[None, :] - shared
    return shared / np.maximum(union, np.finfo(np.float64).tiny)


def covered(boxes_xyxy: np.ndarray, others_xyxy: np.ndarray) -> np.ndarray:
    """The share of each box's own area that lies in each of the others, (n, m)."""
    own = np.maximum(areas(boxes_xyxy), np.finfo(np.float64).tiny)
    return intersections(boxes_xyxy, others_xyxy) / own[:, None]
