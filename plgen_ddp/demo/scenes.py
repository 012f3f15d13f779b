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

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from plgen_ddp.demo.drawings import DRAWINGS, KINDS, Drawing
from plgen_ddp.demo.painting import FINISHES, background, paint, photographed

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

# COCO category id of each name. Alphabetical, so base and novel ids interleave as they do in COCO.
CATEGORIES = {name: number for number, name in enumerate(sorted(BASE + NOVEL), start=1)}

# Which seeds serve what. "train" and "val" may be used freely; "embedded" are the scenes shipped with the package;
# "test" is for final figures and nothing else.
SEEDS = {
    "train": range(100_000),
    "val": range(100_000, 200_000),
    "embedded": range(200_000, 200_048),
    "test": range(300_000, 400_000),
}

# Of "val", the 300 scenes on which rules, thresholds and trainings are chosen. The models' own validation sets come
# before them.
CHOICE = range(110_000, 110_300)

# More general names of each name. The first is its COCO supercategory, and objects of one supercategory are finished
# alike (`painting.Finish`), so that a crop shows it: living things are mottled, symbols boldly outlined, and so on.
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
UPSAMPLE = 4  # mask magnification before contours are followed: pixel edges to 1/8 pixel
CRUMB = 8  # square pixels: a separate visible piece smaller than this is dropped
OUTLINE_TOLERANCE = 0.9  # pixels a polygon may stray from the mask's edge


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object as it is seen.

    Attributes:
        name: one of BASE + NOVEL; the only one of its names that the annotations give.
        kind: one of KINDS[name]; known to whoever draws, not in the annotations.
        box_xywh: tight box of the visible pixels, whole pixels.
        polygons: COCO polygons [x0, y0, x1, y1, ...] of the visible mask, pixels; several where another object hides
            what joins them.
        area: what the polygons enclose, square pixels.
    """

    name: str
    kind: str
    box_xywh: tuple[int, int, int, int]
    polygons: tuple[tuple[float, ...], ...]
    area: float


@dataclass(frozen=True, slots=True)
class SceneImage:
    """One scene.

    Attributes:
        pixels: uint8 (H, W, 3), BGR.
        objects: from back to front.
    """

    pixels: np.ndarray
    objects: tuple[SceneObject, ...]


def _placed(rng: np.random.Generator, drawing: Drawing, height: int, width: int) -> list[tuple[str, list[np.ndarray]]]:
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


def _visible(name: str, kind: str, mask: np.ndarray) -> SceneObject:
    """The object whose visible pixels are a bool mask (H, W). Crumbs left over by occlusion are no part of it."""
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
    """The scene of one seed: always the same one. Drawing takes about 15 ms."""
    rng = np.random.default_rng(seed)
    width, height = SIZES_WH[rng.integers(len(SIZES_WH))]
    canvas = background(rng, height, width)
    drawn: list[tuple[str, str]] = []  # name and kind
    areas: list[float] = []
    owner = np.full((height, width), -1, np.int16)
    pad = int(OBJECT_SIZE[1])
    for _ in range(int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))):
        name = (BASE + NOVEL)[rng.integers(len(BASE) + len(NOVEL))]
        kind = KINDS[name][rng.integers(len(KINDS[name]))]
        for _attempt in range(10):
            parts = _placed(rng, DRAWINGS[name][kind], height, width)
            full = np.zeros((height + 2 * pad, width + 2 * pad), np.uint8)
            for _, contours in parts:
                cv2.fillPoly(full, [np.round(c + pad).astype(np.int32) for c in contours], 1)
            trial = owner.copy()
            trial[full[pad:-pad, pad:-pad] > 0] = len(drawn)
            if _fits(trial, [*areas, float(np.count_nonzero(full))]):
                whole = paint(rng, canvas, parts, FINISHES[SUPERS[name][0]])
                owner[whole] = len(drawn)
                drawn.append((name, kind))
                areas.append(float(np.count_nonzero(full)))
                break
    objects = tuple(_visible(name, kind, owner == number) for number, (name, kind) in enumerate(drawn))
    return SceneImage(photographed(rng, canvas), objects)


def write_scenes(out: Path, num: int, seed: int, split: str = "demo") -> Path:
    """Draws `num` scenes from the seeds seed .. seed + num - 1 into `out` in COCO's layout.

    Files of the same name are overwritten.

    Returns:
        The annotation file, `out`/annotations/instances_`split`.json.
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
    """The command line of `python -m plgen_ddp.demo.scenes`."""
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
