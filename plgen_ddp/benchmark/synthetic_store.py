"""A region store and a COCO-format JSON of any size, drawn from a seed: what labelling needs, without any image.

An image has ten objects of random names. Its boxes lie around them, several an object, and their embeddings lie near
the name's text embedding as CLIP's do: cosines of about 0.25, names that resemble each other. So suppression has work,
a softmax is confident about some boxes, and a rule that learns from base annotations finds boxes that fit them. Nothing
here says how good labels are.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from plgen_ddp.coco import Category, Image
from plgen_ddp.files import write_atomically
from plgen_ddp.image_files import dataset_digest
from plgen_ddp.manifest import Manifest
from plgen_ddp.records import EVIDENCE, Regions, Similarity
from plgen_ddp.store import RegionStore

_IMAGES_PER_PART = 64
_OBJECTS = 10
# The share of the objects that is annotated: 7.3 an image, as in train2017.
_ANNOTATED = 0.73
_WIDTH, _HEIGHT = 640, 480
# The cosine of two names' text embeddings; of a box's embedding with what its name has alone, and with what all share.
_NAMES_ALIKE, _OWN, _SHARED = 0.85, 0.11, 0.21
# A polygon's coordinates, so that an annotation has the bytes of COCO's.
_POLYGON = 44


@dataclass(frozen=True, slots=True)
class SyntheticData:
    """What `write_synthetic_data` made: the JSON, and the store of its images."""

    annotations: Path
    store: RegionStore


class SyntheticAnnotation(msgspec.Struct):
    """An annotation with COCO's keys."""

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int
    segmentation: list[list[float]]


@dataclass(frozen=True, slots=True)
class _Scenes:
    """The images of one part: objects' boxes xyxy (n, objects, 4), their names and whether they are annotated."""

    boxes: np.ndarray
    names: np.ndarray
    annotated: np.ndarray


def write_synthetic_data(
    folder: Path,
    names: Sequence[str],
    images: int,
    *,
    boxes: int = 100,
    dim: int = 512,
    seed: int = 0,
    other_names: Sequence[str] = (),
) -> SyntheticData:
    """Writes `annotations.json` and `store` into a folder. A store of 100,000 images needs 10 GB.

    Args:
        names: of the objects, each a category of the JSON.
        boxes: of an image. dim: length of an embedding.
        other_names: categories that no object has.
    """
    annotations = folder / "annotations.json"
    write_synthetic_json(annotations, names, images, seed=seed, other_names=other_names)
    rows = _images(images)
    store = RegionStore(folder / "store")
    identity = {
        "dataset": {"digest": dataset_digest(rows), "images": images},
        "clip": {"weights": "none: drawn from a seed", "seed": seed},
    }
    store.open_for_scoring(Manifest(dim, Similarity("softmax", 0.01), identity, {}, str(annotations.resolve())))
    own = np.stack([_own_direction(name, dim) for name in names])
    for start in range(0, images, _IMAGES_PER_PART):
        ids = [row.id for row in rows[start : start + _IMAGES_PER_PART]]
        store.write_part(list(_regions(ids, own, boxes, np.random.default_rng([seed, start, 1]), seed)))
    return SyntheticData(annotations, store)


def write_synthetic_json(
    path: Path, names: Sequence[str], images: int, *, seed: int = 0, other_names: Sequence[str] = ()
) -> None:
    """Writes the JSON alone; of the first images of a larger one, it is what that one says about them."""
    write_atomically(path, _json(_images(images), names, other_names, seed))


def _images(count: int) -> list[Image]:
    return [Image(number + 1, _HEIGHT, _WIDTH, f"{number + 1:012d}.jpg") for number in range(count)]


def synthetic_text_embedding(name: str, dim: int) -> np.ndarray:
    """The text embedding of a name in these stores, float32 (dim,), unit length."""
    shared, own = _shared_direction(dim), _own_direction(name, dim)
    return (np.sqrt(_NAMES_ALIKE) * shared + np.sqrt(1 - _NAMES_ALIKE) * own).astype(np.float32)


def _shared_direction(dim: int) -> np.ndarray:
    return np.eye(1, dim)[0]


def _own_direction(name: str, dim: int) -> np.ndarray:
    """float64 (dim,), unit length, at a right angle to what all names share."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    own = np.random.default_rng(seed).standard_normal(dim)
    own[0] = 0
    return own / np.linalg.norm(own)


def _scenes(image_ids: Sequence[int], names: int, seed: int) -> _Scenes:
    generator = np.random.default_rng([seed, image_ids[0]])
    # Those of a whole part, so that a part that is cut short has the same first images.
    shape = (_IMAGES_PER_PART, _OBJECTS)
    size = np.exp(generator.normal(4.5, 0.7, (*shape, 2))).clip(12, (_WIDTH - 1, _HEIGHT - 1))
    low = generator.random((*shape, 2)) * ((_WIDTH, _HEIGHT) - size)
    boxes = np.concatenate([low, low + size], axis=2).round(2)
    own, annotated = generator.integers(0, names, shape), generator.random(shape) < _ANNOTATED
    return _Scenes(*(values[: len(image_ids)] for values in (boxes, own, annotated)))


def _regions(
    image_ids: Sequence[int], own: np.ndarray, boxes: int, generator: np.random.Generator, seed: int
) -> Iterator[Regions]:
    """The regions of a part's images. own: float64 (names, dim), what is each name's alone."""
    scenes = _scenes(image_ids, len(own), seed)
    count, dim = len(image_ids), own.shape[1]
    which = generator.integers(0, _OBJECTS, (count, boxes))
    rows = np.arange(count)[:, None]
    around = scenes.boxes[rows, which]
    size = np.tile(around[:, :, 2:] - around[:, :, :2], 2)
    moved = around + generator.normal(0, 0.04, around.shape) * size
    limits = np.array([_WIDTH, _HEIGHT])
    low = moved[:, :, :2].clip(0, limits - 6)
    high = np.maximum(moved[:, :, 2:].clip(None, limits), low + 5)
    boxes_xyxy = np.concatenate([low, high], axis=2).astype(np.float32)
    objectness = -np.sort(-generator.beta(1.6, 1.0, (count, boxes)), axis=1).astype(np.float32)
    evidence = {name: generator.random((count, boxes), np.float32) for name in EVIDENCE}

    strength = _OWN * generator.uniform(0.4, 1.8, (count, boxes, 1)).astype(np.float32)
    # Boxes of an object look alike, also in what no name explains.
    of_object = generator.standard_normal((count, _OBJECTS, dim), np.float32) * np.float32(np.sqrt(0.9))
    embeddings = generator.standard_normal((count, boxes, dim), np.float32) * np.float32(np.sqrt(0.1))
    embeddings += of_object[rows, which]
    embeddings *= np.float32(np.sqrt((1 - _SHARED**2) / dim))
    embeddings += strength * own.astype(np.float32)[scenes.names[rows, which]]
    embeddings[:, :, 0] = _SHARED
    embeddings /= np.linalg.norm(embeddings, axis=2, keepdims=True)
    for row, image_id in enumerate(image_ids):
        yield Regions(
            image_id,
            boxes_xyxy[row],
            objectness[row],
            embeddings[row].astype(np.float16),
            **{name: values[row] for name, values in evidence.items()},
        )


def _json(images: Sequence[Image], names: Sequence[str], other_names: Sequence[str], seed: int) -> Iterator[bytes]:
    """The JSON in pieces."""
    categories = [Category(number + 1, name) for number, name in enumerate([*names, *other_names])]
    top = {"info": {"description": f"drawn from seed {seed}"}, "images": images, "categories": categories}
    yield msgspec.json.encode(top)[:-1] + b',"annotations":['
    generator = np.random.default_rng([seed, 0, 2])
    first = 1
    for start in range(0, len(images), _IMAGES_PER_PART):
        ids = [row.id for row in images[start : start + _IMAGES_PER_PART]]
        rows = _annotations(ids, len(names), seed, first, generator)
        if rows:
            yield (b"," if first > 1 else b"") + msgspec.json.encode(rows)[1:-1]
        first += len(rows)
    yield b"]}\n"


def _annotations(
    image_ids: Sequence[int], names: int, seed: int, first: int, generator: np.random.Generator
) -> list[SyntheticAnnotation]:
    scenes = _scenes(image_ids, names, seed)
    image, place = scenes.annotated.nonzero()
    corners = scenes.boxes[image, place]
    size = corners[:, 2:] - corners[:, :2]
    points = np.tile(corners[:, :2], _POLYGON // 2) + generator.random((len(image), _POLYGON)) * np.tile(
        size, _POLYGON // 2
    )
    return [
        SyntheticAnnotation(first + number, image_ids[one], name + 1, box, area, 0, [polygon])
        for number, (one, name, box, area, polygon) in enumerate(
            zip(
                image.tolist(),
                scenes.names[image, place].tolist(),
                np.concatenate([corners[:, :2], size], axis=1).round(2).tolist(),
                size.prod(axis=1).round(2).tolist(),
                points.round(2).tolist(),
                strict=True,
            )
        )
    ]
