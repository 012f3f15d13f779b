"""Draws the demo's scenes: 18 kinds of object on cluttered backgrounds, in COCO's layout.

    python -m plgen_ddp.demo.scenes --num 100 --seed 300000 --out out/scenes

writes

    out/scenes/annotations/instances_demo.json      images, 18 categories, one annotation an object (base and novel)
    out/scenes/demo/000000000001.jpg ...

which the demo's config takes through `data.annotations` and `data.image_root`. Drawing costs about 10 ms a scene and
a JPEG about 17 KB.

Scene i of a set is drawn from the seed S + i alone, so sets whose seeds do not overlap share no scene. `SEEDS` says
which seeds serve which purpose; what is meant to measure the models must stay out of "train" and "val". The same seed
gives the same pixels and the same annotations under the same versions of OpenCV and NumPy; other versions may move
an edge by a grey level.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

__all__ = ["BASE", "CATEGORIES", "NOVEL", "SEEDS", "SceneImage", "SceneObject", "draw_scene", "main", "write_scenes"]

BASE = (
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "hexagon",
    "ring",
    "arrow",
    "house",
    "tree",
    "flag",
    "moon",
)
NOVEL = ("heart", "fish", "mushroom", "umbrella", "key", "cup")

#: COCO category id of each name. Alphabetical, so base and novel ids interleave as they do in COCO.
CATEGORIES = {name: number for number, name in enumerate(sorted(BASE + NOVEL), start=1)}

#: Which seeds serve what. "train" and "val" may be used freely; "embedded" are the scenes shipped with the package;
#: "test" is for final figures and nothing else.
SEEDS = {
    "train": range(100_000),
    "val": range(100_000, 200_000),
    "embedded": range(200_000, 200_048),
    "test": range(300_000, 400_000),
}

SUPERCATEGORIES = {
    "nature": ("moon", "tree", "fish", "mushroom"),
    "artefact": ("arrow", "flag", "house", "cup", "key", "umbrella"),
    "figure": ("circle", "cross", "heart", "hexagon", "ring", "square", "star", "triangle"),
}

SIZES_WH = ((320, 240), (256, 256), (288, 224), (240, 320))  # pixels
OBJECT_SIZE = (26.0, 110.0)  # longest side before shear, pixels
OBJECTS = (3, 8)  # tried a scene, both inclusive
MIN_VISIBLE = 0.75  # of an object's own area inside the image, after occlusion
MAX_ASPECT = 1.9  # of a visible box: a longer one loses its ends to CLIP's centre crop
JPEG_QUALITY = 88
SHIFT = 4  # OpenCV's fixed-point bits for sub-pixel vertices
UPSAMPLE = 4  # mask magnification before contours are followed: pixel edges to 1/8 pixel
CRUMB = 8  # square pixels: a separate visible piece smaller than this is dropped
OUTLINE_TOLERANCE = 0.9  # pixels a polygon may stray from the mask's edge


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object as it is seen.

    name: one of BASE + NOVEL
    box_xywh: tight box of the visible pixels, whole pixels
    polygons: COCO polygons [x0, y0, x1, y1, ...] of the visible mask, pixels; a piece hidden behind another object
        splits it
    area: what the polygons enclose, square pixels
    """

    name: str
    box_xywh: tuple[int, int, int, int]
    polygons: tuple[tuple[float, ...], ...]
    area: float


@dataclass(frozen=True, slots=True)
class SceneImage:
    """pixels: uint8 (H, W, 3), BGR; objects: from back to front."""

    pixels: np.ndarray
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """Closed contours in unit coordinates (x right, y down, about [-1, 1]); where contours overlap there is a hole."""

    contours: tuple[np.ndarray, ...]
    tone: str  # "body", "accent" or "detail": which of the object's three colours


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, stop: float, count: int = 32) -> np.ndarray:
    """Points of an elliptic arc, (count, 2), angles in degrees from +x towards +y (down)."""
    angle = np.radians(np.linspace(start, stop, count))
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], axis=1)


def _box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=float)


def _regular(sides: int, radius: float = 1.0, inner: float | None = None) -> np.ndarray:
    """A regular polygon with a corner on top, or a star if an inner radius is given."""
    count = sides if inner is None else 2 * sides
    angle = np.radians(-90 + 360 * np.arange(count) / count)
    radii = np.full(count, radius)
    if inner is not None:
        radii[1::2] = inner
    return np.stack([radii * np.cos(angle), radii * np.sin(angle)], axis=1)


def _circle(rng: np.random.Generator) -> list[_Part]:
    return [_Part((_arc(0, 0, 1, 1, 0, 360, 48),), "body")]


def _square(rng: np.random.Generator) -> list[_Part]:
    return [_Part((_box(-0.9, -0.9, 0.9, 0.9),), "body")]


def _triangle(rng: np.random.Generator) -> list[_Part]:
    return [_Part((np.array([(rng.uniform(-0.35, 0.35), -0.9), (0.95, 0.8), (-0.95, 0.8)]),), "body")]


def _star(rng: np.random.Generator) -> list[_Part]:
    return [_Part((_regular(5, inner=rng.uniform(0.38, 0.5)),), "body")]


def _cross(rng: np.random.Generator) -> list[_Part]:
    arm = rng.uniform(0.25, 0.38)
    quarter = np.array([(-arm, -1), (arm, -1), (arm, -arm)])
    points = [quarter]
    for _ in range(3):
        points.append(points[-1] @ np.array([(0, 1), (-1, 0)]))
    return [_Part((np.concatenate(points),), "body")]


def _hexagon(rng: np.random.Generator) -> list[_Part]:
    return [_Part((_regular(6),), "body")]


def _ring(rng: np.random.Generator) -> list[_Part]:
    hole = rng.uniform(0.5, 0.68)
    return [_Part((_arc(0, 0, 1, 1, 0, 360, 48), _arc(0, 0, hole, hole, 0, 360, 40)), "body")]


def _arrow(rng: np.random.Generator) -> list[_Part]:
    shaft, head, neck = rng.uniform(0.2, 0.32), rng.uniform(0.6, 0.8), rng.uniform(-0.1, 0.15)
    upper = np.array([(-1, -shaft), (neck, -shaft), (neck, -head), (1, 0)])
    return [_Part((np.concatenate([upper, (upper * (1, -1))[2::-1]]),), "body")]


def _house(rng: np.random.Generator) -> list[_Part]:
    eaves, door = rng.uniform(-0.2, 0.0), rng.uniform(-0.35, 0.15)
    return [
        _Part((_box(-0.75, eaves, 0.75, 0.95),), "body"),
        _Part((np.array([(-0.98, eaves), (0, -0.95), (0.98, eaves)]),), "accent"),
        _Part((_box(door, 0.4, door + 0.32, 0.95),), "detail"),
    ]


def _tree(rng: np.random.Generator) -> list[_Part]:
    trunk = _Part((_box(-0.16, 0.2, 0.16, 1.0),), "accent")
    if rng.random() < 0.5:
        lobes = [_arc(x, y, r, r, 0, 360, 28) for x, y, r in ((-0.38, 0.0, 0.45), (0.38, 0.0, 0.45), (0, -0.45, 0.55))]
        return [trunk, *(_Part((lobe,), "body") for lobe in lobes)]
    layers = [np.array([(-w, y + 0.62), (0, y), (w, y + 0.62)]) for w, y in ((0.8, -0.1), (0.66, -0.52), (0.5, -1.0))]
    return [trunk, *(_Part((layer,), "body") for layer in layers)]


def _flag(rng: np.random.Generator) -> list[_Part]:
    x = np.linspace(-0.62, 0.9, 16)
    wave = rng.uniform(0.0, 0.12) * np.sin(np.linspace(0, 2 * np.pi, 16) + rng.uniform(0, 2 * np.pi))
    lower = rng.uniform(0.05, 0.25)
    cloth = np.concatenate([np.stack([x, -0.85 + wave], 1), np.stack([x, lower + wave], 1)[::-1]])
    return [_Part((cloth,), "body"), _Part((_box(-0.8, -1.0, -0.58, 1.0),), "accent")]


def _moon(rng: np.random.Generator) -> list[_Part]:
    bite = rng.uniform(0.25, 0.5)
    outer = _arc(0, 0, 1, 1, 60, 300, 40)
    half = np.sin(np.radians(60))
    inner = _arc(0.5, 0, 1 - bite, half, 270, 90, 32)
    return [_Part((np.concatenate([outer, inner]),), "body")]


def _heart(rng: np.random.Generator) -> list[_Part]:
    t = np.linspace(0, 2 * np.pi, 56, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return [_Part((np.stack([x / 16.5, (y - 2.5) / 15.0], 1),), "body")]


def _fish(rng: np.random.Generator) -> list[_Part]:
    height, tail = rng.uniform(0.42, 0.56), rng.uniform(0.42, 0.58)
    fin = np.array([(-0.3, -0.75 * height), (0.1, -height - 0.25), (0.35, -0.7 * height)])
    return [
        _Part((fin,), "accent"),
        _Part((np.array([(0.3, 0.0), (1.0, -tail), (0.82, 0.0), (1.0, tail)]),), "accent"),
        _Part((_arc(-0.22, 0, 0.78, height, 0, 360, 44),), "body"),
        _Part((_arc(-0.62, -0.14, 0.11, 0.11, 0, 360, 20),), "detail"),
    ]


def _mushroom(rng: np.random.Generator) -> list[_Part]:
    brim, stem = rng.uniform(0.0, 0.15), rng.uniform(0.22, 0.34)
    foot = np.array([(-stem, brim), (stem, brim), (stem * 1.25, 0.95), (-stem * 1.25, 0.95)])
    spots = [(-0.45, -0.35, 0.16), (0.1, -0.62, 0.18), (0.5, -0.22, 0.14)]
    return [
        _Part((foot,), "accent"),
        _Part((_arc(0, brim, 0.98, 0.98, 180, 360, 40),), "body"),
        *(_Part((_arc(x, y + brim, r, r, 0, 360, 20),), "accent") for x, y, r in spots),
    ]


def _umbrella(rng: np.random.Generator) -> list[_Part]:
    rim = rng.uniform(-0.1, 0.05)
    dome = _arc(0, rim, 1.0, 0.9, 180, 360, 40)
    scallops = [_arc(x, rim, 0.25, 0.16, 0, -180, 10) for x in (0.75, 0.25, -0.25, -0.75)]
    hook = np.concatenate([_arc(0.27, 0.72, 0.35, 0.28, 180, 0, 14), _arc(0.27, 0.72, 0.17, 0.1, 0, 180, 14)])
    return [
        _Part((_box(-0.08, rim - 0.1, 0.1, 0.74),), "accent"),
        _Part((hook,), "accent"),
        _Part((np.concatenate([dome, *scallops]),), "body"),
    ]


def _key(rng: np.random.Generator) -> list[_Part]:
    bow, hole, shaft = rng.uniform(0.46, 0.56), rng.uniform(0.2, 0.27), rng.uniform(0.12, 0.16)
    tooth = rng.uniform(0.3, 0.42)
    x0 = bow - 1.0
    return [
        _Part((_box(x0 + 0.3, -shaft, 1.0, shaft),), "body"),
        _Part((_box(0.76, 0.0, 1.0, shaft + tooth),), "body"),
        _Part((_box(0.36, 0.0, 0.58, shaft + 0.8 * tooth),), "body"),
        _Part((_arc(-1 + bow, 0, bow, bow, 0, 360, 40), _arc(-1 + bow, 0, hole, hole, 0, 360, 28)), "body"),
    ]


def _cup(rng: np.random.Generator) -> list[_Part]:
    foot = rng.uniform(0.38, 0.55)
    body = np.concatenate([[(-0.95, -0.65), (0.4, -0.65)], [(foot - 0.28, 0.85), (-foot - 0.28, 0.85)]])
    handle = (_arc(0.38, -0.02, 0.58, 0.48, 0, 360, 36), _arc(0.38, -0.02, 0.32, 0.24, 0, 360, 28))
    return [
        _Part(handle, "accent"),
        _Part((body,), "body"),
        _Part((_arc(-0.275, -0.65, 0.675, 0.2, 0, 360, 36),), "detail"),
    ]


_SHAPES: dict[str, Callable[[np.random.Generator], list[_Part]]] = {
    "arrow": _arrow,
    "circle": _circle,
    "cross": _cross,
    "cup": _cup,
    "fish": _fish,
    "flag": _flag,
    "heart": _heart,
    "hexagon": _hexagon,
    "house": _house,
    "key": _key,
    "moon": _moon,
    "mushroom": _mushroom,
    "ring": _ring,
    "square": _square,
    "star": _star,
    "tree": _tree,
    "triangle": _triangle,
    "umbrella": _umbrella,
}


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


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
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


def _placed(rng: np.random.Generator, name: str, height: int, width: int) -> list[tuple[str, list[np.ndarray]]]:
    """One object's parts in image pixels: (tone, contours (n, 2) float), randomly sized, turned, sheared and placed."""
    parts = _SHAPES[name](rng)
    turn = np.radians(np.clip(rng.normal(0, 14), -40, 40))
    aspect = np.exp(rng.uniform(-0.2, 0.2))
    stretch = np.array([(aspect, rng.uniform(-0.15, 0.15)), (0.0, 1 / aspect)])
    mirror = np.diag([-1.0 if rng.random() < 0.5 else 1.0, 1.0])
    rotate = np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
    shape = rotate @ stretch @ mirror
    corners = np.concatenate([c for part in parts for c in part.contours]) @ shape.T
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = np.exp(rng.uniform(*np.log(OBJECT_SIZE)))
    scale = size / (high - low).max()
    half = scale * (high - low) / 2
    # up to a quarter of the box may lie outside the image
    overhang = half / 2 if rng.random() < 0.25 else np.zeros(2)
    span = np.array([width, height]) - 2 * (half - overhang)
    centre = half - overhang + rng.random(2) * np.maximum(span, 1)
    return [(part.tone, [(c @ shape.T - (low + high) / 2) * scale + centre for c in part.contours]) for part in parts]


def _coverage(contours: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Antialiased mask, uint8 (height, width). Vertices name pixel edges: (0, 0) is the image's corner."""
    mask = np.zeros((height, width), np.uint8)
    points = [np.round((c - 0.5) * (1 << SHIFT)).astype(np.int32) for c in contours]
    cv2.fillPoly(mask, points, 255, cv2.LINE_AA, SHIFT)
    return mask


def _outlined(contours: list[np.ndarray], height: int, width: int, thickness: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    points = [np.round((c - 0.5) * (1 << SHIFT)).astype(np.int32) for c in contours]
    cv2.polylines(mask, points, True, 255, thickness, cv2.LINE_AA, SHIFT)
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


def _paint(rng: np.random.Generator, canvas: np.ndarray, parts: list[tuple[str, list[np.ndarray]]]) -> np.ndarray:
    """Paint one object onto `canvas` (float32 (H, W, 3)) in place; returns its mask, bool (H, W), unoccluded."""
    height, width = canvas.shape[:2]
    points = np.concatenate([c for _, contours in parts for c in contours])
    margin = 6
    x0, y0 = (int(v) for v in np.maximum(np.floor(points.min(axis=0)) - margin, 0))
    x1, y1 = (int(v) for v in np.minimum(np.ceil(points.max(axis=0)) + margin, (width, height)))
    window = canvas[y0:y1, x0:x1]
    h, w = window.shape[:2]
    local = [(tone, [c - (x0, y0) for c in contours]) for tone, contours in parts]
    thickness = int(rng.choice([0, 1, 2, 3], p=[0.35, 0.25, 0.3, 0.1]))
    colours = _palette(rng, window.reshape(-1, 3).mean(axis=0))

    light = 1 + rng.uniform(0, 0.5) * (_ramp(rng, h, w) - 0.5)
    if rng.random() < 0.35:
        light = light + rng.uniform(0.04, 0.14) * _pattern(rng, h, w)
    layers = []
    for tone, contours in local:
        layers.append((colours[tone], _coverage(contours, h, w)))
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


def _finish(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Lighting, blur and sensor noise over the whole scene; uint8 (H, W, 3), BGR."""
    height, width = canvas.shape[:2]
    canvas = canvas * (1 + rng.uniform(0, 0.35) * (_ramp(rng, height, width) - 0.5))[..., None]
    canvas = (canvas - 128) * rng.uniform(0.8, 1.1) + 128 + rng.uniform(-14, 14)
    if rng.random() < 0.5:
        canvas = cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.3, 0.9)))
    if rng.random() < 0.7:
        canvas = canvas + rng.uniform(0, 5) * rng.standard_normal((height, width, 3), dtype=np.float32)
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8)


def _visible(name: str, mask: np.ndarray) -> SceneObject:
    """Describe the visible pixels of an object, bool mask (H, W). Crumbs left over by occlusion are no part of it."""
    x0, y0, width, height = _tight_box(mask)
    tight = mask[y0 : y0 + height, x0 : x0 + width].astype(np.uint8)
    large = cv2.resize(tight, None, fx=UPSAMPLE, fy=UPSAMPLE, interpolation=cv2.INTER_NEAREST)
    found, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    pieces = [c for c in found if cv2.contourArea(c) >= CRUMB * UPSAMPLE**2]
    pieces.sort(key=cv2.contourArea, reverse=True)
    left, top, across, down = cv2.boundingRect(np.concatenate(pieces))
    box = (x0 + left // UPSAMPLE, y0 + top // UPSAMPLE, across // UPSAMPLE, down // UPSAMPLE)
    outlines = [cv2.approxPolyDP(piece, OUTLINE_TOLERANCE * UPSAMPLE, True) for piece in pieces]
    edges = [(outline.reshape(-1, 2) + 0.5) / UPSAMPLE + (x0, y0) for outline in outlines if len(outline) >= 3]
    polygons = tuple(tuple(round(float(v), 1) for v in points.ravel()) for points in edges)
    area = sum(cv2.contourArea(points.astype(np.float32)) for points in edges)
    return SceneObject(name, box, polygons, round(area, 1))


def _tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Tight (x, y, width, height) of a bool mask (H, W) with at least one pixel set."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(xs[0]), int(ys[0]), int(xs[-1] - xs[0] + 1), int(ys[-1] - ys[0] + 1)


def _fits(owner: np.ndarray, areas: list[float]) -> bool:
    """Whether every object still shows MIN_VISIBLE of its full area and no box is longer than MAX_ASPECT."""
    for number, area in enumerate(areas):
        mask = owner == number
        if np.count_nonzero(mask) < MIN_VISIBLE * area:
            return False
        _, _, width, height = _tight_box(mask)
        if max(width, height) > MAX_ASPECT * min(width, height):
            return False
    return True


def draw_scene(seed: int) -> SceneImage:
    """Draw the scene of one seed. Deterministic; takes about 10 ms."""
    rng = np.random.default_rng(seed)
    width, height = SIZES_WH[rng.integers(len(SIZES_WH))]
    canvas = _background(rng, height, width)
    names: list[str] = []
    areas: list[float] = []
    owner = np.full((height, width), -1, np.int16)
    pad = int(OBJECT_SIZE[1])
    for _ in range(int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))):
        name = (BASE + NOVEL)[rng.integers(len(BASE) + len(NOVEL))]
        for _attempt in range(10):
            parts = _placed(rng, name, height, width)
            shifted = [c + pad for _, contours in parts for c in contours]
            full = np.zeros((height + 2 * pad, width + 2 * pad), np.uint8)
            for contour in shifted:
                cv2.fillPoly(full, [np.round(contour).astype(np.int32)], 1)
            trial = owner.copy()
            trial[full[pad:-pad, pad:-pad] > 0] = len(names)
            if _fits(trial, [*areas, float(np.count_nonzero(full))]):
                whole = _paint(rng, canvas, parts)
                owner[whole] = len(names)
                names.append(name)
                areas.append(float(np.count_nonzero(full)))
                break
    objects = tuple(_visible(name, owner == number) for number, name in enumerate(names))
    return SceneImage(_finish(rng, canvas), objects)


def write_scenes(out: Path, num: int, seed: int, split: str = "demo") -> Path:
    """Draw `num` scenes from the seeds seed .. seed + num - 1 into `out` in COCO's layout.

    Returns the annotation file, `out`/annotations/instances_`split`.json. Files of the same name are overwritten.
    """
    annotations_dir, images_dir = out / "annotations", out / split
    annotations_dir.mkdir(parents=True, exist_ok=True)
    images_dir.mkdir(parents=True, exist_ok=True)
    super_of = {name: group for group, names in SUPERCATEGORIES.items() for name in names}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, num + 1):
        scene = draw_scene(seed + image_id - 1)
        height, width = scene.pixels.shape[:2]
        file_name = f"{image_id:012d}.jpg"
        encoded, data = cv2.imencode(".jpg", scene.pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        assert encoded
        (images_dir / file_name).write_bytes(data.tobytes())
        images.append(
            {
                "id": image_id,
                "file_name": file_name,
                "width": width,
                "height": height,
                "coco_url": f"http://example.org/{split}/{file_name}",
            }
        )
        for item in scene.objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CATEGORIES[item.name],
                    "bbox": list(item.box_xywh),
                    "area": item.area,
                    "segmentation": [list(polygon) for polygon in item.polygons],
                    "iscrowd": 0,
                }
            )
    content = {
        "info": {"description": "drawn scenes of plgen_ddp.demo", "seeds": [seed, seed + num - 1]},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": super_of[name]} for name, number in CATEGORIES.items()
        ],
    }
    path = annotations_dir / f"instances_{split}.json"
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")
    return path


def main(argv: list[str] | None = None) -> None:
    """Command line of `python -m plgen_ddp.demo.scenes`."""
    parser = argparse.ArgumentParser(
        prog="python -m plgen_ddp.demo.scenes",
        description="Draw scenes with 12 base and 6 novel names, in COCO's layout.",
        epilog="Seeds: " + "; ".join(f"{use} {seeds.start} to {seeds.stop - 1}" for use, seeds in SEEDS.items()),
    )
    parser.add_argument("--num", type=int, required=True, help="number of scenes, at least 1")
    parser.add_argument("--seed", type=int, required=True, help="seed of the first scene; scene i takes SEED + i")
    parser.add_argument("--out", type=Path, required=True, help="folder for annotations/ and the images' folder")
    parser.add_argument("--split", default="demo", help="name of the images' folder and of the file (default: demo)")
    args = parser.parse_args(argv)
    if args.num < 1:
        parser.error(f"--num {args.num}: at least one scene is needed")
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: seeds start at 0")
    if Path(args.split).name != args.split:
        parser.error(f"--split {args.split}: a plain name is needed, without a folder")
    path = write_scenes(args.out, args.num, args.seed, args.split)
    wanted = range(args.seed, args.seed + args.num)
    used = [use for use, seeds in SEEDS.items() if max(wanted.start, seeds.start) < min(wanted.stop, seeds.stop)]
    print(f"{args.num} scenes, seeds {wanted.start} to {wanted.stop - 1} ({', '.join(used) or 'free'})")
    print(f"  data.annotations={path}\n  data.image_root={args.out}")


if __name__ == "__main__":
    main()
