"""Draws the demo's scenes: objects of 18 names on cluttered backgrounds, in COCO's layout.

    python -m plgen_ddp.demo.scenes --num 100 --seed 300000 --out out/scenes

writes

    out/scenes/annotations/instances_demo.json      images, 18 categories, one annotation an object (base and novel)
    out/scenes/demo/000000000001.jpg ...

which the demo's config takes through `data.annotations` and `data.image_root`. Drawing costs about 15 ms a scene and
a JPEG about 10 KB.

Names have a hierarchy that the drawings show. Each object is drawn as one of the three kinds of its name (`KINDS`: a
cup is a mug, a teacup or a goblet), and objects of one supercategory share a finish (`SUPERS`). Annotations give the
name.

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

__all__ = [
    "BASE",
    "CATEGORIES",
    "CHOICE",
    "KINDS",
    "NOVEL",
    "SEEDS",
    "SUPERS",
    "SceneImage",
    "SceneObject",
    "draw_scene",
    "main",
    "write_scenes",
]

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

#: Of "val", the 300 scenes on which rules, thresholds and trainings are chosen. The models' own validation sets come
#: before them.
CHOICE = range(110_000, 110_300)

#: More general names of each name. The first is its COCO supercategory, and objects of one supercategory are finished
#: alike (`_Finish`), so that a crop shows it: living things are mottled, symbols boldly outlined, and so on.
SUPERS = {
    "circle": ("shape", "round thing"),
    "square": ("shape", "polygon"),
    "triangle": ("shape", "polygon"),
    "hexagon": ("shape", "polygon"),
    "ring": ("shape", "round thing"),
    "star": ("symbol", "ornament"),
    "cross": ("symbol", "sign"),
    "arrow": ("symbol", "sign"),
    "heart": ("symbol", "ornament"),
    "house": ("landmark", "building"),
    "flag": ("landmark", "signal"),
    "moon": ("landmark", "round thing"),
    "tree": ("living thing", "plant"),
    "fish": ("living thing", "animal", "food"),
    "mushroom": ("living thing", "plant", "food"),
    "umbrella": ("household item", "gear"),
    "key": ("household item", "tool"),
    "cup": ("household item", "tool", "vessel"),
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

    name: one of BASE + NOVEL; the only one of its names that the annotations give
    kind: one of KINDS[name]; known to whoever draws, not in the annotations
    box_xywh: tight box of the visible pixels, whole pixels
    polygons: COCO polygons [x0, y0, x1, y1, ...] of the visible mask, pixels; a piece hidden behind another object
        splits it
    area: what the polygons enclose, square pixels
    """

    name: str
    kind: str
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


def _disc(x: float, y: float, radius: float, count: int = 24) -> np.ndarray:
    return _arc(x, y, radius, radius, 0, 360, count)


def _points(*corners: tuple[float, float]) -> np.ndarray:
    return np.array(corners, dtype=float)


def _sector(radius: float, start: float, stop: float, inner: float = 0.0) -> np.ndarray:
    """A slice of a disc around the origin, or of a ring if an inner radius is given."""
    outer = _arc(0, 0, radius, radius, start, stop, 14)
    return np.concatenate([outer, _arc(0, 0, inner, inner, stop, start, 14)])


def _turned(contour: np.ndarray, degrees: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """`contour` turned about the origin, from +x towards +y, then moved by (x, y)."""
    angle = np.radians(degrees)
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    return contour @ turn + (x, y)


def _ring_of(x: float, y: float, radius: float, hole: float) -> tuple[np.ndarray, np.ndarray]:
    return _disc(x, y, radius, 40), _disc(x, y, hole, 32)


def _disc_plain(rng: np.random.Generator) -> list[_Part]:
    return [_Part((_disc(0, 0, 1, 48),), "body")]


def _ball(rng: np.random.Generator) -> list[_Part]:
    turn = rng.uniform(0, 120)
    slices = [_Part((_sector(0.98, turn + at, turn + at + 60),), "accent") for at in (0, 120, 240)]
    return [_Part((_disc(0, 0, 1, 48),), "body"), *slices]


def _button(rng: np.random.Generator) -> list[_Part]:
    at = rng.uniform(0.18, 0.24)
    holes = [_Part((_disc(x * at, y * at, 0.13),), "detail") for x in (-1, 1) for y in (-1, 1)]
    rim = _Part(_ring_of(0, 0, 0.78, 0.62), "accent")
    return [_Part((_disc(0, 0, 1, 48),), "body"), rim, *holes]


def _tile(rng: np.random.Generator) -> list[_Part]:
    return [_Part((_box(-0.9, -0.9, 0.9, 0.9),), "body")]


def _dice(rng: np.random.Generator) -> list[_Part]:
    spots = [(-0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (0.5, -0.5), (0.0, 0.0)][: int(rng.integers(4, 6))]
    return [*_tile(rng), *(_Part((_disc(x, y, 0.2),), "detail") for x, y in spots)]


def _window(rng: np.random.Generator) -> list[_Part]:
    bar, frame = rng.uniform(0.07, 0.12), 0.72
    panes = [
        _box(min(x, frame * x / bar), min(y, frame * y / bar), max(x, frame * x / bar), max(y, frame * y / bar))
        for x in (-bar, bar)
        for y in (-bar, bar)
    ]
    return [*_tile(rng), *(_Part((pane,), "detail") for pane in panes)]


def _wedge(rng: np.random.Generator) -> list[_Part]:
    return [_Part((_points((-0.9, 0.85), (0.95, 0.85), (-0.9, rng.uniform(-0.9, -0.6))),), "body")]


def _pyramid(rng: np.random.Generator) -> list[_Part]:
    apex, edge = (rng.uniform(-0.2, 0.2), -0.9), (rng.uniform(0.2, 0.4), 0.95)
    return [
        _Part((_points(apex, edge, (-0.98, 0.75)),), "body"),
        _Part((_points(apex, (0.98, 0.6), edge),), "accent"),
    ]


def _warning_sign(rng: np.random.Generator) -> list[_Part]:
    inner = rng.uniform(0.66, 0.74)
    outer = _points((0, -0.95), (1, 0.8), (-1, 0.8))
    return [
        _Part((outer,), "body"),
        _Part(((outer - (0, 0.22)) * inner + (0, 0.22),), "accent"),
        _Part((_points((-0.11, -0.3), (0.11, -0.3), (0.05, 0.3), (-0.05, 0.3)),), "detail"),
        _Part((_disc(0, 0.5, 0.1),), "detail"),
    ]


def _sparkle(rng: np.random.Generator) -> list[_Part]:
    return [_Part((_regular(4, inner=rng.uniform(0.28, 0.38)),), "body")]


def _pentagram(rng: np.random.Generator) -> list[_Part]:
    return [_Part((_regular(5, inner=rng.uniform(0.38, 0.5)),), "body")]


def _sunburst(rng: np.random.Generator) -> list[_Part]:
    return [_Part((_regular(9, inner=rng.uniform(0.62, 0.7)),), "body"), _Part((_disc(0, 0, 0.38),), "accent")]


def _plus(rng: np.random.Generator) -> list[_Part]:
    arm = rng.uniform(0.25, 0.38)
    quarter = np.array([(-arm, -1), (arm, -1), (arm, -arm)])
    points = [quarter]
    for _ in range(3):
        points.append(points[-1] @ np.array([(0, 1), (-1, 0)]))
    return [_Part((np.concatenate(points),), "body")]


def _saltire(rng: np.random.Generator) -> list[_Part]:
    return [_Part((_turned(_plus(rng)[0].contours[0], 45),), "body")]


def _crucifix(rng: np.random.Generator) -> list[_Part]:
    arm, bar = rng.uniform(0.16, 0.24), rng.uniform(-0.5, -0.3)
    left = _points((-arm, -1), (-arm, bar - arm), (-0.74, bar - arm), (-0.74, bar + arm), (-arm, bar + arm), (-arm, 1))
    return [_Part((np.concatenate([left, (left * (-1, 1))[::-1]]),), "body")]


def _nut(rng: np.random.Generator) -> list[_Part]:
    return [_Part((_regular(6), _disc(0, 0, rng.uniform(0.4, 0.52), 32)), "body")]


def _honeycomb(rng: np.random.Generator) -> list[_Part]:
    return [_Part((_regular(6),), "body"), _Part((_regular(6, rng.uniform(0.5, 0.66)),), "accent")]


def _prism(rng: np.random.Generator) -> list[_Part]:
    corners = _regular(6)
    middle = np.zeros((1, 2))
    return [
        _Part((corners,), "body"),
        _Part((np.concatenate([corners[[5, 0, 1]], middle]),), "accent"),
        _Part((np.concatenate([corners[[1, 2, 3]], middle]),), "detail"),
    ]


def _hoop(rng: np.random.Generator) -> list[_Part]:
    return [_Part(_ring_of(0, 0, 1, rng.uniform(0.66, 0.74)), "body")]


def _donut(rng: np.random.Generator) -> list[_Part]:
    crumb, first = _box(-0.11, -0.045, 0.11, 0.045), rng.uniform(0, 51)
    spots = [(0.7 + 0.1 * (-1) ** k, first + 51.4 * k) for k in range(7)]
    sprinkles = [_turned(crumb, 77 * at, r * np.cos(np.radians(at)), r * np.sin(np.radians(at))) for r, at in spots]
    hole = rng.uniform(0.36, 0.44)
    return [_Part(_ring_of(0, 0, 1, hole), "body"), *(_Part((sprinkle,), "detail") for sprinkle in sprinkles)]


def _lifebuoy(rng: np.random.Generator) -> list[_Part]:
    hole, turn = rng.uniform(0.48, 0.58), rng.uniform(0, 90)
    bands = [_sector(0.99, turn + at, turn + at + 38, hole + 0.01) for at in (0, 90, 180, 270)]
    return [_Part(_ring_of(0, 0, 1, hole), "body"), *(_Part((band,), "accent") for band in bands)]


def _pointer(rng: np.random.Generator) -> list[_Part]:
    shaft, head, neck = rng.uniform(0.2, 0.32), rng.uniform(0.66, 0.8), rng.uniform(-0.1, 0.15)
    upper = np.array([(-1, -shaft), (neck, -shaft), (neck, -head), (1, 0)])
    return [_Part((np.concatenate([upper, (upper * (1, -1))[2::-1]]),), "body")]


def _dart(rng: np.random.Generator) -> list[_Part]:
    tail = rng.uniform(0.55, 0.68)
    return [
        _Part((_box(-0.75, -0.11, 0.5, 0.11),), "body"),
        _Part((_points((1, 0), (0.3, -0.5), (0.45, 0), (0.3, 0.5)),), "body"),
        _Part((_points((-1, -tail), (-0.3, -0.11), (-0.3, 0.11), (-1, tail), (-0.7, 0)),), "accent"),
    ]


def _chevron(rng: np.random.Generator) -> list[_Part]:
    step = rng.uniform(0.68, 0.78)
    wing = _points((-0.95, -0.8), (-0.5, -0.8), (0.2, 0), (-0.5, 0.8), (-0.95, 0.8), (-0.25, 0))
    return [_Part((wing,), "body"), _Part((np.add(wing, (step, 0)),), "body")]


def _cottage(rng: np.random.Generator) -> list[_Part]:
    eaves, door = rng.uniform(-0.2, 0.0), rng.uniform(-0.35, 0.15)
    return [
        _Part((_box(-0.75, eaves, 0.75, 0.95),), "body"),
        _Part((np.array([(-0.98, eaves), (0, -0.95), (0.98, eaves)]),), "accent"),
        _Part((_box(door, 0.4, door + 0.32, 0.95),), "detail"),
    ]


def _barn(rng: np.random.Generator) -> list[_Part]:
    eaves, knee = rng.uniform(-0.2, 0.0), rng.uniform(0.62, 0.76)
    return [
        _Part((_box(-0.85, eaves, 0.85, 0.9),), "body"),
        _Part((_points((-0.98, eaves), (-knee, -0.62), (0, -0.95), (knee, -0.62), (0.98, eaves)),), "accent"),
        _Part((_box(-0.42, 0.25, 0.42, 0.9),), "detail"),
        _Part((_disc(0, -0.45, 0.17),), "detail"),
    ]


def _castle(rng: np.random.Generator) -> list[_Part]:
    wall = rng.uniform(-0.25, 0.0)
    teeth = [_Part((_box(x, -0.95, x + 0.16, -0.6),), "accent") for x in (-1.0, -0.66, 0.5, 0.84)]
    gate = np.concatenate([_arc(0, 0.5, 0.24, 0.26, 180, 360, 14), [(0.24, 0.92), (-0.24, 0.92)]])
    return [
        _Part((_box(-0.6, wall, 0.6, 0.92),), "body"),
        *teeth,
        *(_Part((_box(x, -0.66, x + 0.5, 0.92),), "accent") for x in (-1.0, 0.5)),
        _Part((gate,), "detail"),
    ]


def _oak(rng: np.random.Generator) -> list[_Part]:
    trunk = _Part((_box(-0.16, 0.2, 0.16, 1.0),), "accent")
    lobes = [_disc(x, y, r, 28) for x, y, r in ((-0.38, 0.0, 0.45), (0.38, 0.0, 0.45), (0, -0.45, 0.55))]
    return [trunk, *(_Part((lobe,), "body") for lobe in lobes)]


def _pine(rng: np.random.Generator) -> list[_Part]:
    trunk = _Part((_box(-0.16, 0.2, 0.16, 1.0),), "accent")
    layers = [np.array([(-w, y + 0.62), (0, y), (w, y + 0.62)]) for w, y in ((0.8, -0.1), (0.66, -0.52), (0.5, -1.0))]
    return [trunk, *(_Part((layer,), "body") for layer in layers)]


def _palm(rng: np.random.Generator) -> list[_Part]:
    lean = rng.uniform(-0.25, 0.25)
    trunk = _points((lean - 0.1, -0.4), (lean + 0.1, -0.4), (0.17, 1.0), (-0.17, 1.0))
    leaf = np.concatenate([_arc(0.45, 0.1, 0.45, 0.24, 180, 360, 16), _arc(0.45, 0.1, 0.45, 0.06, 360, 180, 12)])
    leaves = [_turned(leaf, at, lean, -0.45) for at in (25, -20, -65)]
    mirrored = [_turned(leaf * (-1, 1), at, lean, -0.45) for at in (-25, 20, 65)]
    nuts = [_Part((_disc(lean + x, -0.34, 0.1),), "detail") for x in (-0.12, 0.12)]
    return [_Part((trunk,), "accent"), *(_Part((one,), "body") for one in (*leaves, *mirrored)), *nuts]


def _pole() -> _Part:
    return _Part((_box(-0.8, -1.0, -0.6, 1.0),), "accent")


def _ensign(rng: np.random.Generator) -> list[_Part]:
    x = np.linspace(-0.62, 0.9, 16)
    wave = rng.uniform(0.0, 0.12) * np.sin(np.linspace(0, 2 * np.pi, 16) + rng.uniform(0, 2 * np.pi))
    lower = rng.uniform(0.1, 0.25)
    cloth = np.concatenate([np.stack([x, -0.85 + wave], 1), np.stack([x, lower + wave], 1)[::-1]])
    return [_Part((cloth,), "body"), _pole()]


def _pennant(rng: np.random.Generator) -> list[_Part]:
    lower = rng.uniform(0.1, 0.25)
    middle = lower / 2 - 0.45
    return [_Part((_points((-0.62, -0.95), (0.95, middle), (-0.62, lower)),), "body"), _pole()]


def _swallowtail(rng: np.random.Generator) -> list[_Part]:
    lower, notch = rng.uniform(0.1, 0.25), rng.uniform(0.15, 0.35)
    middle = (lower - 0.9) / 2
    cloth = _points((-0.62, -0.9), (0.9, -0.9), (notch, middle), (0.9, lower), (-0.62, lower))
    stripe = _points(
        (-0.62, middle - 0.16),
        (notch + 0.24, middle - 0.16),
        (notch, middle),
        (notch + 0.24, middle + 0.16),
        (-0.62, middle + 0.16),
    )
    return [_Part((cloth,), "body"), _Part((stripe,), "detail"), _pole()]


def _crescent(rng: np.random.Generator) -> list[_Part]:
    bite = rng.uniform(0.25, 0.5)
    outer = _arc(0, 0, 1, 1, 60, 300, 40)
    half = np.sin(np.radians(60))
    inner = _arc(0.5, 0, 1 - bite, half, 270, 90, 32)
    return [_Part((np.concatenate([outer, inner]),), "body")]


def _gibbous(rng: np.random.Generator) -> list[_Part]:
    outline = np.concatenate([_arc(0, 0, 1, 1, 90, 270, 32), _arc(0, 0, rng.uniform(0.3, 0.5), 1, 270, 450, 32)])
    craters = [(-0.5, -0.3, 0.17), (-0.15, 0.3, 0.2), (-0.1, -0.55, 0.12)]
    return [_Part((outline,), "body"), *(_Part((_disc(x, y, r),), "detail") for x, y, r in craters)]


def _eclipse(rng: np.random.Generator) -> list[_Part]:
    shadow = rng.uniform(0.66, 0.76)
    return [_Part((_disc(0, 0, 1, 48),), "body"), _Part((_disc(0.98 - shadow, 0, shadow, 40),), "detail")]


def _heart_outline(scale: float = 1.0, y: float = 0.0) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 56, endpoint=False)
    down = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([16 * np.sin(t) ** 3 / 16.5, (down - 2.5) / 15.0], 1) * scale + (0, y)


def _valentine(rng: np.random.Generator) -> list[_Part]:
    return [_Part((_heart_outline(),), "body")]


def _locket(rng: np.random.Generator) -> list[_Part]:
    return [
        _Part(_ring_of(0, -0.78, 0.3, 0.15), "accent"),
        _Part((_heart_outline(),), "body"),
        _Part((_heart_outline(rng.uniform(0.5, 0.62), -0.02),), "accent"),
    ]


def _heartbreak(rng: np.random.Generator) -> list[_Part]:
    x = rng.uniform(0.12, 0.2) * np.array([0, 1, -1, 1, -0.6, 0.2])
    y = np.array([-0.55, -0.25, 0.0, 0.28, 0.55, 0.8])
    crack = np.concatenate([np.stack([x - 0.08, y], 1), np.stack([x + 0.08, y], 1)[::-1]])
    return [_Part((_heart_outline(),), "body"), _Part((crack,), "detail")]


def _goldfish(rng: np.random.Generator) -> list[_Part]:
    height, tail = rng.uniform(0.46, 0.58), rng.uniform(0.5, 0.65)
    fin = np.array([(-0.3, -0.75 * height), (0.1, -height - 0.25), (0.35, -0.7 * height)])
    return [
        _Part((fin,), "accent"),
        _Part((np.array([(0.3, 0.0), (1.0, -tail), (0.82, 0.0), (1.0, tail)]),), "accent"),
        _Part((_arc(-0.22, 0, 0.78, height, 0, 360, 44),), "body"),
        _Part((_arc(-0.62, -0.14, 0.11, 0.11, 0, 360, 20),), "detail"),
    ]


def _shark(rng: np.random.Generator) -> list[_Part]:
    height, fin = rng.uniform(0.36, 0.44), rng.uniform(0.8, 0.92)
    x = np.linspace(-1, 0.72, 24)
    bulge = np.sin(np.pi * np.linspace(0, 1, 24) ** 0.75)
    body = np.concatenate([np.stack([x, -height * bulge], 1), np.stack([x, 0.75 * height * bulge], 1)[::-1]])
    gills = [_points((x, -0.16), (x + 0.06, -0.16), (x, 0.14), (x - 0.06, 0.14)) for x in (-0.38, -0.24)]
    return [
        _Part((_points((-0.3, -0.25), (0.22, -fin), (0.28, -0.2)),), "body"),
        _Part((_points((-0.25, 0.15), (0.25, 0.72), (0.2, 0.1)),), "body"),
        _Part((_points((0.55, 0.0), (1.0, -0.62), (0.84, 0.0), (0.98, 0.4)),), "body"),
        _Part((body,), "body"),
        _Part((_disc(-0.66, -0.1, 0.08, 16),), "detail"),
        *(_Part((gill,), "detail") for gill in gills),
    ]


def _puffer(rng: np.random.Generator) -> list[_Part]:
    spikes = _regular(int(rng.integers(12, 16)), 0.82, 0.66) - (0.15, 0)
    return [
        _Part((_points((0.45, 0.0), (0.98, -0.36), (0.86, 0.0), (0.98, 0.36)),), "accent"),
        _Part((spikes,), "body"),
        _Part((_arc(-0.15, 0.25, 0.48, 0.32, 0, 360, 28),), "accent"),
        _Part((_disc(-0.48, -0.2, 0.15, 20),), "detail"),
    ]


def _toadstool(rng: np.random.Generator) -> list[_Part]:
    brim, stem = rng.uniform(0.0, 0.15), rng.uniform(0.22, 0.34)
    foot = np.array([(-stem, brim), (stem, brim), (stem * 1.25, 0.95), (-stem * 1.25, 0.95)])
    spots = [(-0.45, -0.35, 0.16), (0.1, -0.62, 0.18), (0.5, -0.22, 0.14)]
    return [
        _Part((foot,), "accent"),
        _Part((_arc(0, brim, 0.98, 0.98, 180, 360, 40),), "body"),
        *(_Part((_disc(x, y + brim, r, 20),), "accent") for x, y, r in spots),
    ]


def _chanterelle(rng: np.random.Generator) -> list[_Part]:
    x = np.linspace(-0.95, 0.95, 25)
    rim = -0.62 + rng.uniform(0.06, 0.12) * np.sin(np.linspace(0, 5 * np.pi, 25) + rng.uniform(0, 6))
    funnel = np.concatenate([np.stack([x, rim], 1), _points((0.36, 0.05), (0.24, 0.95), (-0.24, 0.95), (-0.36, 0.05))])
    folds = [_points((0.5 * x - 0.04, -0.3), (0.5 * x + 0.04, -0.3), (0.2 * x, 0.35)) for x in (-1.0, -0.35, 0.35, 1.0)]
    return [
        _Part((funnel,), "body"),
        _Part((_arc(0, -0.62, 0.9, 0.24, 0, 360, 36),), "accent"),
        *(_Part((fold,), "detail") for fold in folds),
    ]


def _morel(rng: np.random.Generator) -> list[_Part]:
    pits = [(-0.3, -0.5), (0.22, -0.62), (0.0, -0.2), (-0.42, -0.08), (0.42, -0.22), (-0.08, -0.82), (0.2, 0.12)]
    stem = rng.uniform(0.26, 0.34)
    return [
        _Part((_points((-stem, 0.1), (stem, 0.1), (stem * 1.2, 0.98), (-stem * 1.2, 0.98)),), "accent"),
        _Part((_arc(0, -0.3, 0.68, 0.7, 0, 360, 40),), "body"),
        *(_Part((_arc(x, y, 0.13, 0.16, 0, 360, 16),), "detail") for x, y in pits),
    ]


def _brolly(rng: np.random.Generator) -> list[_Part]:
    rim = rng.uniform(-0.1, 0.05)
    dome = _arc(0, rim, 1.0, 0.9, 180, 360, 40)
    scallops = [_arc(x, rim, 0.25, 0.16, 0, -180, 10) for x in (0.75, 0.25, -0.25, -0.75)]
    hook = np.concatenate([_arc(0.27, 0.72, 0.35, 0.28, 180, 0, 14), _arc(0.27, 0.72, 0.17, 0.1, 0, 180, 14)])
    return [
        _Part((_box(-0.08, rim - 0.1, 0.1, 0.74),), "accent"),
        _Part((hook,), "accent"),
        _Part((np.concatenate([dome, *scallops]),), "body"),
    ]


def _parasol(rng: np.random.Generator) -> list[_Part]:
    rim = rng.uniform(-0.05, 0.1)
    gores = [_sector(0.97, at, at + 36) * (1, 0.8) + (0, rim) for at in (180, 252, 324)]
    return [
        _Part((_box(-0.07, rim - 0.1, 0.07, 1.0),), "accent"),
        _Part((_arc(0, rim, 1.0, 0.82, 180, 360, 40),), "body"),
        *(_Part((gore,), "accent") for gore in gores),
        _Part((_disc(0, rim - 0.86, 0.1, 16),), "detail"),
    ]


def _sunshade(rng: np.random.Generator) -> list[_Part]:
    rim = rng.uniform(-0.2, -0.05)
    x = np.linspace(1, -1, 13)
    fringe = np.stack([x, rim + np.where(np.arange(13) % 2, 0.26, 0.04)], 1)
    return [
        _Part((_box(-0.07, rim, 0.07, 0.9),), "accent"),
        _Part((_box(-0.42, 0.84, 0.42, 1.0),), "accent"),
        _Part((np.concatenate([_points((-1, rim), (1, rim)), fringe]),), "accent"),
        _Part((_points((-1, rim), (0, -0.95), (1, rim)),), "body"),
    ]


def _latchkey(rng: np.random.Generator) -> list[_Part]:
    bow, hole, shaft = rng.uniform(0.48, 0.58), rng.uniform(0.2, 0.27), rng.uniform(0.12, 0.16)
    tooth = rng.uniform(0.3, 0.42)
    x0 = bow - 1.0
    return [
        _Part((_box(x0 + 0.3, -shaft, 0.8, shaft),), "body"),
        _Part((_box(0.56, 0.0, 0.8, shaft + tooth),), "body"),
        _Part((_box(0.22, 0.0, 0.4, shaft + 0.7 * tooth),), "body"),
        _Part(_ring_of(-1 + bow, 0, bow, hole), "body"),
    ]


def _passkey(rng: np.random.Generator) -> list[_Part]:
    leaf, tooth = rng.uniform(0.29, 0.33), rng.uniform(0.4, 0.5)
    leaves = [_ring_of(x, y, leaf, 0.5 * leaf) for x, y in ((-0.78, 0.0), (-0.42, -0.33), (-0.42, 0.33))]
    return [
        _Part((_box(-0.4, -0.1, 0.8, 0.1),), "body"),
        _Part((_box(-0.14, -0.22, 0.0, 0.22),), "accent"),
        _Part((_box(0.4, 0.0, 0.8, tooth),), "body"),
        _Part((_box(0.53, 0.28, 0.67, tooth + 0.02),), "detail"),
        *(_Part(one, "body") for one in leaves),
    ]


def _fob(rng: np.random.Generator) -> list[_Part]:
    half, blade = rng.uniform(0.46, 0.56), rng.uniform(0.15, 0.2)
    notched = _points(
        (-0.2, -blade),
        (0.7, -blade),
        (0.92, 0),
        (0.75, blade),
        (0.62, 0.04),
        (0.48, blade),
        (0.34, 0.04),
        (0.2, blade),
        (-0.2, blade),
    )
    return [
        _Part((notched,), "accent"),
        _Part(
            (
                _points(
                    (-0.95, -half + 0.15),
                    (-0.8, -half),
                    (-0.1, -half),
                    (0.02, -half + 0.2),
                    (0.02, half - 0.2),
                    (-0.1, half),
                    (-0.8, half),
                    (-0.95, half - 0.15),
                ),
            ),
            "body",
        ),
        _Part((_disc(-0.45, -0.2, 0.13, 20),), "detail"),
        _Part((_disc(-0.45, 0.2, 0.13, 20),), "detail"),
    ]


def _mug(rng: np.random.Generator) -> list[_Part]:
    width = rng.uniform(0.6, 0.72)
    handle = (_arc(0.38, 0.05, 0.58, 0.5, 0, 360, 36), _arc(0.38, 0.05, 0.34, 0.27, 0, 360, 28))
    return [
        _Part(handle, "accent"),
        _Part((_box(0.4 - 2 * width, -0.65, 0.4, 0.88),), "body"),
        _Part((_arc(0.4 - width, -0.65, width, 0.2, 0, 360, 36),), "detail"),
    ]


def _teacup(rng: np.random.Generator) -> list[_Part]:
    depth = rng.uniform(0.85, 1.0)
    handle = (_arc(0.55, -0.12, 0.4, 0.3, 0, 360, 32), _arc(0.55, -0.12, 0.22, 0.15, 0, 360, 24))
    return [
        _Part((_arc(-0.1, 0.62, 0.9, 0.15, 0, 360, 36),), "accent"),
        _Part(handle, "accent"),
        _Part((_arc(-0.15, -0.4, 0.8, depth, 0, 180, 36),), "body"),
        _Part((_arc(-0.15, -0.4, 0.8, 0.17, 0, 360, 36),), "detail"),
    ]


def _goblet(rng: np.random.Generator) -> list[_Part]:
    bowl, foot = rng.uniform(0.66, 0.76), rng.uniform(0.5, 0.62)
    return [
        _Part((_points((-0.12, 0.1), (0.12, 0.1), (0.09, 0.85), (-0.09, 0.85)),), "accent"),
        _Part((_arc(0, 0.84, foot, 0.14, 0, 360, 30),), "accent"),
        _Part((_arc(0, -0.75, bowl, 0.98, 0, 180, 36),), "body"),
        _Part((_arc(0, -0.75, bowl, 0.16, 0, 360, 36),), "detail"),
    ]


_Drawing = Callable[[np.random.Generator], list[_Part]]

#: How each kind of each name is drawn. Its keys are KINDS.
_DRAWINGS: dict[str, dict[str, _Drawing]] = {
    "circle": {"disc": _disc_plain, "ball": _ball, "button": _button},
    "square": {"tile": _tile, "dice": _dice, "window": _window},
    "triangle": {"wedge": _wedge, "pyramid": _pyramid, "warning sign": _warning_sign},
    "star": {"sparkle": _sparkle, "pentagram": _pentagram, "sunburst": _sunburst},
    "cross": {"plus": _plus, "saltire": _saltire, "crucifix": _crucifix},
    "hexagon": {"nut": _nut, "honeycomb": _honeycomb, "prism": _prism},
    "ring": {"hoop": _hoop, "donut": _donut, "lifebuoy": _lifebuoy},
    "arrow": {"pointer": _pointer, "dart": _dart, "chevron": _chevron},
    "house": {"cottage": _cottage, "barn": _barn, "castle": _castle},
    "tree": {"oak": _oak, "pine": _pine, "palm": _palm},
    "flag": {"ensign": _ensign, "pennant": _pennant, "swallowtail": _swallowtail},
    "moon": {"crescent": _crescent, "gibbous": _gibbous, "eclipse": _eclipse},
    "heart": {"valentine": _valentine, "locket": _locket, "heartbreak": _heartbreak},
    "fish": {"goldfish": _goldfish, "shark": _shark, "puffer": _puffer},
    "mushroom": {"toadstool": _toadstool, "chanterelle": _chanterelle, "morel": _morel},
    "umbrella": {"brolly": _brolly, "parasol": _parasol, "sunshade": _sunshade},
    "key": {"latchkey": _latchkey, "passkey": _passkey, "fob": _fob},
    "cup": {"mug": _mug, "teacup": _teacup, "goblet": _goblet},
}

#: The kinds of each name: what its objects are drawn as. No kind belongs to two names.
KINDS = {name: tuple(drawings) for name, drawings in _DRAWINGS.items()}


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


def _placed(rng: np.random.Generator, drawing: _Drawing, height: int, width: int) -> list[tuple[str, list[np.ndarray]]]:
    """One object's parts in image pixels: (tone, contours (n, 2) float), randomly sized, turned, sheared and placed."""
    parts = drawing(rng)
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
class _Finish:
    """How the surface of a supercategory's objects looks.

    outline: probabilities of an outline of 0, 1, 2 and 3 pixels
    texture: what modulates the light, if anything, and its strength's range
    """

    outline: tuple[float, float, float, float] = (0.35, 0.25, 0.3, 0.1)
    texture: tuple[Callable[[np.random.Generator, int, int], np.ndarray], float, float] | None = None


_FINISHES = {
    "shape": _Finish(outline=(0.5, 0.3, 0.2, 0.0)),
    "symbol": _Finish(outline=(0.0, 0.0, 0.4, 0.6)),
    "landmark": _Finish(texture=(_courses, 0.06, 0.14)),
    "living thing": _Finish(texture=(_mottles, 0.12, 0.26)),
    "household item": _Finish(texture=(_glint, 0.25, 0.5)),
}


def _paint(
    rng: np.random.Generator, canvas: np.ndarray, parts: list[tuple[str, list[np.ndarray]]], finish: _Finish
) -> np.ndarray:
    """Paint one object onto `canvas` (float32 (H, W, 3)) in place; returns its mask, bool (H, W), unoccluded."""
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


def _visible(name: str, kind: str, mask: np.ndarray) -> SceneObject:
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
    return SceneObject(name, kind, box, polygons, round(area, 1))


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
    """Draw the scene of one seed. Deterministic; takes about 15 ms."""
    rng = np.random.default_rng(seed)
    width, height = SIZES_WH[rng.integers(len(SIZES_WH))]
    canvas = _background(rng, height, width)
    drawn: list[tuple[str, str]] = []  # name and kind
    areas: list[float] = []
    owner = np.full((height, width), -1, np.int16)
    pad = int(OBJECT_SIZE[1])
    for _ in range(int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))):
        name = (BASE + NOVEL)[rng.integers(len(BASE) + len(NOVEL))]
        kind = KINDS[name][rng.integers(len(KINDS[name]))]
        for _attempt in range(10):
            parts = _placed(rng, _DRAWINGS[name][kind], height, width)
            full = np.zeros((height + 2 * pad, width + 2 * pad), np.uint8)
            for _, contours in parts:
                cv2.fillPoly(full, [np.round(c + pad).astype(np.int32) for c in contours], 1)
            trial = owner.copy()
            trial[full[pad:-pad, pad:-pad] > 0] = len(drawn)
            if _fits(trial, [*areas, float(np.count_nonzero(full))]):
                whole = _paint(rng, canvas, parts, _FINISHES[SUPERS[name][0]])
                owner[whole] = len(drawn)
                drawn.append((name, kind))
                areas.append(float(np.count_nonzero(full)))
                break
    objects = tuple(_visible(name, kind, owner == number) for number, (name, kind) in enumerate(drawn))
    return SceneImage(_finish(rng, canvas), objects)


def write_scenes(out: Path, num: int, seed: int, split: str = "demo") -> Path:
    """Draw `num` scenes from the seeds seed .. seed + num - 1 into `out` in COCO's layout.

    Returns the annotation file, `out`/annotations/instances_`split`.json. Files of the same name are overwritten.
    """
    annotations_dir, images_dir = out / "annotations", out / split
    annotations_dir.mkdir(parents=True, exist_ok=True)
    images_dir.mkdir(parents=True, exist_ok=True)
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
            {"id": number, "name": name, "supercategory": SUPERS[name][0]} for name, number in CATEGORIES.items()
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
