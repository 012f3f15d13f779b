"""The images that the report shows: a seeded sample of four kinds, each with its boxes and a thumbnail."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plgen_ddp.coco import Image
from plgen_ddp.errors import UserError
from plgen_ddp.image_files import index_images
from plgen_ddp.image_rules import ImageRules
from plgen_ddp.label_quality import KINDS
from plgen_ddp.report.label_file import LabelFile
from plgen_ddp.report.page_data import steps_of
from plgen_ddp.report.picture_files import UNREADABLE, open_picture

# Links are followed: the labels do not say whether the scoring did, and a picture is all that is read.
_RULES = ImageRules(follow_links=True)
SAMPLE = 60
THUMBNAIL = 400  # pixels, the longer side
_QUALITY = 76
# Bright colours that stay apart on photos, the first eight also for colour-blind readers (after Okabe and Ito).
_COLOURS = (
    *("#56b4e9", "#e69f00", "#00c58e", "#f0e442", "#ff7f50", "#d98fc4", "#4f8cff", "#c8ff5a"),
    *("#ff5d7a", "#9d8cff", "#35e0e0", "#ffb3a7", "#b7a25b", "#7ee081", "#ff9df5", "#c9d4e8"),
)

KIND_WORDS = dict(
    zip(KINDS, ("right", "duplicate", "wrong name", "on a base object", "part of an object", "on nothing"), strict=True)
)


@dataclass(frozen=True, slots=True)
class Box:
    """One box of a picture: x, y, width, height in original pixels, and what is shown of it.

    step: the last threshold that its score lies above. name: the place of its name. kind: a key of KIND_WORDS; empty
    without ground truth.
    """

    x: float
    y: float
    width: float
    height: float
    text: str
    name: int = -1
    score: float = 1.0
    step: int = 0
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """One image of the gallery.

    Attributes:
        image: id, size and file name.
        thumbnail: a data URI; empty where there is none.
        labels: of each file, by falling score.
        base: base annotations.
        truth: for each file, the ground truth's objects of its novel names.
    """

    image: Image
    thumbnail: str
    labels: list[list[Box]]
    base: list[Box]
    truth: list[list[Box]]


def colour_of(place: int) -> str:
    """The colour of a name; beyond the palette it starts again."""
    return _COLOURS[place % len(_COLOURS)]


def choose_images(labels: LabelFile, wanted: int = SAMPLE, seed: int = 0) -> dict[str, list[int]]:
    """Ids of images by kind; none is in two of them, and each kind gets its share as far as there are images.

    best: with the highest mean score, those with one label behind the others. near: with a label closest above the
    threshold. worst: with most wrong labels and missed objects, where there is ground truth. random: of all that are
    left, also without labels.
    """
    ids = np.array(sorted(image.id for image in labels.file.images), np.int64)
    order = np.random.default_rng(seed).permutation(ids)
    place = {image_id: number for number, image_id in enumerate(order.tolist())}
    rows = np.array([place.get(image_id, -1) for image_id in labels.image_ids.tolist()], np.int64)
    known = rows >= 0
    count = np.bincount(rows[known], minlength=len(order))
    mean = np.bincount(rows[known], labels.scores[known], minlength=len(order)) / np.maximum(count, 1)
    lowest = np.full(len(order), np.inf)
    np.minimum.at(lowest, rows[known], labels.scores[known])
    kinds = {"best": -mean - (count > 1), "near": lowest}
    eligible = {"best": count > 0, "near": count > 0}
    if labels.judged is not None:
        kinds = {"worst": -_errors(labels, order)} | kinds
        eligible["worst"] = kinds["worst"] < 0
    share, taken, found = max(wanted // (len(kinds) + 1), 1), np.zeros(len(order), bool), {}
    for kind, value in kinds.items():
        candidates = np.flatnonzero(eligible[kind] & ~taken)
        best = candidates[np.argsort(value[candidates], kind="stable")][:share]
        taken[best] = True
        found[kind] = order[best].tolist()
    left = wanted - sum(map(len, found.values()))
    found["random"] = order[~taken][: max(left, 0)].tolist()
    shown = ("best", "random", "near", "worst")
    return {kind: found[kind] for kind in shown if found.get(kind)}


def _errors(labels: LabelFile, order: np.ndarray) -> np.ndarray:
    """Wrong labels and missed objects of each image, int64 (n,)."""
    judged = labels.judged
    assert judged is not None
    counts = []
    for image_id in order.tolist():
        right = wrong = 0
        if (image := judged.images.get(image_id)) is not None:
            right, wrong = int((image.kinds == 0).sum()), int((image.kinds > 0).sum())
        objects = judged.objects.get(image_id)
        counts.append(wrong + (0 if objects is None else len(objects.names)) - right)
    return np.array(counts, np.int64)


def make_cards(
    ids: Sequence[int], files: Sequence[LabelFile], names: Sequence[str], grids: Sequence[np.ndarray], root: Path | None
) -> dict[int, Card]:
    """The cards of these images.

    Args:
        names: of all files; a box has its place in them.
        grids: thresholds of each file.
        root: the image root; None: no thumbnails.

    Raises:
        UserError: no image is found under `root`.
    """
    first, wanted = files[0], set(ids)
    images = [
        Image(row.id, row.height or 1, row.width or 1, row.file_name or "", row.coco_url or f"image/{row.id}")
        for row in first.file.images
        if row.id in wanted
    ]
    thumbnails = {} if root is None else read_thumbnails(images, root, _scored_json(first))
    boxes = [_labels(labels, wanted, names, grid) for labels, grid in zip(files, grids, strict=True)]
    base, truth = _base(first, wanted), [_truth(labels, wanted, names) for labels in files]
    return {
        image.id: Card(
            image,
            thumbnails.get(image.id, ""),
            [own.get(image.id, []) for own in boxes],
            base.get(image.id, []),
            [own.get(image.id, []) for own in truth],
        )
        for image in images
    }


def _scored_json(labels: LabelFile) -> Path:
    """The JSON that was labelled: its name may say in which folder the images are."""
    name = labels.recorded("annotations", "name")
    return Path(name) if isinstance(name, str) else labels.path


def read_thumbnails(images: Sequence[Image], root: Path, annotations: Path) -> dict[int, str]:
    """JPEGs as data URIs by image id, without those that cannot be decoded.

    Raises:
        UserError: none of the images is under `root`.
    """
    try:
        index = index_images(images, str(root), annotations, follow_links=_RULES.follow_links)
    except UserError as error:
        raise UserError(str(error).replace("data.image_root", "--images (data.image_root)")) from None
    found = {}
    for place, image_id in enumerate(index.image_ids.tolist()):
        try:
            with open_picture(index.path(place), index.root, _RULES) as file:
                file.draft("RGB", (THUMBNAIL, THUMBNAIL))
                small = file.convert("RGB")
        except UNREADABLE:
            continue
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=_QUALITY)
        found[image_id] = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return found


def _labels(labels: LabelFile, wanted: set[int], names: Sequence[str], grid: np.ndarray) -> dict[int, list[Box]]:
    place = [names.index(name) for name in labels.names]
    steps, kinds = steps_of(labels.scores, grid).tolist(), _kinds(labels, wanted)
    found: dict[int, list[Box]] = {}
    for number, row in enumerate(labels.rows):
        if row.image_id in wanted:
            name, score = int(labels.name[number]), float(labels.scores[number])
            x, y, width, height = row.bbox
            kind = kinds.get((row.image_id, labels.names[name], score, x, y, x + width, y + height), "")
            box = Box(*row.bbox, labels.names[name], place[name], score, steps[number], kind)
            found.setdefault(row.image_id, []).append(box)
    return found


def _kinds(labels: LabelFile, wanted: set[int]) -> dict[tuple[object, ...], str]:
    """What ground truth says of a label, by its image, name, score and corners."""
    judged = labels.judged
    if judged is None:
        return {}
    return {
        (image_id, judged.name_of[name], score, *box): KINDS[kind]
        for image_id in wanted & judged.images.keys()
        for image in [judged.images[image_id]]
        for name, score, box, kind in zip(
            image.labels.names.tolist(),
            image.labels.scores.tolist(),
            image.labels.boxes_xyxy.tolist(),
            image.kinds.tolist(),
            strict=True,
        )
    }


def _base(labels: LabelFile, wanted: set[int]) -> dict[int, list[Box]]:
    categories = {category.id: category.name for category in labels.file.categories}
    found: dict[int, list[Box]] = {}
    for row in labels.file.annotations:
        if row.confidence is None and row.image_id in wanted:
            box = Box(*row.bbox, categories.get(row.category_id, "no category"))
            found.setdefault(row.image_id, []).append(box)
    return found


def _truth(labels: LabelFile, wanted: set[int], names: Sequence[str]) -> dict[int, list[Box]]:
    if labels.judged is None:
        return {}
    judged = labels.judged
    return {
        image_id: [
            Box(x0, y0, x1 - x0, y1 - y0, judged.name_of[number], names.index(judged.name_of[number]))
            for (x0, y0, x1, y1), number in zip(boxes.boxes_xyxy.tolist(), boxes.names.tolist(), strict=True)
        ]
        for image_id, boxes in judged.objects.items()
        if image_id in wanted
    }
