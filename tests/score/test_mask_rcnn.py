"""The detector beyond the recipe's own: other two-stage heads, evidence, colour order, half precision."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from commands import REPOSITORY
from detectron2.structures import Boxes
from torchvision.ops import box_iou as all_ious

from plgen_ddp.config import DetectorConfig
from plgen_ddp.errors import UserError
from plgen_ddp.score.agreement import agreement, box_iou
from plgen_ddp.score.images import ImageBatch
from plgen_ddp.score.mask_rcnn import MaskRcnn, build_model, propose_regions, read_detector_config

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
        for name in ("foreground", "last_move", "agreement"):
            column = getattr(proposals, name)
            assert column.dtype == torch.float32 and ((column >= 0) & (column <= 1)).all() and column.std() > 0
        assert before.foreground is None and before.last_move is None and before.agreement is not None


def test_a_cascades_evidence_is_that_of_its_last_stage(other_heads, scenes):
    model = other_heads(CASCADE, replace(OPTIONS, refine_steps=1))
    heads = model.model.roi_heads
    with torch.inference_mode():
        images = model.preprocess(batch_of(scenes[0]))
        features = model.model.backbone(images.tensor)
        (found,), _ = model.model.proposal_generator(images, features, None)
        boxes = found.proposal_boxes.tensor[:100]
        for head, predictor in zip(heads.box_head, heads.box_predictor, strict=True):
            pooled = heads.box_pooler([features[name] for name in heads.box_in_features], [Boxes(boxes)])
            scores, deltas = predictor(head(pooled))
            before, boxes = boxes, predictor.box2box_transform.apply_deltas(deltas, boxes)
        (refined,) = model.refine(features, [found.proposal_boxes.tensor[:100]])
    assert torch.equal(refined.boxes_xyxy, boxes)
    torch.testing.assert_close(refined.foreground, scores.softmax(dim=1)[:, 0])
    torch.testing.assert_close(refined.last_move, all_ious(before, boxes).diagonal().nan_to_num(0))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_proposals_are_detectron2s_own_and_the_boxes_before_suppression_hold_them(scenes, precision):
    model = demo_model(precision=precision)
    rpn = model.model.proposal_generator
    images = model.preprocess(batch_of(*scenes[:3]))
    with torch.inference_mode(), model._autocast():
        features = {name: level.float() for name, level in model.model.backbone(images.tensor).items()}
        expected, _ = rpn(images, features, None)
        found, candidates = propose_regions(rpn, images, features)
    for own, theirs, others, size in zip(found, expected, candidates, images.image_sizes, strict=True):
        assert torch.equal(own.proposal_boxes.tensor, theirs.proposal_boxes.tensor)
        assert torch.equal(own.objectness_logits, theirs.objectness_logits)
        assert len(others) > 2 * len(own)
        torch.testing.assert_close(
            all_ious(own.proposal_boxes.tensor, others).max(dim=1).values, torch.ones(len(own)), atol=1e-5, rtol=0
        )
        height, width = size
        assert (others >= 0).all() and (others <= torch.tensor([width, height, width, height])).all()


def test_agreement_by_hand():
    candidates = torch.tensor(
        [[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 5], [5, 0, 15, 10], [50, 50, 60, 60], [0, 0, 0, 0]]
    )
    # The second box has moved from [50, 50, 60, 60] onto the first; its own proposal is left out, the twins both count.
    refined = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [80, 80, 90, 90]])
    proposed = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [50, 50, 60, 60]])
    expected = torch.tensor([1 + 0.5 + 1 / 3, 1 + 1 + 0.5 + 1 / 3, 0]) / 5
    torch.testing.assert_close(agreement(refined, proposed, candidates), expected)
    torch.testing.assert_close(agreement(refined[:1], proposed[:1], candidates[:1]), torch.zeros(1))
    assert agreement(refined[:0], proposed[:0], candidates).shape == (0,)


def test_iou_of_pairs_and_of_all_with_all():
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(2, 40, 2, generator=generator) * 50
    boxes, others = torch.cat([low, low + torch.rand(2, 40, 2, generator=generator) * 50], dim=2)
    torch.testing.assert_close(box_iou(boxes[:, None], others), all_ious(boxes, others))
    torch.testing.assert_close(box_iou(boxes, others), all_ious(boxes, others).diagonal())
    empty = torch.tensor([[3.0, 3, 3, 3]])
    assert torch.equal(box_iou(empty, empty), torch.zeros(1)), "two boxes without area have none"


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
        for name in ("foreground", "last_move", "agreement"):
            assert torch.equal(getattr(alone, name), getattr(proposals, name))


def test_images_refined_together_have_their_own_evidence(scenes):
    """What a GPU does, on the CPU: one batch through the networks, whose sums may differ in the last digits."""
    model = demo_model()
    alike = batch_of(*[scene for scene in scenes if model.padded_size(*scene.shape[:2]) == (256, 352)][:4])
    assert len(alike) == 4
    with torch.inference_mode():
        together = model._propose(alike)
    for alone, found in zip(model(alike), together, strict=True):
        assert len(found.objectness) == len(alone.objectness) > 50
        for name in ("objectness", "foreground", "last_move", "agreement"):
            torch.testing.assert_close(getattr(found, name), getattr(alone, name), atol=1e-3, rtol=0)


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
        best = all_ious(one.boxes_xyxy[one.objectness > 0.5], other.boxes_xyxy).max(dim=1)
        near.append(best.values > 0.9)
        objectness.append((one.objectness[one.objectness > 0.5] - other.objectness[best.indices]).abs())
        assert len(other.objectness.unique()) > 0.9 * len(other.objectness), "logits must not be of eight bits"
    assert torch.cat(near).float().mean() > 0.8
    assert torch.cat(objectness).median() < 0.05
