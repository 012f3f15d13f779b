"""How good labels are at any score threshold, from one matching with ground truth.

Labels are matched by falling score, so no label's match depends on those below it: what lies above a threshold is a
prefix of one ranking. AP is COCO's (pycocotools' COCOeval with its defaults, all areas), to the last digits.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plgen_ddp.boxes import pairs_in_ranges
from plgen_ddp.coco_boxes import read_ground_truth
from plgen_ddp.errors import UserError
from plgen_ddp.label_quality import RIGHT_IOU, f1_score
from plgen_ddp.records import PseudoLabels

IOUS = np.linspace(0.5, 0.95, 10)
"""COCO's, of AP; AP50 and right labels are those of the first."""
_RECALLS = np.linspace(0.0, 1.0, 101)
_MAX_LABELS = 100  # an image and a name; COCO's maxDets
_ALL = np.uint16(2 ** len(IOUS) - 1)
assert IOUS[0] == RIGHT_IOU


@dataclass(frozen=True, slots=True)
class Objects:
    """Ground truth of some names on some images, sorted by image and name; crowds are the last of each.

    Attributes:
        names: how many names there are.
        images: int64, ascending: the images with ground truth, with objects or without.
        keys: int64 (n,), place of the image times `names` plus the name, ascending.
        boxes_xywh: float64 (n, 4), pixels.
        crowd: bool (n,).
        counts: int64 (names,), objects of each name without crowds.
    """

    names: int
    images: np.ndarray
    keys: np.ndarray
    boxes_xywh: np.ndarray
    crowd: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(
        cls,
        names: int,
        images: np.ndarray,
        image_ids: np.ndarray,
        name: np.ndarray,
        boxes: np.ndarray,
        crowd: np.ndarray,
    ) -> "Objects":
        """The objects on `images`, int64 ascending, of columns (n,) and boxes xywh (n, 4) in any order."""
        here = np.isin(image_ids, images)
        keys = np.searchsorted(images, image_ids[here]) * names + name[here]
        order = np.lexsort((crowd[here], keys))
        counts = np.bincount(name[here][~crowd[here]], minlength=names)
        return cls(names, images, keys[order], boxes[here][order], crowd[here][order], counts)


@dataclass(frozen=True, slots=True)
class JudgedLabels:
    """Labels with what ground truth says of them, (n,) each.

    Attributes:
        image_ids: int64. names: int32. scores: float64.
        found: uint16, bit k: it finds an object at IOUS[k].
        ignored: uint16, bit k: COCO does not count it at IOUS[k], because it lies on a crowd.
        judged: bool, whether its image has ground truth.
    """

    image_ids: np.ndarray
    names: np.ndarray
    scores: np.ndarray
    found: np.ndarray
    ignored: np.ndarray
    judged: np.ndarray


@dataclass(frozen=True, slots=True)
class Figures:
    """How good labels are, in [0, 1]; AP and AP50 are -1 where there is no object.

    precision, recall, f1: at IoU 0.5, one to one, at the labels' own threshold. AP: over IOUS. AP50: at IoU 0.5.
    """

    precision: float
    recall: float
    f1: float
    AP: float
    AP50: float


def read_objects(path: Path, names: Sequence[str], extents: Mapping[int, tuple[int, int]]) -> Objects:
    """The objects of these names in a COCO-format JSON, on its images that are labelled.

    Args:
        extents: (width, height) of each labelled image, by id.

    Raises:
        UserError: an unreadable file, pseudo labels, a name that it lacks, no image in common, one of another size, or
            no object of the names.
    """
    file = read_ground_truth(path)
    place = {category_id: number for number, category_id in enumerate(file.category_ids(names, path))}
    common = [image for image in file.images if image.id in extents]
    if not common:
        raise UserError(f"the ground truth {path} has none of the images that are labelled")
    for image in common:
        if image.width is not None and (image.width, image.height) != extents[image.id]:
            raise UserError(
                f"image {image.id} of the ground truth {path} has another size than the one that is labelled"
            )
    rows = [row for row in file.annotations if row.category_id in place]
    objects = Objects.of(
        len(names),
        np.unique([image.id for image in common]),
        np.array([row.image_id for row in rows], np.int64),
        np.array([place[row.category_id] for row in rows], np.int64),
        np.array([row.bbox for row in rows], np.float64).reshape(-1, 4),
        np.array([bool(row.iscrowd) for row in rows], bool),
    )
    if not objects.counts.any():
        raise UserError(
            f"the ground truth {path} has no object of {', '.join(names[:5])} on the images that are labelled"
        )
    return objects


def judge(labels: PseudoLabels, names: np.ndarray, objects: Objects | None) -> JudgedLabels:
    """What the objects say of the labels; nothing where there is no ground truth.

    Args:
        labels: image by image, in an image by falling score.
        names: int64 (n,), of each.
    """
    found, ignored = np.zeros(len(labels), np.uint16), np.zeros(len(labels), np.uint16)
    judged = np.zeros(len(labels), bool)
    if objects is not None and len(labels):
        place = np.minimum(np.searchsorted(objects.images, labels.image_ids), len(objects.images) - 1)
        judged = objects.images[place] == labels.image_ids
        keys = place * objects.names + names
        keys[~judged] = -1  # which no object has
        found, ignored = _match(labels.boxes_xywh, keys, objects)
        ignored[_rank_in_group(keys) >= _MAX_LABELS] = _ALL
    return JudgedLabels(labels.image_ids, names.astype(np.int32), labels.scores, found, ignored, judged)


class RankedLabels:
    """The labels of one ranking, ready to be cut at any thresholds."""

    def __init__(self, labels: JudgedLabels, objects: Objects | None, names: int) -> None:
        """
        Args:
            names: how many there are.
        """
        order = np.lexsort((labels.image_ids, -labels.scores, labels.names))
        bounds = np.searchsorted(labels.names[order], np.arange(names + 1)).tolist()
        rows = [order[start:end] for start, end in itertools.pairwise(bounds)]
        self._scores = [labels.scores[own] for own in rows]
        self._names: list[_RankedName] = []
        if objects is not None:
            self._names = [
                _RankedName(labels.found[own], labels.ignored[own], labels.judged[own], count)
                for own, count in zip(rows, objects.counts.tolist(), strict=True)
            ]

    def counts(self, thresholds: np.ndarray) -> np.ndarray:
        """The number of labels of each name above its threshold, int64 (names,)."""
        above = [np.searchsorted(-own, -least) for own, least in zip(self._scores, thresholds, strict=True)]
        return np.array(above, np.int64)

    def figures(self, thresholds: np.ndarray) -> tuple[Figures, list[Figures]]:
        """How good the labels above the thresholds float64 (names,) are: of all names, and of each."""
        cut = self.counts(thresholds).tolist()
        tallies = [name.tally(above) for name, above in zip(self._names, cut, strict=True)]
        precisions = [name.precisions(above) for name, above in zip(self._names, cut, strict=True)]
        by_name = [_figures(np.array([tally]), [curve]) for tally, curve in zip(tallies, precisions, strict=True)]
        return _figures(np.array(tallies), precisions), by_name


class _RankedName:
    """The labels of one name by falling score."""

    def __init__(self, found: np.ndarray, ignored: np.ndarray, judged: np.ndarray, objects: int) -> None:
        self._objects = objects
        self._right = np.concatenate([[0], np.cumsum(found & 1)])
        self._judged = np.concatenate([[0], np.cumsum(judged)])
        # At each IoU: where the labels that find an object are, and how many that count there are up to each of them.
        self._hits = []
        for bit in range(len(IOUS)):
            counts = judged & ((ignored >> bit) & 1 == 0)
            hits = np.flatnonzero(counts & ((found >> bit) & 1 == 1))
            self._hits.append((hits, np.cumsum(counts)[hits]))

    def tally(self, above: int) -> tuple[int, int, int]:
        """(right labels, labels, objects) of the first `above` labels."""
        return int(self._right[above]), int(self._judged[above]), self._objects

    def precisions(self, above: int) -> np.ndarray | None:
        """COCO's precision float64 (IoUs, recalls) of the first `above` labels; None without objects."""
        if not self._objects:
            return None
        curve = np.zeros((len(IOUS), len(_RECALLS)))
        for own, (hits, ranks) in zip(curve, self._hits, strict=True):
            count = int(np.searchsorted(hits, above))
            if count:
                right = np.arange(1.0, count + 1)
                precision = right / (ranks[:count] + np.spacing(1))
                best = np.maximum.accumulate(precision[::-1])[::-1]
                reached = np.searchsorted(right / self._objects, _RECALLS)
                own[reached < count] = best[reached[reached < count]]
        return curve


def _figures(tallies: np.ndarray, curves: Sequence[np.ndarray | None]) -> Figures:
    """Of the tallies (names, 3) and precisions of some names."""
    right, labels, objects = tallies.sum(axis=0).tolist()
    precision, recall = right / max(labels, 1), right / max(objects, 1)
    known = [curve for curve in curves if curve is not None]
    return Figures(
        precision,
        recall,
        f1_score(precision, recall),
        float(np.mean(known)) if known else -1.0,
        float(np.mean([curve[0] for curve in known])) if known else -1.0,
    )


def _rank_in_group(keys: np.ndarray) -> np.ndarray:
    """How many earlier labels have the same key, int64 (n,)."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    ranks = np.empty(len(keys), np.int64)
    ranks[order] = np.arange(len(keys)) - np.searchsorted(ordered, ordered)
    return ranks


def _match(boxes_xywh: np.ndarray, keys: np.ndarray, objects: Objects) -> tuple[np.ndarray, np.ndarray]:
    """What each label finds: (found, ignored) uint16 (n,), a bit an IoU.

    Args:
        boxes_xywh: (n, 4), by falling score where the keys are equal.
        keys: int64 (n,), image and name as in `Objects.keys`.
    """
    start, end = (np.searchsorted(objects.keys, keys, side=side) for side in ("left", "right"))
    label, target = pairs_in_ranges(start, end)
    overlap = _coco_ious(boxes_xywh[label], objects.boxes_xywh[target], objects.crowd[target])
    near = np.flatnonzero(overlap >= IOUS[0])
    # Of each label the nearest object first; of equally near ones COCO takes the last.
    near = near[np.lexsort((-target[near], -overlap[near], label[near]))]
    label, target, overlap = label[near], target[near], overlap[near]
    crowd = objects.crowd[target]
    found, ignored = np.zeros(len(keys), np.uint16), np.zeros(len(keys), np.uint16)
    for bit, iou in enumerate(IOUS):
        close = overlap >= min(iou, 1 - 1e-10)
        on_crowd = label[close & crowd]
        hits = _first_come(label[close & ~crowd], target[close & ~crowd])
        found[hits] |= np.uint16(1 << bit)
        ignored[on_crowd] |= np.uint16(1 << bit)
    return found, ignored & ~found


def _first_come(label: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The labels that get a target when each in turn takes the free target that it likes best.

    Args:
        label, target: int64 (pairs,), by rising label, of each label the best target first.

    All labels ask for their best target at once, the first one of each target may hold it, the others strike it off
    and ask again. That ends as taking turns does, because all targets prefer labels in the same order.
    """
    while len(label):
        asks = np.flatnonzero(np.append(True, label[1:] != label[:-1]))
        _, first = np.unique(target[asks], return_index=True)
        if len(first) == len(asks):
            return label[asks]
        refused = np.setdiff1d(asks, asks[first], assume_unique=True)
        label, target = np.delete(label, refused), np.delete(target, refused)
    return label


def _coco_ious(boxes_xywh: np.ndarray, others_xywh: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of boxes (n, 4) with others, (n,); with a crowd the share of the box. In the order of pycocotools' sums."""
    low = np.maximum(boxes_xywh[:, :2], others_xywh[:, :2])
    high = np.minimum(boxes_xywh[:, :2] + boxes_xywh[:, 2:], others_xywh[:, :2] + others_xywh[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    own = boxes_xywh[:, 2] * boxes_xywh[:, 3]
    union = np.where(crowd, own, own + others_xywh[:, 2] * others_xywh[:, 3] - shared)
    return shared / np.maximum(union, np.finfo(np.float64).tiny)
