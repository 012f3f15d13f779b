"""The detector beyond the recipe's own: other two-stage heads, colour order, half precision on learned weights."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from torchvision.ops import box_iou

from plgen_ddp.config import DetectorConfig
from plgen_ddp.errors import UserError
from plgen_ddp.score.images import ImageBatch
from plgen_ddp.score.mask_rcnn import MaskRcnn, build_model, read_detector_config

CPU = torch.device("cpu")
OPTIONS = DetectorConfig(precision="fp32")
DEMO = REPOSITORY / "plgen_ddp" / "demo"


def batch_of(*images):
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    padded = torch.zeros(len(images), height, width, 3, dtype=torch.uint8)
    for target, image in zip(padded, images, strict=True):
        target[: image.shape[0], : image.shape[1]] = torch.from_numpy(image)
    return ImageBatch(
        tuple(range(len(images))),
        padded,
        tuple(image.shape[0] for image in images),
        tuple(image.shape[1] for image in images),
    )


@pytest.fixture(scope="module")
def scenes():
    return [cv2.imread(str(path)) for path in sorted((DEMO / "data" / "demo").glob("*.jpg"))[:12]]


def demo_model(**options):
    chosen = replace(OPTIONS, **options)
    cfg = read_detector_config(REPOSITORY / "configs" / "demo" / "detector.yaml", chosen)
    return MaskRcnn(cfg, DEMO / "weights" / "detector.pth", chosen, CPU)


@pytest.fixture
def other_heads(tiny_models, tmp_path):
    """A tiny detector with other RoI heads and random weights."""

    def make(changes, options=OPTIONS):
        cfg = read_detector_config(tiny_models.config, options)
        cfg.merge_from_list([part for change in changes.items() for part in change])
        cfg.MODEL.DEVICE = "cpu"
        torch.manual_seed(0)
        torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "weights.pth")
        return MaskRcnn(cfg, tmp_path / "weights.pth", options, CPU)

    return make


CASCADE = {
    "MODEL.ROI_HEADS.NAME": "CascadeROIHeads",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
}
C4 = {
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.RPN.IN_FEATURES": ["res4"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[16, 64, 128]],
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    "MODEL.MASK_ON": False,
}


@pytest.mark.parametrize("changes", [CASCADE, C4], ids=["cascade", "C4"])
def test_other_two_stage_detectors_propose(other_heads, scenes, changes):
    model = other_heads(changes)
    found = model(batch_of(*scenes[:2]))
    unrefined = other_heads(changes, replace(OPTIONS, refine_steps=0))(batch_of(*scenes[:2]))
    for proposals, before in zip(found, unrefined, strict=True):
        assert len(proposals.objectness) > 5
        assert torch.isfinite(proposals.boxes_xyxy).all()
        assert torch.equal(proposals.objectness, before.objectness)
        assert not torch.equal(proposals.boxes_xyxy, before.boxes_xyxy), "the box head has moved them"


def test_heads_that_move_other_boxes_are_refused(other_heads):
    rotated = {
        "MODEL.ROI_HEADS.NAME": "RROIHeads",
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignRotated",
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0, 1.0),
        "MODEL.MASK_ON": False,
    }
    with pytest.raises(UserError, match="RROIHeads is not supported"):
        other_heads(rotated)


def test_padding_is_what_the_plan_says_and_changes_nothing(scenes):
    model = demo_model()
    for image in scenes[:6]:
        height, width = image.shape[:2]
        assert tuple(model.preprocess(batch_of(image)).tensor.shape[-2:]) == model.padded_size(height, width)
    together = model(batch_of(*scenes[:6]))
    for image, proposals in zip(scenes[:6], together, strict=True):
        (alone,) = model(batch_of(image))
        assert torch.equal(alone.boxes_xyxy, proposals.boxes_xyxy)
        assert torch.equal(alone.objectness, proposals.objectness)


def test_a_detector_of_rgb_sees_rgb(tiny_models, scenes):
    options = replace(OPTIONS, refine_steps=0)
    cfg = read_detector_config(tiny_models.config, options)
    bgr = MaskRcnn(cfg, tiny_models.weights, options, CPU)
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN = cfg.MODEL.PIXEL_MEAN[::-1]
    cfg.MODEL.PIXEL_STD = cfg.MODEL.PIXEL_STD[::-1]
    rgb = MaskRcnn(cfg, tiny_models.weights, options, CPU)
    given = bgr.preprocess(batch_of(scenes[0])).tensor
    swapped = rgb.preprocess(batch_of(np.ascontiguousarray(scenes[0]))).tensor
    torch.testing.assert_close(given.flip(1), swapped)


def test_bfloat16_finds_the_boxes_of_float32(scenes):
    exact, rough = demo_model()(batch_of(*scenes)), demo_model(precision="bf16")(batch_of(*scenes))
    near, objectness = [], []
    for one, other in zip(exact, rough, strict=True):
        best = box_iou(one.boxes_xyxy[one.objectness > 0.5], other.boxes_xyxy).max(dim=1)
        near.append(best.values > 0.9)
        objectness.append((one.objectness[one.objectness > 0.5] - other.objectness[best.indices]).abs())
        assert len(other.objectness.unique()) > 0.9 * len(other.objectness), "logits must not be of eight bits"
    assert torch.cat(near).float().mean() > 0.8
    assert torch.cat(objectness).median() < 0.05
