"""How each object is drawn: three kinds for each of 18 names, as coloured parts in unit coordinates.

A drawing takes random numbers, so that two objects of a kind differ in their proportions. Parts are listed from back to
front.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an object in one colour.

    Attributes:
        contours: closed, float (n, 2) each, in unit coordinates: x right, y down, about [-1, 1]. Where contours overlap
            there is a hole.
        tone: "body", "accent" or "detail": which of the object's three colours.
    """

    contours: tuple[np.ndarray, ...]
    tone: str


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, stop: float, count: int = 32) -> np.ndarray:
    """Points of an elliptic arc, float (count, 2); angles in degrees from +x towards +y (down)."""
    angle = np.radians(np.linspace(start, stop, count))
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], axis=1)


def _box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """The corners of an upright rectangle."""
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
    """Points of a circle around (x, y)."""
    return _arc(x, y, radius, radius, 0, 360, count)


def _points(*corners: tuple[float, float]) -> np.ndarray:
    """The corners of any polygon."""
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
    """The outer and the inner circle of a ring around (x, y)."""
    return _disc(x, y, radius, 40), _disc(x, y, hole, 32)


def _disc_plain(rng: np.random.Generator) -> list[Part]:
    return [Part((_disc(0, 0, 1, 48),), "body")]


def _ball(rng: np.random.Generator) -> list[Part]:
    turn = rng.uniform(0, 120)
    slices = [Part((_sector(0.98, turn + at, turn + at + 60),), "accent") for at in (0, 120, 240)]
    return [Part((_disc(0, 0, 1, 48),), "body"), *slices]


def _button(rng: np.random.Generator) -> list[Part]:
    at = rng.uniform(0.18, 0.24)
    holes = [Part((_disc(x * at, y * at, 0.13),), "detail") for x in (-1, 1) for y in (-1, 1)]
    rim = Part(_ring_of(0, 0, 0.78, 0.62), "accent")
    return [Part((_disc(0, 0, 1, 48),), "body"), rim, *holes]


def _tile(rng: np.random.Generator) -> list[Part]:
    return [Part((_box(-0.9, -0.9, 0.9, 0.9),), "body")]


def _dice(rng: np.random.Generator) -> list[Part]:
    spots = [(-0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (0.5, -0.5), (0.0, 0.0)][: int(rng.integers(4, 6))]
    return [*_tile(rng), *(Part((_disc(x, y, 0.2),), "detail") for x, y in spots)]


def _window(rng: np.random.Generator) -> list[Part]:
    bar, frame = rng.uniform(0.07, 0.12), 0.72
    panes = [
        _box(min(x, frame * x / bar), min(y, frame * y / bar), max(x, frame * x / bar), max(y, frame * y / bar))
        for x in (-bar, bar)
        for y in (-bar, bar)
    ]
    return [*_tile(rng), *(Part((pane,), "detail") for pane in panes)]


def _wedge(rng: np.random.Generator) -> list[Part]:
    return [Part((_points((-0.9, 0.85), (0.95, 0.85), (-0.9, rng.uniform(-0.9, -0.6))),), "body")]


def _pyramid(rng: np.random.Generator) -> list[Part]:
    apex, edge = (rng.uniform(-0.2, 0.2), -0.9), (rng.uniform(0.2, 0.4), 0.95)
    return [
        Part((_points(apex, edge, (-0.98, 0.75)),), "body"),
        Part((_points(apex, (0.98, 0.6), edge),), "accent"),
    ]


def _warning_sign(rng: np.random.Generator) -> list[Part]:
    inner = rng.uniform(0.66, 0.74)
    outer = _points((0, -0.95), (1, 0.8), (-1, 0.8))
    return [
        Part((outer,), "body"),
        Part(((outer - (0, 0.22)) * inner + (0, 0.22),), "accent"),
        Part((_points((-0.11, -0.3), (0.11, -0.3), (0.05, 0.3), (-0.05, 0.3)),), "detail"),
        Part((_disc(0, 0.5, 0.1),), "detail"),
    ]


def _sparkle(rng: np.random.Generator) -> list[Part]:
    return [Part((_regular(4, inner=rng.uniform(0.28, 0.38)),), "body")]


def _pentagram(rng: np.random.Generator) -> list[Part]:
    return [Part((_regular(5, inner=rng.uniform(0.38, 0.5)),), "body")]


def _sunburst(rng: np.random.Generator) -> list[Part]:
    return [Part((_regular(9, inner=rng.uniform(0.62, 0.7)),), "body"), Part((_disc(0, 0, 0.38),), "accent")]


def _plus(rng: np.random.Generator) -> list[Part]:
    arm = rng.uniform(0.25, 0.38)
    quarter = np.array([(-arm, -1), (arm, -1), (arm, -arm)])
    points = [quarter]
    for _ in range(3):
        points.append(points[-1] @ np.array([(0, 1), (-1, 0)]))
    return [Part((np.concatenate(points),), "body")]


def _saltire(rng: np.random.Generator) -> list[Part]:
    return [Part((_turned(_plus(rng)[0].contours[0], 45),), "body")]


def _crucifix(rng: np.random.Generator) -> list[Part]:
    arm, bar = rng.uniform(0.16, 0.24), rng.uniform(-0.5, -0.3)
    left = _points((-arm, -1), (-arm, bar - arm), (-0.74, bar - arm), (-0.74, bar + arm), (-arm, bar + arm), (-arm, 1))
    return [Part((np.concatenate([left, (left * (-1, 1))[::-1]]),), "body")]


def _nut(rng: np.random.Generator) -> list[Part]:
    return [Part((_regular(6), _disc(0, 0, rng.uniform(0.4, 0.52), 32)), "body")]


def _honeycomb(rng: np.random.Generator) -> list[Part]:
    return [Part((_regular(6),), "body"), Part((_regular(6, rng.uniform(0.5, 0.66)),), "accent")]


def _prism(rng: np.random.Generator) -> list[Part]:
    corners = _regular(6)
    middle = np.zeros((1, 2))
    return [
        Part((corners,), "body"),
        Part((np.concatenate([corners[[5, 0, 1]], middle]),), "accent"),
        Part((np.concatenate([corners[[1, 2, 3]], middle]),), "detail"),
    ]


def _hoop(rng: np.random.Generator) -> list[Part]:
    return [Part(_ring_of(0, 0, 1, rng.uniform(0.66, 0.74)), "body")]


def _donut(rng: np.random.Generator) -> list[Part]:
    crumb, first = _box(-0.11, -0.045, 0.11, 0.045), rng.uniform(0, 51)
    spots = [(0.7 + 0.1 * (-1) ** k, first + 51.4 * k) for k in range(7)]
    sprinkles = [_turned(crumb, 77 * at, r * np.cos(np.radians(at)), r * np.sin(np.radians(at))) for r, at in spots]
    hole = rng.uniform(0.36, 0.44)
    return [Part(_ring_of(0, 0, 1, hole), "body"), *(Part((sprinkle,), "detail") for sprinkle in sprinkles)]


def _lifebuoy(rng: np.random.Generator) -> list[Part]:
    hole, turn = rng.uniform(0.48, 0.58), rng.uniform(0, 90)
    bands = [_sector(0.99, turn + at, turn + at + 38, hole + 0.01) for at in (0, 90, 180, 270)]
    return [Part(_ring_of(0, 0, 1, hole), "body"), *(Part((band,), "accent") for band in bands)]


def _pointer(rng: np.random.Generator) -> list[Part]:
    shaft, head, neck = rng.uniform(0.2, 0.32), rng.uniform(0.66, 0.8), rng.uniform(-0.1, 0.15)
    upper = np.array([(-1, -shaft), (neck, -shaft), (neck, -head), (1, 0)])
    return [Part((np.concatenate([upper, (upper * (1, -1))[2::-1]]),), "body")]


def _dart(rng: np.random.Generator) -> list[Part]:
    tail = rng.uniform(0.55, 0.68)
    return [
        Part((_box(-0.75, -0.11, 0.5, 0.11),), "body"),
        Part((_points((1, 0), (0.3, -0.5), (0.45, 0), (0.3, 0.5)),), "body"),
        Part((_points((-1, -tail), (-0.3, -0.11), (-0.3, 0.11), (-1, tail), (-0.7, 0)),), "accent"),
    ]


def _chevron(rng: np.random.Generator) -> list[Part]:
    step = rng.uniform(0.68, 0.78)
    wing = _points((-0.95, -0.8), (-0.5, -0.8), (0.2, 0), (-0.5, 0.8), (-0.95, 0.8), (-0.25, 0))
    return [Part((wing,), "body"), Part((np.add(wing, (step, 0)),), "body")]


def _cottage(rng: np.random.Generator) -> list[Part]:
    eaves, door = rng.uniform(-0.2, 0.0), rng.uniform(-0.35, 0.15)
    return [
        Part((_box(-0.75, eaves, 0.75, 0.95),), "body"),
        Part((np.array([(-0.98, eaves), (0, -0.95), (0.98, eaves)]),), "accent"),
        Part((_box(door, 0.4, door + 0.32, 0.95),), "detail"),
    ]


def _barn(rng: np.random.Generator) -> list[Part]:
    eaves, knee = rng.uniform(-0.2, 0.0), rng.uniform(0.62, 0.76)
    return [
        Part((_box(-0.85, eaves, 0.85, 0.9),), "body"),
        Part((_points((-0.98, eaves), (-knee, -0.62), (0, -0.95), (knee, -0.62), (0.98, eaves)),), "accent"),
        Part((_box(-0.42, 0.25, 0.42, 0.9),), "detail"),
        Part((_disc(0, -0.45, 0.17),), "detail"),
    ]


def _castle(rng: np.random.Generator) -> list[Part]:
    wall = rng.uniform(-0.25, 0.0)
    teeth = [Part((_box(x, -0.95, x + 0.16, -0.6),), "accent") for x in (-1.0, -0.66, 0.5, 0.84)]
    gate = np.concatenate([_arc(0, 0.5, 0.24, 0.26, 180, 360, 14), [(0.24, 0.92), (-0.24, 0.92)]])
    return [
        Part((_box(-0.6, wall, 0.6, 0.92),), "body"),
        *teeth,
        *(Part((_box(x, -0.66, x + 0.5, 0.92),), "accent") for x in (-1.0, 0.5)),
        Part((gate,), "detail"),
    ]


def _oak(rng: np.random.Generator) -> list[Part]:
    trunk = Part((_box(-0.16, 0.2, 0.16, 1.0),), "accent")
    lobes = [_disc(x, y, r, 28) for x, y, r in ((-0.38, 0.0, 0.45), (0.38, 0.0, 0.45), (0, -0.45, 0.55))]
    return [trunk, *(Part((lobe,), "body") for lobe in lobes)]


def _pine(rng: np.random.Generator) -> list[Part]:
    trunk = Part((_box(-0.16, 0.2, 0.16, 1.0),), "accent")
    layers = [np.array([(-w, y + 0.62), (0, y), (w, y + 0.62)]) for w, y in ((0.8, -0.1), (0.66, -0.52), (0.5, -1.0))]
    return [trunk, *(Part((layer,), "body") for layer in layers)]


def _palm(rng: np.random.Generator) -> list[Part]:
    lean = rng.uniform(-0.25, 0.25)
    trunk = _points((lean - 0.1, -0.4), (lean + 0.1, -0.4), (0.17, 1.0), (-0.17, 1.0))
    leaf = np.concatenate([_arc(0.45, 0.1, 0.45, 0.24, 180, 360, 16), _arc(0.45, 0.1, 0.45, 0.06, 360, 180, 12)])
    leaves = [_turned(leaf, at, lean, -0.45) for at in (25, -20, -65)]
    mirrored = [_turned(leaf * (-1, 1), at, lean, -0.45) for at in (-25, 20, 65)]
    nuts = [Part((_disc(lean + x, -0.34, 0.1),), "detail") for x in (-0.12, 0.12)]
    return [Part((trunk,), "accent"), *(Part((one,), "body") for one in (*leaves, *mirrored)), *nuts]


def _pole() -> Part:
    return Part((_box(-0.8, -1.0, -0.6, 1.0),), "accent")


def _ensign(rng: np.random.Generator) -> list[Part]:
    x = np.linspace(-0.62, 0.9, 16)
    wave = rng.uniform(0.0, 0.12) * np.sin(np.linspace(0, 2 * np.pi, 16) + rng.uniform(0, 2 * np.pi))
    lower = rng.uniform(0.1, 0.25)
    cloth = np.concatenate([np.stack([x, -0.85 + wave], 1), np.stack([x, lower + wave], 1)[::-1]])
    return [Part((cloth,), "body"), _pole()]


def _pennant(rng: np.random.Generator) -> list[Part]:
    lower = rng.uniform(0.1, 0.25)
    middle = lower / 2 - 0.45
    return [Part((_points((-0.62, -0.95), (0.95, middle), (-0.62, lower)),), "body"), _pole()]


def _swallowtail(rng: np.random.Generator) -> list[Part]:
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
    return [Part((cloth,), "body"), Part((stripe,), "detail"), _pole()]


def _crescent(rng: np.random.Generator) -> list[Part]:
    bite = rng.uniform(0.25, 0.5)
    outer = _arc(0, 0, 1, 1, 60, 300, 40)
    half = np.sin(np.radians(60))
    inner = _arc(0.5, 0, 1 - bite, half, 270, 90, 32)
    return [Part((np.concatenate([outer, inner]),), "body")]


def _gibbous(rng: np.random.Generator) -> list[Part]:
    outline = np.concatenate([_arc(0, 0, 1, 1, 90, 270, 32), _arc(0, 0, rng.uniform(0.3, 0.5), 1, 270, 450, 32)])
    craters = [(-0.5, -0.3, 0.17), (-0.15, 0.3, 0.2), (-0.1, -0.55, 0.12)]
    return [Part((outline,), "body"), *(Part((_disc(x, y, r),), "detail") for x, y, r in craters)]


def _eclipse(rng: np.random.Generator) -> list[Part]:
    shadow = rng.uniform(0.66, 0.76)
    return [Part((_disc(0, 0, 1, 48),), "body"), Part((_disc(0.98 - shadow, 0, shadow, 40),), "detail")]


def _heart_outline(scale: float = 1.0, y: float = 0.0) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 56, endpoint=False)
    down = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([16 * np.sin(t) ** 3 / 16.5, (down - 2.5) / 15.0], 1) * scale + (0, y)


def _valentine(rng: np.random.Generator) -> list[Part]:
    return [Part((_heart_outline(),), "body")]


def _locket(rng: np.random.Generator) -> list[Part]:
    return [
        Part(_ring_of(0, -0.78, 0.3, 0.15), "accent"),
        Part((_heart_outline(),), "body"),
        Part((_heart_outline(rng.uniform(0.5, 0.62), -0.02),), "accent"),
    ]


def _heartbreak(rng: np.random.Generator) -> list[Part]:
    x = rng.uniform(0.12, 0.2) * np.array([0, 1, -1, 1, -0.6, 0.2])
    y = np.array([-0.55, -0.25, 0.0, 0.28, 0.55, 0.8])
    crack = np.concatenate([np.stack([x - 0.08, y], 1), np.stack([x + 0.08, y], 1)[::-1]])
    return [Part((_heart_outline(),), "body"), Part((crack,), "detail")]


def _goldfish(rng: np.random.Generator) -> list[Part]:
    height, tail = rng.uniform(0.46, 0.58), rng.uniform(0.5, 0.65)
    fin = np.array([(-0.3, -0.75 * height), (0.1, -height - 0.25), (0.35, -0.7 * height)])
    return [
        Part((fin,), "accent"),
        Part((np.array([(0.3, 0.0), (1.0, -tail), (0.82, 0.0), (1.0, tail)]),), "accent"),
        Part((_arc(-0.22, 0, 0.78, height, 0, 360, 44),), "body"),
        Part((_arc(-0.62, -0.14, 0.11, 0.11, 0, 360, 20),), "detail"),
    ]


def _shark(rng: np.random.Generator) -> list[Part]:
    height, fin = rng.uniform(0.36, 0.44), rng.uniform(0.8, 0.92)
    x = np.linspace(-1, 0.72, 24)
    bulge = np.sin(np.pi * np.linspace(0, 1, 24) ** 0.75)
    body = np.concatenate([np.stack([x, -height * bulge], 1), np.stack([x, 0.75 * height * bulge], 1)[::-1]])
    gills = [_points((x, -0.16), (x + 0.06, -0.16), (x, 0.14), (x - 0.06, 0.14)) for x in (-0.38, -0.24)]
    return [
        Part((_points((-0.3, -0.25), (0.22, -fin), (0.28, -0.2)),), "body"),
        Part((_points((-0.25, 0.15), (0.25, 0.72), (0.2, 0.1)),), "body"),
        Part((_points((0.55, 0.0), (1.0, -0.62), (0.84, 0.0), (0.98, 0.4)),), "body"),
        Part((body,), "body"),
        Part((_disc(-0.66, -0.1, 0.08, 16),), "detail"),
        *(Part((gill,), "detail") for gill in gills),
    ]


def _puffer(rng: np.random.Generator) -> list[Part]:
    spikes = _regular(int(rng.integers(12, 16)), 0.82, 0.66) - (0.15, 0)
    return [
        Part((_points((0.45, 0.0), (0.98, -0.36), (0.86, 0.0), (0.98, 0.36)),), "accent"),
        Part((spikes,), "body"),
        Part((_arc(-0.15, 0.25, 0.48, 0.32, 0, 360, 28),), "accent"),
        Part((_disc(-0.48, -0.2, 0.15, 20),), "detail"),
    ]


def _toadstool(rng: np.random.Generator) -> list[Part]:
    brim, stem = rng.uniform(0.0, 0.15), rng.uniform(0.22, 0.34)
    foot = np.array([(-stem, brim), (stem, brim), (stem * 1.25, 0.95), (-stem * 1.25, 0.95)])
    spots = [(-0.45, -0.35, 0.16), (0.1, -0.62, 0.18), (0.5, -0.22, 0.14)]
    return [
        Part((foot,), "accent"),
        Part((_arc(0, brim, 0.98, 0.98, 180, 360, 40),), "body"),
        *(Part((_disc(x, y + brim, r, 20),), "accent") for x, y, r in spots),
    ]


def _chanterelle(rng: np.random.Generator) -> list[Part]:
    x = np.linspace(-0.95, 0.95, 25)
    rim = -0.62 + rng.uniform(0.06, 0.12) * np.sin(np.linspace(0, 5 * np.pi, 25) + rng.uniform(0, 6))
    funnel = np.concatenate([np.stack([x, rim], 1), _points((0.36, 0.05), (0.24, 0.95), (-0.24, 0.95), (-0.36, 0.05))])
    folds = [_points((0.5 * x - 0.04, -0.3), (0.5 * x + 0.04, -0.3), (0.2 * x, 0.35)) for x in (-1.0, -0.35, 0.35, 1.0)]
    return [
        Part((funnel,), "body"),
        Part((_arc(0, -0.62, 0.9, 0.24, 0, 360, 36),), "accent"),
        *(Part((fold,), "detail") for fold in folds),
    ]


def _morel(rng: np.random.Generator) -> list[Part]:
    pits = [(-0.3, -0.5), (0.22, -0.62), (0.0, -0.2), (-0.42, -0.08), (0.42, -0.22), (-0.08, -0.82), (0.2, 0.12)]
    stem = rng.uniform(0.26, 0.34)
    return [
        Part((_points((-stem, 0.1), (stem, 0.1), (stem * 1.2, 0.98), (-stem * 1.2, 0.98)),), "accent"),
        Part((_arc(0, -0.3, 0.68, 0.7, 0, 360, 40),), "body"),
        *(Part((_arc(x, y, 0.13, 0.16, 0, 360, 16),), "detail") for x, y in pits),
    ]


def _brolly(rng: np.random.Generator) -> list[Part]:
    rim = rng.uniform(-0.1, 0.05)
    dome = _arc(0, rim, 1.0, 0.9, 180, 360, 40)
    scallops = [_arc(x, rim, 0.25, 0.16, 0, -180, 10) for x in (0.75, 0.25, -0.25, -0.75)]
    hook = np.concatenate([_arc(0.27, 0.72, 0.35, 0.28, 180, 0, 14), _arc(0.27, 0.72, 0.17, 0.1, 0, 180, 14)])
    return [
        Part((_box(-0.08, rim - 0.1, 0.1, 0.74),), "accent"),
        Part((hook,), "accent"),
        Part((np.concatenate([dome, *scallops]),), "body"),
    ]


def _parasol(rng: np.random.Generator) -> list[Part]:
    rim = rng.uniform(-0.05, 0.1)
    gores = [_sector(0.97, at, at + 36) * (1, 0.8) + (0, rim) for at in (180, 252, 324)]
    return [
        Part((_box(-0.07, rim - 0.1, 0.07, 1.0),), "accent"),
        Part((_arc(0, rim, 1.0, 0.82, 180, 360, 40),), "body"),
        *(Part((gore,), "accent") for gore in gores),
        Part((_disc(0, rim - 0.86, 0.1, 16),), "detail"),
    ]


def _sunshade(rng: np.random.Generator) -> list[Part]:
    rim = rng.uniform(-0.2, -0.05)
    x = np.linspace(1, -1, 13)
    fringe = np.stack([x, rim + np.where(np.arange(13) % 2, 0.26, 0.04)], 1)
    return [
        Part((_box(-0.07, rim, 0.07, 0.9),), "accent"),
        Part((_box(-0.42, 0.84, 0.42, 1.0),), "accent"),
        Part((np.concatenate([_points((-1, rim), (1, rim)), fringe]),), "accent"),
        Part((_points((-1, rim), (0, -0.95), (1, rim)),), "body"),
    ]


def _latchkey(rng: np.random.Generator) -> list[Part]:
    bow, hole, shaft = rng.uniform(0.48, 0.58), rng.uniform(0.2, 0.27), rng.uniform(0.12, 0.16)
    tooth = rng.uniform(0.3, 0.42)
    x0 = bow - 1.0
    return [
        Part((_box(x0 + 0.3, -shaft, 0.8, shaft),), "body"),
        Part((_box(0.56, 0.0, 0.8, shaft + tooth),), "body"),
        Part((_box(0.22, 0.0, 0.4, shaft + 0.7 * tooth),), "body"),
        Part(_ring_of(-1 + bow, 0, bow, hole), "body"),
    ]


def _passkey(rng: np.random.Generator) -> list[Part]:
    leaf, tooth = rng.uniform(0.29, 0.33), rng.uniform(0.4, 0.5)
    leaves = [_ring_of(x, y, leaf, 0.5 * leaf) for x, y in ((-0.78, 0.0), (-0.42, -0.33), (-0.42, 0.33))]
    return [
        Part((_box(-0.4, -0.1, 0.8, 0.1),), "body"),
        Part((_box(-0.14, -0.22, 0.0, 0.22),), "accent"),
        Part((_box(0.4, 0.0, 0.8, tooth),), "body"),
        Part((_box(0.53, 0.28, 0.67, tooth + 0.02),), "detail"),
        *(Part(one, "body") for one in leaves),
    ]


def _fob(rng: np.random.Generator) -> list[Part]:
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
        Part((notched,), "accent"),
        Part(
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
        Part((_disc(-0.45, -0.2, 0.13, 20),), "detail"),
        Part((_disc(-0.45, 0.2, 0.13, 20),), "detail"),
    ]


def _mug(rng: np.random.Generator) -> list[Part]:
    width = rng.uniform(0.6, 0.72)
    handle = (_arc(0.38, 0.05, 0.58, 0.5, 0, 360, 36), _arc(0.38, 0.05, 0.34, 0.27, 0, 360, 28))
    return [
        Part(handle, "accent"),
        Part((_box(0.4 - 2 * width, -0.65, 0.4, 0.88),), "body"),
        Part((_arc(0.4 - width, -0.65, width, 0.2, 0, 360, 36),), "detail"),
    ]


def _teacup(rng: np.random.Generator) -> list[Part]:
    depth = rng.uniform(0.85, 1.0)
    handle = (_arc(0.55, -0.12, 0.4, 0.3, 0, 360, 32), _arc(0.55, -0.12, 0.22, 0.15, 0, 360, 24))
    return [
        Part((_arc(-0.1, 0.62, 0.9, 0.15, 0, 360, 36),), "accent"),
        Part(handle, "accent"),
        Part((_arc(-0.15, -0.4, 0.8, depth, 0, 180, 36),), "body"),
        Part((_arc(-0.15, -0.4, 0.8, 0.17, 0, 360, 36),), "detail"),
    ]


def _goblet(rng: np.random.Generator) -> list[Part]:
    bowl, foot = rng.uniform(0.66, 0.76), rng.uniform(0.5, 0.62)
    return [
        Part((_points((-0.12, 0.1), (0.12, 0.1), (0.09, 0.85), (-0.09, 0.85)),), "accent"),
        Part((_arc(0, 0.84, foot, 0.14, 0, 360, 30),), "accent"),
        Part((_arc(0, -0.75, bowl, 0.98, 0, 180, 36),), "body"),
        Part((_arc(0, -0.75, bowl, 0.16, 0, 360, 36),), "detail"),
    ]


Drawing = Callable[[np.random.Generator], list[Part]]

# How each kind of each name is drawn. Its keys are KINDS.
DRAWINGS: dict[str, dict[str, Drawing]] = {
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

# The kinds of each name: what its objects are drawn as. No kind belongs to two names.
KINDS = {name: tuple(drawings) for name, drawings in DRAWINGS.items()}
