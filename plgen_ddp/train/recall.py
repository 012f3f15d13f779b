"""Class-agnostic recall of proposals, as COCO's average recall counts it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plgen_ddp.box_recall import LIMITS, recalled
from plgen_ddp.config import DetectorConfig
from plgen_ddp.console import print_line
from plgen_ddp.image_rules import DEFAULT_RULES, ImageRules
from plgen_ddp.score.images import UnitBatchSampler, image_batches, on_device, plan_units, units_of_rank
from plgen_ddp.score.mask_rcnn import MaskRcnn, with_rpn_options
from plgen_ddp.train.config import RecallConfig
from plgen_ddp.train.data import GroundTruth
from plgen_ddp.world import World

IOUS = (0.5, 0.75)
"""IoUs from which a proposal finds an object."""

_GROUPS = ("base", "novel")
_IMAGES_PER_UNIT = 64
_IMAGES_PER_BATCH = 4


@dataclass(frozen=True, slots=True)
class Recall:
    """How many ground-truth boxes the proposals find.

    Attributes:
        refine_steps: passes of the box head behind the proposals.
        found: int64 (2, len(LIMITS), len(IOUS)), base then novel.
        boxes: int64 (2,), all boxes, base then novel.
    """

    refine_steps: int
    found: Tensor
    boxes: Tensor

    def scalars(self) -> dict[str, float]:
        """`recall_<passes>/<group>_<limit>_<IoU in percent>`: the share found. A group without boxes is left out."""
        return {
            f"recall_{self.refine_steps}/{group}_{limit}_{100 * iou:.0f}": float(found[row, column]) / int(boxes)
            for group, found, boxes in zip(_GROUPS, self.found, self.boxes, strict=True)
            for row, limit in enumerate(LIMITS)
            for column, iou in enumerate(IOUS)
            if boxes
        }


def measure_recall(
    model: nn.Module,
    cfg: Any,
    options: RecallConfig,
    truth: GroundTruth | None,
    world: World,
    device: torch.device,
    workers: int,
    rules: ImageRules = DEFAULT_RULES,
) -> list[Recall]:
    """The recall of `model`'s proposals as stage 1 makes them, together with the other ranks.

    Args:
        cfg: detectron2's configuration of the model.
        workers: threads a rank that decode images.
        rules: what a file must be to be read.

    Returns:
        On rank 0 an entry for each of `recall.refine_steps`; an empty list on other ranks or without ground truth.
    """
    if truth is None:
        return []
    results = []
    for steps in options.refine_steps:
        stage_one = DetectorConfig(
            refine_steps=steps, max_boxes=max(LIMITS), rpn_nms_iou=options.rpn_nms_iou, precision="fp32"
        )
        detector = MaskRcnn(with_rpn_options(cfg, stage_one), model.state_dict(), stage_one, device)
        shares = world.gather(_found(detector, truth, world, workers, rules))
        if world.is_main:
            counts = [sum(map(len, of_image.values())) for of_image in (truth.base, truth.novel)]
            results.append(Recall(steps, torch.stack(shares).sum(dim=0), torch.tensor(counts)))
    return results


def _found(detector: MaskRcnn, truth: GroundTruth, world: World, workers: int, rules: ImageRules) -> Tensor:
    """`Recall.found` of this rank's share of the images."""
    units = plan_units(truth.index, detector.padded_size, _IMAGES_PER_UNIT)
    sampler = UnitBatchSampler(units_of_rank(units, world.rank, world.size), _IMAGES_PER_BATCH, truth.index)
    found = torch.zeros(len(_GROUPS), len(LIMITS), len(IOUS), dtype=torch.int64)
    with image_batches(truth.index, sampler, workers, detector.device, rules) as batches:
        for batch in on_device(batches, detector.device):
            for proposals, height, width in zip(detector(batch), batch.heights, batch.widths, strict=True):
                largest = proposals.boxes_xyxy.new_tensor([width, height, width, height])
                boxes = proposals.boxes_xyxy.clamp(min=0).minimum(largest).cpu().double().numpy()
                for group, of_image in zip(found, (truth.base, truth.novel), strict=True):
                    if proposals.image_id in of_image:
                        objects = of_image[proposals.image_id].astype(np.float64)
                        group += torch.from_numpy(recalled(boxes, objects, LIMITS, IOUS))
    return found


def print_recall(measured: Sequence[Recall]) -> None:
    """A table: a line for each number of passes and proposals, a column for each group and IoU."""
    for recall in measured:
        print_line(f"recall after {recall.refine_steps} passes of the box head")
        head = [f"{group} IoU {iou}" for group in _GROUPS for iou in IOUS]
        print_line("  proposals  " + "  ".join(f"{title:>14}" for title in head))
        for row, limit in enumerate(LIMITS):
            shares = [
                f"{float(found[row, column]) / int(boxes):.3f}" if boxes else "-"
                for found, boxes in zip(recall.found, recall.boxes, strict=True)
                for column in range(len(IOUS))
            ]
            print_line(f"  {limit:>9}  " + "  ".join(f"{share:>14}" for share in shares))
