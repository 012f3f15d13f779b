"""How a scene is painted: its background, the surfaces of its objects, the camera's light and noise."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

_SHIFT = 4  # OpenCV's fixed-point bits for sub-pixel vertices


def _colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:
    """A random colour, float32 (3,), BGR in 0..255."""
    hsv = np.array([[[rng.uniform(0, 360), rng.uniform(*saturation), rng.uniform(*value)]]], dtype=np.float32)
    return 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0]


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Low-frequency noise in about [-1, 1], float32 (height, width)."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _ramp(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A linear ramp from 0 to 1 in a random direction, float32 (height, width)."""
    angle = rng.uniform(0, 2 * np.pi)
    x = np.linspace(-1, 1, width, dtype=np.float32) * np.float32(np.cos(angle))
    y = np.linspace(-1, 1, height, dtype=np.float32) * np.float32(np.sin(angle))
    ramp = y[:, None] + x[None, :]
    return (ramp - ramp.min()) / (ramp.max() - ramp.min())


def _pattern(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Stripes, dots or smooth noise in [-1, 1], float32 (height, width)."""
    kind = rng.integers(3)
    if kind == 2:
        return np.clip(_smooth_noise(rng, height, width, int(rng.integers(4, 12))), -1, 1)
    period, angle = rng.uniform(5, 16), rng.uniform(0, np.pi)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    along = (x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period)
    if kind == 0:
        return np.sin(along).astype(np.float32)
    across = (y * np.cos(angle) - x * np.sin(angle)) * (2 * np.pi / period)
    return (np.sin(along) * np.sin(across)).astype(np.float32)


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Two-colour gradient with faint structure and clutter lines, float32 (height, width, 3), BGR in 0..255."""
    first, second = (_colour(rng, (0.0, 0.6), (0.25, 1.0)) for _ in range(2))
    if rng.random() < 0.6:
        second = 0.65 * first + 0.35 * second
    ramp = _ramp(rng, height, width)[..., None]
    canvas = first * (1 - ramp) + second * ramp
    canvas += _smooth_noise(rng, height, width, int(rng.integers(3, 9)))[..., None] * rng.uniform(2, 16)
    if rng.random() < 0.4:
        canvas += _pattern(rng, height, width)[..., None] * rng.uniform(2, 9)
    canvas = np.ascontiguousarray(np.clip(canvas, 0, 255), dtype=np.float32)
    for _ in range(int(rng.integers(0, 7))):
        here = canvas[rng.integers(height), rng.integers(width)]
        shade = here + rng.uniform(-70, 70) + rng.uniform(-25, 25, 3)
        colour, thickness = tuple(float(c) for c in np.clip(shade, 0, 255)), int(rng.integers(1, 4))
        x0, x1 = (int(v) for v in rng.integers(0, width, 2))
        y0, y1 = (int(v) for v in rng.integers(0, height, 2))
        if rng.random() < 0.6:
            cv2.line(canvas, (x0, y0), (x1, y1), colour, thickness)
        else:
            axes = (int(rng.integers(20, 120)), int(rng.integers(20, 120)))
            start = float(rng.uniform(0, 360))
            cv2.ellipse(canvas, (x0, y0), axes, 0.0, start, start + float(rng.uniform(30, 120)), colour, thickness)
    return canvas


def coverage(contours: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Antialiased mask, uint8 (height, width). Vertices name pixel edges: (0, 0) is the image's corner."""
    mask = np.zeros((height, width), np.uint8)
    points = [np.round((c - 0.5) * (1 << _SHIFT)).astype(np.int32) for c in contours]
    cv2.fillPoly(mask, points, 255, cv2.LINE_AA, _SHIFT)
    return mask


def _outlined(contours: list[np.ndarray], height: int, width: int, thickness: int) -> np.ndarray:
    """Antialiased mask of the contours' lines, `thickness` pixels wide, uint8 (height, width)."""
    mask = np.zeros((height, width), np.uint8)
    points = [np.round((c - 0.5) * (1 << _SHIFT)).astype(np.int32) for c in contours]
    cv2.polylines(mask, points, True, 255, thickness, cv2.LINE_AA, _SHIFT)
    return mask


def _palette(rng: np.random.Generator, surround: np.ndarray) -> dict[str, np.ndarray]:
    """Colours of one object by tone; the body stands out from `surround`, BGR (3,), and the accent from the body."""

    def apart(other: np.ndarray, least: float) -> np.ndarray:
        for _ in range(12):
            colour = _colour(rng, (0.3, 1.0), (0.2, 1.0))
            if np.abs(colour - other).mean() >= least:
                break
        return colour

    body = apart(surround, 58)
    accent = apart(surround, 48) if rng.random() < 0.7 else np.clip(body * rng.uniform(0.55, 0.8), 0, 255)
    dark = body.mean() > 110
    detail = np.clip(body * 0.35, 0, 255) if dark else np.clip(body + 120, 0, 255)
    edge = np.clip(body * rng.uniform(0.3, 0.65), 0, 255) if dark else np.clip(body + rng.uniform(50, 110), 0, 255)
    return {"body": body, "accent": accent, "detail": detail, "edge": edge}


def _mottles(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Soft blotches in [-1, 1], float32 (height, width)."""
    cells = max(3, max(height, width) // 9)
    return np.clip(1.8 * _smooth_noise(rng, height, width, cells), -1, 1)


def _glint(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A bright band across, from the lower left to the upper right, in [0, 1], float32 (height, width)."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    along = x / width + y / height - np.float32(rng.uniform(0.75, 1.1))
    return np.exp(-((along / np.float32(rng.uniform(0.08, 0.14))) ** 2))


def _courses(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Level stripes, as of masonry, in [-1, 1], float32 (height, width)."""
    y = np.arange(height, dtype=np.float32)[:, None] / np.float32(rng.uniform(1.1, 1.7))
    return np.sin(y + np.float32(rng.uniform(0, 6))) + np.zeros((1, width), np.float32)


@dataclass(frozen=True, slots=True)
class Finish:
    """How the surface of a supercategory's objects looks.

    Attributes:
        outline: probabilities of an outline of 0, 1, 2 and 3 pixels.
        texture: what modulates the light, float32 (height, width) for a generator, height and width, and the range of
            its strength; None: at most a faint pattern.
    """

    outline: tuple[float, float, float, float] = (0.35, 0.25, 0.3, 0.1)
    texture: tuple[Callable[[np.random.Generator, int, int], np.ndarray], float, float] | None = None


# By supercategory.
FINISHES = {
    "shape": Finish(outline=(0.5, 0.3, 0.2, 0.0)),
    "symbol": Finish(outline=(0.0, 0.0, 0.4, 0.6)),
    "landmark": Finish(texture=(_courses, 0.06, 0.14)),
    "living thing": Finish(texture=(_mottles, 0.12, 0.26)),
    "household item": Finish(texture=(_glint, 0.25, 0.5)),
}


def paint(
    rng: np.random.Generator, canvas: np.ndarray, parts: list[tuple[str, list[np.ndarray]]], finish: Finish
) -> np.ndarray:
    """Paints one object onto `canvas`, float32 (H, W, 3), BGR, in place.

    Args:
        parts: tone and contours, float (n, 2) each, in pixels, from back to front.

    Returns:
        The object's mask, bool (H, W), as nothing hid it.
    """
    height, width = canvas.shape[:2]
    points = np.concatenate([c for _, contours in parts for c in contours])
    margin = 6
    x0, y0 = (int(v) for v in np.maximum(np.floor(points.min(axis=0)) - margin, 0))
    x1, y1 = (int(v) for v in np.minimum(np.ceil(points.max(axis=0)) + margin, (width, height)))
    window = canvas[y0:y1, x0:x1]
    h, w = window.shape[:2]
    local = [(tone, [c - (x0, y0) for c in contours]) for tone, contours in parts]
    thickness = int(rng.choice(4, p=finish.outline))
    colours = _palette(rng, window.reshape(-1, 3).mean(axis=0))

    light = 1 + rng.uniform(0, 0.5) * (_ramp(rng, h, w) - 0.5)
    if finish.texture is not None:
        texture, least, most = finish.texture
        light = light + rng.uniform(least, most) * texture(rng, h, w)
    elif rng.random() < 0.35:
        light = light + rng.uniform(0.04, 0.14) * _pattern(rng, h, w)
    layers = []
    for tone, contours in local:
        layers.append((colours[tone], coverage(contours, h, w)))
        if thickness and tone != "detail":
            layers.append((colours["edge"], _outlined(contours, h, w, thickness)))
    silhouette = np.maximum.reduce([mask for _, mask in layers])

    if rng.random() < 0.45:
        dx, dy = (int(v) for v in rng.integers(-5, 6, 2))
        moved = cv2.warpAffine(silhouette, np.array([[1, 0, dx], [0, 1, dy]], np.float32), (w, h))
        blurred = cv2.GaussianBlur(moved, (0, 0), float(rng.uniform(1.0, 2.5))).astype(np.float32) / 255
        window *= 1 - np.float32(rng.uniform(0.15, 0.45)) * blurred[..., None]
    for colour, mask in layers:
        alpha = (mask.astype(np.float32) / 255)[..., None]
        window *= 1 - alpha
        window += alpha * np.clip(light[..., None] * colour.astype(np.float32), 0, 255)

    whole = np.zeros((height, width), bool)
    whole[y0:y1, x0:x1] = silhouette >= 128
    return whole


def photographed(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """The canvas, float32 (H, W, 3), as a camera sees it: with light, blur and sensor noise; uint8 (H, W, 3), BGR."""
    height, width = canvas.shape[:2]
    canvas = canvas * (1 + rng.uniform(0, 0.35) * (_ramp(rng, height, width) - 0.5))[..., None]
    canvas = (canvas - 128) * rng.uniform(0.8, 1.1) + 128 + rng.uniform(-14, 14)
    if rng.random() < 0.5:
        canvas = cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.3, 0.9)))
    if rng.random() < 0.7:
        canvas = canvas + rng.uniform(0, 5) * rng.standard_normal((height, width, 3), dtype=np.float32)
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8)
