"""What travels between the rooms: one record per thing, NumPy arrays only.

A region has one shape from the encoder through the store to the labels: `Regions`. Boxes have their format in their
name. `Similarity`, `Regions` and `PseudoLabels` are checked when they are built: values and shapes, no dtypes.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

Columns = TypeVar("Columns", bound=Any)

# Pseudo labels that are turned into Python objects at a time.
_ROWS = 10_000

EVIDENCE = ("foreground", "last_move", "agreement", "scale_cosine")
"""The columns that stage 1 stores beside objectness; see `Regions`."""


def concatenated(parts: Sequence[Columns]) -> Columns:
    """Records of arrays as one record, the rows of all parts in their order; at least one part."""
    kind = type(parts[0])
    names = [column.name for column in fields(kind)]
    return kind(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True, slots=True)
class Similarity:
    """How an encoder's cosines become probabilities of names.

    Attributes:
        rule: "softmax" of cosine / temperature over all names (CLIP), or for each name alone "sigmoid" of
            cosine / temperature + bias (SigLIP, arXiv 2303.15343).
        temperature: 1 / the model's learned logit scale; 0.01 for OpenAI's CLIP.
        bias: the model's learned logit bias; 0 for a softmax.
    """

    rule: Literal["softmax", "sigmoid"]
    temperature: float
    bias: float = 0.0

    def __post_init__(self) -> None:
        assert self.rule in ("softmax", "sigmoid"), f"rule is {self.rule!r}, expected softmax or sigmoid"
        assert 0 < self.temperature < math.inf, f"temperature is {self.temperature!r}, expected a positive number"
        assert math.isfinite(self.bias), f"bias is {self.bias!r}, expected a finite number"


@dataclass(frozen=True, slots=True)
class FixedVocabulary:
    """What imported scores were computed for: without embeddings, they say nothing about other names or prompts.

    Attributes:
        names: the novel names, which `Regions.top_name` indexes.
        distractors: names that were scored against them and never chosen.
        aliases: words that replaced a name in the prompts.
        templates: SHA-256 of the prompt templates.
    """

    names: tuple[str, ...]
    distractors: tuple[str, ...]
    aliases: Mapping[str, tuple[str, ...]]
    templates: str

    @classmethod
    def of(
        cls, names: Sequence[str], distractors: Sequence[str], aliases: Mapping[str, Sequence[str]], templates: str
    ) -> "FixedVocabulary":
        """The record of what may be lists."""
        words = {name: tuple(own) for name, own in aliases.items()}
        return cls(tuple(names), tuple(distractors), words, templates)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an image could not be scored: the stage that failed ("read", "decode"), and the reason in one line."""

    stage: str
    reason: str


@dataclass(frozen=True, slots=True)
class Regions:
    """The regions of one image, in the order of its proposals, or the reason why it has none.

    Attributes:
        image_id: COCO's id of the image.
        boxes_xyxy: float32 (n, 4), original pixels, clipped to the image.
        objectness: float32 (n,), in [0, 1], falling: the RPN's objectness, or the score in a file of boxes.
        embeddings: float16 (n, d), unit length up to rounding.
        foreground: float32 (n,), in [0, 1]: the box head's foreground probability in its last refinement pass.
        last_move: float32 (n,), in [0, 1]: IoU of the box before and after its last refinement pass.
        agreement: float32 (n,), in [0, 1]: mean of the box's five largest IoUs with the RPN's other proposals, before
            its suppression.
        scale_cosine: float32 (n,), in [-1, 1]: cosine between the embeddings of the crops at the first two scales.
        failure: why the image could not be scored; it then has no regions.
        top_name: int32 (n,): the likeliest name, an index into `FixedVocabulary.names` of the store.
        top_score: float64 (n,), in [0, 1]: the probability of that name.

    Of the four columns before `failure` (`EVIDENCE`), `scale_cosine` is None where boxes are cropped at one scale, the
    others where the source of the boxes has no such evidence. The last two are None but for imported scores, which
    have no evidence, no embeddings (d is 0), and boxes and objectness in float64.
    """

    image_id: int
    boxes_xyxy: np.ndarray
    objectness: np.ndarray
    embeddings: np.ndarray
    foreground: np.ndarray | None = None
    last_move: np.ndarray | None = None
    agreement: np.ndarray | None = None
    scale_cosine: np.ndarray | None = None
    failure: Failure | None = None
    top_name: np.ndarray | None = None
    top_score: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.objectness)
        _check_shape("boxes_xyxy", self.boxes_xyxy, (count, 4))
        assert self.embeddings.ndim == 2 and len(self.embeddings) == count, (
            f"embeddings has shape {self.embeddings.shape}, expected ({count}, d)"
        )
        for name in (*EVIDENCE, "top_name", "top_score"):
            if (column := getattr(self, name)) is not None:
                _check_shape(name, column, (count,))
        assert self.failure is None or count == 0, "an image that failed has no regions"

    @classmethod
    def failed(cls, image_id: int, stage: str, reason: str) -> "Regions":
        """The record of an image that could not be scored."""
        nothing = np.empty(0, np.float32)
        empty = np.empty((0, 0), np.float16)
        return cls(image_id, nothing.reshape(0, 4), nothing, empty, failure=Failure(stage, reason))


def same_regions(one: Regions, other: Regions) -> bool:
    """Whether two records of an image agree to the last bit."""

    def same(name: str) -> bool:
        before, after = getattr(one, name), getattr(other, name)
        if isinstance(before, np.ndarray) and isinstance(after, np.ndarray):
            return before.dtype == after.dtype and np.array_equal(before, after)
        return before is after or (type(before) is type(after) and bool(before == after))

    return all(same(column.name) for column in fields(Regions))


@dataclass(frozen=True, slots=True)
class RankSummary:
    """What one rank did in stage 1.

    Attributes:
        images, boxes: how many it scored and stored.
        seconds: from the first image to the last part on disk.
        waited: how many of these seconds it had no image to work on.
        peak_memory, peak_gpu_memory: bytes.
        host: name of the machine.
    """

    images: int
    boxes: int
    seconds: float
    waited: float
    peak_memory: int
    peak_gpu_memory: int
    host: str


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What one import of another project's scores read and stored.

    Attributes:
        store: the folder.
        files, images, boxes: how many it stored, and from how many files.
        twice: ids of images that the files have more than once, ascending.
        unknown: ids of images that the JSON lacks, ascending; they are not stored.
        missing: ids of images of the JSON that no file has, ascending.
    """

    store: Path
    files: int
    images: int
    boxes: int
    twice: list[int]
    unknown: list[int]
    missing: list[int]


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """What one labelling wrote.

    Attributes:
        path: the labelled JSON.
        images: images in it.
        failed_images: of these, how many stage 1 could not score.
        pseudo_labels, base_annotations: annotations in it.
    """

    path: Path
    images: int
    failed_images: int
    pseudo_labels: int
    base_annotations: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What a leakage audit of a labelled JSON found.

    Attributes:
        leaks: one line each; of more than ten of a kind, the others are counted in one.
        images, pseudo_labels, base_annotations: how many were looked at.
        unjudged: pseudo labels that equal a novel annotation and are no leak, because such boxes agree by chance.
    """

    leaks: tuple[str, ...]
    images: int
    pseudo_labels: int
    base_annotations: int
    unjudged: int


@dataclass(frozen=True, slots=True)
class Curve:
    """Labels of one rule at several thresholds, for a picture; a list a figure, in the order of the thresholds.

    precision, recall and f1 are None without ground truth.
    """

    title: str
    thresholds: list[float]
    labels_per_image: list[float]
    precision: list[float] | None = None
    recall: list[float] | None = None
    f1: list[float] | None = None


class PseudoLabel(msgspec.Struct, gc=False):
    """One pseudo label as it is written: the keys that VL-PLM's and MarvelOVD's training loaders read, and a real area.

    `segmentation` is the box as a polygon with one number too many: x0, y0, x1, y0, x1, y1, x0, y1, x0. Those loaders
    recognise a box without a mask by a list in which no polygon is valid, and an odd count is not valid to them.
    pycocotools drops the last number: `annToMask` fills the box. (It fails on the recipes' own [[]].)

    `score` repeats `confidence`, under the name that COCO results and FiftyOne have for it.
    """

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]  # xywh, original pixels
    area: float  # pixels
    confidence: float
    score: float
    clip_score: float
    rpn_score: float
    segmentation: list[list[float]]  # pixels, rounded to hundredths as COCO's polygons are
    box_score: float | msgspec.UnsetType = msgspec.UNSET
    iscrowd: int = 0
    thing_isBase: bool = False
    thing_isNovel: bool = True


@dataclass(frozen=True, slots=True)
class PseudoLabels:
    """Pseudo labels in columns: image by image, in an image by falling score.

    Attributes:
        image_ids, category_ids: int64 (n,).
        boxes_xywh: float64 (n, 4), original pixels.
        scores: float64 (n,), in [0, 1]: the fused score.
        clip_scores: float64 (n,), in [0, 1]: the probability of the name.
        box_scores: float64 (n,), in [0, 1]: how good the box is.
        objectness: float64 (n,), in [0, 1].
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes_xywh: np.ndarray
    scores: np.ndarray
    clip_scores: np.ndarray
    box_scores: np.ndarray
    objectness: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.image_ids)
        for name in ("category_ids", "scores", "clip_scores", "box_scores", "objectness"):
            _check_shape(name, getattr(self, name), (count,))
        _check_shape("boxes_xywh", self.boxes_xywh, (count, 4))

    def __len__(self) -> int:
        return len(self.image_ids)

    @classmethod
    def concatenate(cls, parts: Sequence["PseudoLabels"]) -> "PseudoLabels":
        """All parts' rows in their order."""
        if not parts:
            empty, ids = np.empty(0), np.empty(0, np.int64)
            return cls(ids, ids, np.empty((0, 4)), empty, empty, empty, empty)
        return concatenated(parts)

    def chosen(self, which: np.ndarray | slice) -> "PseudoLabels":
        """The rows at `which`: bool (n,), indices or a slice."""
        return PseudoLabels(*(getattr(self, name)[which] for name in self.__slots__))

    def sorted_by_image(self) -> "PseudoLabels":
        """The rows by rising image id; the order within an image stays."""
        return self.chosen(np.argsort(self.image_ids, kind="stable"))

    def rows(self, first_id: int, *, box_score: bool = False) -> Iterator[PseudoLabel]:
        """The annotations to write, with ids `first_id`, `first_id` - 1, ...

        Args:
            box_score: write the key `box_score` too; the recipes' labels do not have it.
        """
        for start in range(0, len(self), _ROWS):  # as Python's objects, a whole train2017 would take a gigabyte
            part = self.chosen(slice(start, start + _ROWS))
            columns = [getattr(part, name).tolist() for name in self.__slots__]
            image_ids, category_ids, boxes, scores, clip_scores, qualities, objectness = columns
            areas = (part.boxes_xywh[:, 2] * part.boxes_xywh[:, 3]).tolist()
            outlines = _outlines(part.boxes_xywh)[:, None].tolist()
            written = qualities if box_score else itertools.repeat(msgspec.UNSET)
            ids = range(first_id - start, first_id - start - len(part), -1)
            # In the order of its fields. A `map` and not a loop: the labels of train2017 are a million.
            yield from map(
                PseudoLabel,
                *(
                    ids,
                    image_ids,
                    category_ids,
                    boxes,
                    areas,
                    scores,
                    scores,
                    clip_scores,
                    objectness,
                    outlines,
                    written,
                ),
            )


def _outlines(boxes_xywh: np.ndarray) -> np.ndarray:
    """float64 (n, 9): the corners of each box (n, 4), and the first number again; see `PseudoLabel`."""
    x0, y0 = boxes_xywh[:, 0], boxes_xywh[:, 1]
    x1, y1 = x0 + boxes_xywh[:, 2], y0 + boxes_xywh[:, 3]
    return np.stack([x0, y0, x1, y0, x1, y1, x0, y1, x0], axis=1).round(2)


def _check_shape(name: str, array: np.ndarray, expected: tuple[int, ...]) -> None:
    assert array.shape == expected, f"{name} has shape {array.shape}, expected {expected}"
