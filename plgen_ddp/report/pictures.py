"""Pseudo labels drawn into their images, beside the ground truth."""

from collections.abc import Sequence

import cv2
import numpy as np

_LABEL_BGR = (40, 40, 230)
_TRUTH_BGR = (60, 170, 60)


def draw_boxes(
    image_bgr: np.ndarray,
    labels: Sequence[tuple[str, float, Sequence[float]]],
    truths: Sequence[tuple[str, Sequence[float]]] = (),
    scale: int = 2,
) -> np.ndarray:
    """The image enlarged, ground truth in thin green, pseudo labels in red with name and confidence.

    Args:
        image_bgr: uint8 (H, W, 3), BGR.
        labels: (name, confidence, box xywh in pixels). truths: (name, box xywh in pixels).

    Returns:
        uint8 (scale H, scale W, 3), BGR.
    """
    canvas = cv2.resize(image_bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    for name, box in truths:
        _draw(canvas, box, scale, _TRUTH_BGR, 1, name, below=True)
    for name, confidence, box in labels:
        _draw(canvas, box, scale, _LABEL_BGR, 2, f"{name} {confidence:.2f}", below=False)
    return canvas


def _draw(
    canvas: np.ndarray,
    box: Sequence[float],
    scale: int,
    colour: tuple[int, int, int],
    width: int,
    text: str,
    below: bool,
) -> None:
    x, y, w, h = (value * scale for value in box)
    low, high = (round(x), round(y)), (round(x + w), round(y + h))
    cv2.rectangle(canvas, low, high, colour, width)
    (text_width, text_height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    left = min(max(low[0], 0), canvas.shape[1] - text_width)
    bottom = min(high[1] + text_height + 4, canvas.shape[0] - 2) if below else max(low[1] - 3, text_height + 2)
    cv2.rectangle(canvas, (left, bottom - text_height - 2), (left + text_width, bottom + 2), colour, -1)
    cv2.putText(canvas, text, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
