"""Scores that VL-PLM or MarvelOVD computed, as a region store that labelling reads.

Their stage 1 leaves files `CLIP_scores_*.json`, each a list an image under these keys:

    img_ids_list            ids of the images
    bbox_all_list           [x0, y0, x1, y1] a box, original pixels, clipped to the image
    rpn_score_all_list      objectness a box
    clip_score_all_list     [probability of the likeliest name, ...] a box
    clip_catIDs_all_list    [category id of that name, ...] a box

A file does not say which names and prompts it was made for; the configuration does. One file is read at a time, and an
image is decoded only when its turn comes.
"""

import hashlib
import itertools
import json
import mmap
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from tqdm import tqdm

from plgen_ddp import __version__
from plgen_ddp.coco import CocoFile, Id
from plgen_ddp.config import Config
from plgen_ddp.errors import UserError, one_line
from plgen_ddp.files import file_sha256
from plgen_ddp.image_files import dataset_digest
from plgen_ddp.json_text import UNREADABLE
from plgen_ddp.label.vocabulary import Vocabulary, read_templates, read_vocabulary
from plgen_ddp.manifest import Manifest
from plgen_ddp.options import given
from plgen_ddp.records import FixedVocabulary, ImportSummary, Regions, Similarity
from plgen_ddp.store import RegionStore, store_of

# Options that have no default and that an import needs.
IMPORT_REQUIRES = ("data.annotations", "label.vocabulary", "label.templates", "run.output")

_FILES = "CLIP_scores_*.json"
# Of both projects' softmax.
_TEMPERATURE = 0.01


def import_scores(folder: Path, config: Config) -> ImportSummary:
    """Makes the store of a run from the files of scores in `folder`, in the order of their names.

    The store appears when it is complete. Of an image that is in the files twice, the first copy is taken.

    Raises:
        UserError: no such files, a store that exists, a file of another form, a name that is not in the vocabulary, or
            scores of other images.
    """
    store = store_of(config)
    if store.folder.exists():
        raise UserError(f"run.output: {store.folder} exists; choose another run.output, or remove it")
    paths = _files(folder)
    coco = CocoFile(given(config.data.annotations), "data.annotations")
    images = coco.images()
    vocabulary = read_vocabulary(config).of_json(coco)
    novel_ids, _ = vocabulary.category_ids(coco.categories())
    fixed = fixed_vocabulary(vocabulary, read_templates(config))
    scores = _Scores(paths, {image.id: (image.width, image.height) for image in images}, novel_ids)
    manifest = Manifest(
        dim=0,
        similarity=Similarity("softmax", config.label.temperature or _TEMPERATURE),
        identity={
            "dataset": {"digest": dataset_digest(images), "images": len(images)},
            "scores": {"sha256": _digest(paths), "files": len(paths)} | asdict(fixed),
        },
        versions={"plgen_ddp": __version__},
        annotations=str(coco.path.resolve()),
        vocabulary=fixed,
    )
    output = store.folder.parent
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=output) as temporary:
        new = RegionStore(Path(temporary, "store"))
        new.open_for_scoring(manifest)
        rows = iter(scores)
        while part := list(itertools.islice(rows, config.run.images_per_part)):
            new.write_part(sorted(part, key=lambda row: row.image_id))
        if not scores.seen:
            raise UserError(f"--scores: none of the images in {folder} is in data.annotations, {coco.path}")
        new.folder.rename(store.folder)
    return ImportSummary(
        store=store.folder,
        files=len(paths),
        images=len(scores.seen),
        boxes=scores.boxes,
        twice=sorted(scores.twice),
        unknown=sorted(scores.unknown),
        missing=[image.id for image in images if image.id not in scores.seen],
    )


def fixed_vocabulary(vocabulary: Vocabulary, templates: Sequence[str]) -> FixedVocabulary:
    """What decides a probability of `label.class_score` novel, beside the temperature."""
    digest = hashlib.sha256(json.dumps(list(templates)).encode()).hexdigest()
    return FixedVocabulary(vocabulary.novel, vocabulary.distractors, vocabulary.aliases, digest)


class _File(msgspec.Struct):
    """One file of scores; an image's values stay text until they are asked for."""

    img_ids_list: list[Id]
    bbox_all_list: list[msgspec.Raw]
    rpn_score_all_list: list[msgspec.Raw]
    clip_score_all_list: list[msgspec.Raw]
    clip_catIDs_all_list: list[msgspec.Raw]


_BOXES = msgspec.json.Decoder(list[tuple[float, float, float, float]])
_NUMBERS = msgspec.json.Decoder(list[float])
_RANKED = msgspec.json.Decoder(list[list[float]])
_RANKED_IDS = msgspec.json.Decoder(list[list[Id]])


@dataclass
class _Scores:
    """The images of the files, each once, and what was met on the way.

    Attributes:
        extents: (width, height) in pixels of each image of the JSON, by image id.
        novel_ids: category ids of the names, in the vocabulary's order.
        seen, twice, unknown: image ids that are stored, that came again, and that the JSON lacks.
        boxes: how many are stored.
    """

    paths: Sequence[Path]
    extents: dict[int, tuple[int, int]]
    novel_ids: Sequence[int]
    seen: set[int] = field(default_factory=set)
    twice: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    boxes: int = 0

    def __iter__(self) -> Iterator[Regions]:
        for path in tqdm(self.paths, unit="file", desc="importing", disable=not sys.stderr.isatty()):
            file = _read(path)
            for row, image_id in enumerate(file.img_ids_list):
                if image_id not in self.extents:
                    self.unknown.add(image_id)
                elif image_id in self.seen:
                    self.twice.add(image_id)
                else:
                    regions = self._regions(path, file, row)
                    self.seen.add(image_id)
                    self.boxes += len(regions.objectness)
                    yield regions

    def _regions(self, path: Path, file: _File, row: int) -> Regions:
        image_id = file.img_ids_list[row]
        try:
            boxes = np.array(_BOXES.decode(file.bbox_all_list[row]), np.float64).reshape(-1, 4)
            objectness = np.array(_NUMBERS.decode(file.rpn_score_all_list[row]), np.float64)
            score = _first(_RANKED.decode(file.clip_score_all_list[row]), np.float64)
            category_id = _first(_RANKED_IDS.decode(file.clip_catIDs_all_list[row]), np.int64)
        except (*UNREADABLE, ValueError) as error:
            raise _not_scores(path, f"image {image_id}: {one_line(error)}") from None
        if not len(boxes) == len(objectness) == len(score) == len(category_id):
            counts = f"{len(boxes)} boxes, {len(objectness)} RPN scores, {len(score)} CLIP scores"
            raise _not_scores(path, f"image {image_id} has {counts} and {len(category_id)} category ids")
        both = np.concatenate([objectness, score])
        if ((both < 0) | (both > 1)).any():
            raise _not_scores(path, f"image {image_id} has a score outside [0, 1]")
        if (boxes[:, 2:] < boxes[:, :2]).any():
            raise _not_scores(path, f"image {image_id} has a box that is not [x0, y0, x1, y1]")
        extent = self.extents[image_id]
        if (boxes < 0).any() or (boxes[:, 2:] > extent).any():
            raise UserError(
                f"--scores: {path}: image {image_id} has a box outside {extent[0]} x {extent[1]} pixels, its size in "
                "data.annotations; the scores must be of these images, with boxes clipped to them"
            )
        return Regions(
            image_id,
            boxes,
            objectness,
            np.empty((len(boxes), 0), np.float16),
            top_name=self._names(path, image_id, category_id),
            top_score=score,
        )

    def _names(self, path: Path, image_id: int, category_id: np.ndarray) -> np.ndarray:
        order = np.argsort(self.novel_ids)
        ids = np.array(self.novel_ids, np.int64)[order]
        place = np.minimum(np.searchsorted(ids, category_id), len(ids) - 1)
        strange = category_id[ids[place] != category_id]
        if len(strange):
            raise UserError(
                f"--scores: {path}: image {image_id} has category id {strange[0]}, which no novel name of "
                "label.vocabulary has; it must list the names that the scores were made for"
            )
        return order[place].astype(np.int32)


def _files(folder: Path) -> list[Path]:
    paths = sorted(folder.glob(_FILES))
    if not paths:
        where = f"no {_FILES} in {folder}" if folder.is_dir() else f"no folder at {folder}"
        raise UserError(f"--scores: {where}; give the folder that VL-PLM's or MarvelOVD's scores were saved to")
    return paths


def _read(path: Path) -> _File:
    with path.open("rb") as stream:
        try:
            # Mapped: the undecoded values are views of it.
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise _not_scores(path, "it is empty") from None
    try:
        file = msgspec.json.decode(content, type=_File)
    except UNREADABLE as error:
        not_a_number = content.find(b"NaN") >= 0 or content.find(b"Infinity") >= 0
        raise _not_scores(path, "it holds NaN or Infinity" if not_a_number else one_line(error)) from None
    for key in _File.__struct_fields__:
        if len(getattr(file, key)) != len(file.img_ids_list):
            found = f"{len(file.img_ids_list)} images and {len(getattr(file, key))} entries in {key}"
            raise _not_scores(path, f"it has {found}")
    return file


def _first(ranked: list[list[float]] | list[list[int]], kind: type[np.generic]) -> np.ndarray:
    """The first value of each box, (n,); as many were kept of each.

    Raises:
        ValueError: a box has none.
    """
    if not all(ranked):
        raise ValueError("a box has no CLIP score or no category id")
    return np.array(ranked, kind).reshape(len(ranked), -1)[:, 0] if ranked else np.empty(0, kind)


def _digest(paths: Sequence[Path]) -> str:
    """SHA-256 of the files' own, in their order."""
    return hashlib.sha256(" ".join(map(file_sha256, paths)).encode()).hexdigest()


def _not_scores(path: Path, reason: str) -> UserError:
    return UserError(f"--scores: {path} is not a file of CLIP scores of VL-PLM or MarvelOVD: {reason}")
