"""The boxes of a store that look most like a text, one an object. It reads part after part and keeps the best."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from plgen_ddp.label.class_scores import cosines
from plgen_ddp.label.labels import nms
from plgen_ddp.processor import available_cores
from plgen_ddp.records import concatenated
from plgen_ddp.store import RegionStore

# How many candidates of a part are looked at first for each box wanted; most parts need no more.
_CANDIDATES = 8


@dataclass(frozen=True, slots=True)
class FoundBoxes:
    """Boxes by falling cosine.

    Attributes:
        image_ids: int64 (n,).
        places: int64 (n,), of each box among those of its image.
        boxes_xyxy: float64 (n, 4), original pixels.
        cosines: float64 (n,), in [-1, 1].
        objectness: float64 (n,), in [0, 1].
    """

    image_ids: np.ndarray
    places: np.ndarray
    boxes_xyxy: np.ndarray
    cosines: np.ndarray
    objectness: np.ndarray

    @classmethod
    def none(cls) -> "FoundBoxes":
        """No boxes."""
        ids, numbers = np.empty(0, np.int64), np.empty(0)
        return cls(ids, ids, np.empty((0, 4)), numbers, numbers)

    def chosen(self, rows: np.ndarray) -> "FoundBoxes":
        """The boxes at `rows`, int64."""
        return FoundBoxes(*(getattr(self, name)[rows] for name in self.__slots__))

    def best(self, count: int) -> "FoundBoxes":
        """At most `count` boxes by falling cosine; of equal ones the lower image id and place comes first."""
        return self.chosen(np.lexsort((self.places, self.image_ids, -self.cosines))[:count])


def nearest_boxes(
    store: RegionStore, paths: Sequence[Path], text_embedding: np.ndarray, count: int, iou: float
) -> FoundBoxes:
    """The `count` boxes nearest to a text, of which no two of an image overlap by an IoU above `iou`.

    Memory holds one part for each core, and what was found so far.

    Args:
        paths: of the parts to look at.
        text_embedding: float32 (d,), unit length.

    Raises:
        UserError: a damaged part.
    """

    def of_part(path: Path) -> FoundBoxes:
        return _distinct(_boxes_of_part(store, path, text_embedding), count, iou)

    found = FoundBoxes.none()
    # The parts are the parallelism, as in labelling.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(available_cores()) as pool:
        for more in pool.map(of_part, paths):
            found = concatenated([found, more]).best(count)
    return found


def _boxes_of_part(store: RegionStore, path: Path, text_embedding: np.ndarray) -> FoundBoxes:
    """Every box of a part, with its cosine."""
    parts = [FoundBoxes.none()]
    for image in store.read_part(path):
        if boxes := len(image.objectness):
            parts.append(
                FoundBoxes(
                    np.full(boxes, image.image_id, np.int64),
                    np.arange(boxes),
                    image.boxes_xyxy.astype(np.float64),
                    cosines(image.embeddings, text_embedding[None])[:, 0],
                    image.objectness.astype(np.float64),
                )
            )
    return concatenated(parts)


def _distinct(boxes: FoundBoxes, count: int, iou: float) -> FoundBoxes:
    """The `count` best boxes that suppression by their cosines keeps.

    A box is suppressed only by a better one, so what suppression keeps of the best candidates is what it would keep of
    them among all.
    """
    ordered = boxes.best(len(boxes.cosines))
    looked_at = _CANDIDATES * count
    while True:
        candidates = ordered.chosen(np.arange(min(looked_at, len(ordered.cosines))))
        kept = nms(candidates.boxes_xyxy, candidates.cosines, candidates.image_ids, iou)[:count]
        if len(kept) == count or looked_at >= len(ordered.cosines):
            return candidates.chosen(kept)
        looked_at *= 4
