"""The boxes of several images under each other, so that they are scored together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from plgen_ddp.records import EVIDENCE, Regions

NO_EXTENT = (0, 0)
"""In the place of an image's (width, height), for rules that score each box alone."""
_NO_IMAGE = -1
_OPTIONAL = (*EVIDENCE, "top_name", "top_score")


@dataclass(frozen=True, slots=True)
class StackedBoxes:
    """Boxes of several images.

    Attributes:
        regions: all of them as if of one image. A column is None where one of them lacks it.
        place: int64 (n,), ascending: which of the images each is of.
        image_ids: int64 (images,). extents: int64 (images, 2), (width, height) in pixels.
    """

    regions: Regions
    place: np.ndarray
    image_ids: np.ndarray
    extents: np.ndarray

    @classmethod
    def of(cls, images: Sequence[Regions], extents: Sequence[tuple[int, int]] | None = None) -> "StackedBoxes":
        """All boxes of these images, one at least, without their embeddings.

        Args:
            extents: (width, height) of each image, pixels; not needed for rules that score each box alone.
        """
        filled = [image for image in images if len(image.objectness)] or images[:1]
        optional: dict[str, Any] = {}
        for name in _OPTIONAL:
            columns = [getattr(image, name) for image in filled]
            optional[name] = None if any(column is None for column in columns) else np.concatenate(columns)
        regions = Regions(
            _NO_IMAGE,
            np.concatenate([image.boxes_xyxy for image in filled]),
            objectness := np.concatenate([image.objectness for image in filled]),
            np.empty((len(objectness), 0), np.float16),
            **optional,
        )
        return cls(
            regions,
            np.repeat(np.arange(len(images)), [len(image.objectness) for image in images]),
            np.array([image.image_id for image in images], np.int64),
            np.array(extents or [NO_EXTENT] * len(images), np.int64),
        )

    @classmethod
    def with_embeddings(
        cls, images: Sequence[Regions], extents: Sequence[tuple[int, int]] | None = None
    ) -> "StackedBoxes":
        """All boxes of these images, one at least; see `of`."""
        boxes = cls.of(images, extents)
        return boxes.rows(np.ones(len(boxes.place), bool), images)

    @classmethod
    def of_image(cls, regions: Regions, extent: tuple[int, int]) -> "StackedBoxes":
        """The boxes of one image, with their embeddings. extent: its (width, height), pixels."""
        place = np.zeros(len(regions.objectness), np.int64)
        return cls(regions, place, np.array([regions.image_id]), np.array([extent], np.int64))

    def starts(self, rows: np.ndarray | None = None) -> list[int]:
        """Where each image's boxes begin, and a last number where they end.

        Args:
            rows: indices int64, ascending: among these boxes only; all by default.
        """
        place = self.place if rows is None else self.place[rows]
        return np.searchsorted(place, np.arange(len(self.image_ids) + 1)).tolist()

    def rows(self, which: np.ndarray, images: Sequence[Regions]) -> "StackedBoxes":
        """The boxes `which`, bool (n,), with their embeddings.

        Args:
            images: those that were stacked.
        """
        ends = np.cumsum([len(image.objectness) for image in images]).tolist()
        if which.all():
            embeddings = [image.embeddings for image in images]
        else:
            embeddings = [
                image.embeddings[which[end - len(image.objectness) : end]]
                for image, end in zip(images, ends, strict=True)
            ]
        return self._chosen(which, np.concatenate(embeddings))

    def those(self, which: np.ndarray) -> "StackedBoxes":
        """The boxes `which`, bool (n,), of boxes that have their embeddings."""
        return self._chosen(which, self.regions.embeddings[which])

    def _chosen(self, which: np.ndarray, embeddings: np.ndarray) -> "StackedBoxes":
        names = ("boxes_xyxy", "objectness", *_OPTIONAL)
        columns: dict[str, Any] = {}
        for name in names:
            own = getattr(self.regions, name)
            columns[name] = None if own is None else own[which]
        regions = replace(self.regions, **columns, embeddings=embeddings)
        return replace(self, regions=regions, place=self.place[which])
