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
    """

    regions: Regions
    place: np.ndarray

    @classmethod
    def of(cls, images: Sequence[Regions]) -> "StackedBoxes":
        """All boxes of these images, one at least, without their embeddings."""
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
        return cls(regions, np.repeat(np.arange(len(images)), [len(image.objectness) for image in images]))

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
        columns = _columns(self.regions, which)
        return StackedBoxes(replace(self.regions, **columns, embeddings=np.concatenate(embeddings)), self.place[which])

    def those(self, which: np.ndarray) -> "StackedBoxes":
        """The boxes `which`, bool (n,), of boxes that have their embeddings."""
        columns = _columns(self.regions, which)
        embeddings = self.regions.embeddings[which]
        return StackedBoxes(replace(self.regions, **columns, embeddings=embeddings), self.place[which])


def _columns(regions: Regions, which: np.ndarray) -> dict[str, Any]:
    names = ("boxes_xyxy", "objectness", *_OPTIONAL)
    return {name: None if (column := getattr(regions, name)) is None else column[which] for name in names}
