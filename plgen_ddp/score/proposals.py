"""Boxes before they are cropped: the record, and what a source of boxes must offer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from plgen_ddp.score.images import ImageBatch


@dataclass(frozen=True, slots=True)
class Proposals:
    """The proposals of one image, by falling objectness.

    Attributes:
        image_id: COCO's id of the image.
        boxes_xyxy: float32 (n, 4), original pixels, not clipped.
        objectness: float32 (n,), in [0, 1].
        foreground, last_move, agreement: float32 (n,), or None where the source has no such evidence; see
            `plgen_ddp.records.Regions`.
    """

    image_id: int
    boxes_xyxy: Tensor
    objectness: Tensor
    foreground: Tensor | None = None
    last_move: Tensor | None = None
    agreement: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.objectness)
        assert self.boxes_xyxy.shape == (count, 4), (
            f"boxes_xyxy has shape {tuple(self.boxes_xyxy.shape)}, expected {(count, 4)}"
        )
        for name in ("foreground", "last_move", "agreement"):
            column = getattr(self, name)
            assert column is None or column.shape == (count,), (
                f"{name} has shape {tuple(column.shape)}, expected {(count,)}"
            )


class ProposalSource(Protocol):
    """Where boxes come from: a detector (`mask_rcnn`), or a file that another detector wrote (`box_files`)."""

    device: torch.device
    """Where `__call__` expects the pixels."""

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that images of this size are padded to. Images of one padded size share batches."""
        ...

    def __call__(self, batch: ImageBatch) -> Sequence[Proposals]:
        """The proposals of each image of the batch, in its order."""
        ...

    def identity(self) -> dict[str, Any]:
        """Everything that decides the boxes: the options of `detector` that this source uses, its files by SHA-256.

        It is all that the store's identity says about the boxes; see `plgen_ddp.options.deciding`.
        """
        ...
