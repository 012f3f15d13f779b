"""Seeded class-agnostic Mask R-CNNs: detectron2's own model, with outputs of the scale of a trained one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from plgen_ddp.benchmark.seeded_models.calibration import normalize_on_first_call, seeded, standardize_on_first_call
from plgen_ddp.benchmark.seeded_models.scenes import generated_scene

# detectron2 asserts 64 channels after res2 for depths 18 and 34, so the narrow network is a thin depth 50.
# Small first anchors, so that some boxes end below the recipe's smallest size.
TINY_DETECTOR_YAML = """\
VERSION: 2
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  MASK_ON: true
  BACKBONE: {NAME: build_resnet_fpn_backbone}
  RESNETS:
    DEPTH: 50
    NORM: FrozenBN
    STEM_OUT_CHANNELS: 8
    WIDTH_PER_GROUP: 8
    RES2_OUT_CHANNELS: 16
    OUT_FEATURES: [res2, res3, res4, res5]
  FPN: {IN_FEATURES: [res2, res3, res4, res5], OUT_CHANNELS: 32}
  ANCHOR_GENERATOR:
    SIZES: [[8], [24], [56], [96], [160]]
    ASPECT_RATIOS: [[0.5, 1.0, 2.0]]
  RPN:
    IN_FEATURES: [p2, p3, p4, p5, p6]
    PRE_NMS_TOPK_TEST: 1000
    POST_NMS_TOPK_TEST: 1000
    NMS_THRESH: 0.3
  ROI_HEADS:
    NAME: StandardROIHeads
    IN_FEATURES: [p2, p3, p4, p5]
    NUM_CLASSES: 1
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 2, FC_DIM: 64, POOLER_RESOLUTION: 7, POOLER_SAMPLING_RATIO: 2}
  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 1, CONV_DIM: 16, POOLER_RESOLUTION: 14}
INPUT:
  MIN_SIZE_TEST: 192
  MAX_SIZE_TEST: 320
"""

# Mask R-CNN R50-FPN as detectron2's COCO baselines define it, with one class and the reference recipe's RPN settings.
FULL_DETECTOR_YAML = """\
VERSION: 2
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  MASK_ON: true
  BACKBONE: {NAME: build_resnet_fpn_backbone}
  RESNETS:
    DEPTH: 50
    OUT_FEATURES: [res2, res3, res4, res5]
  FPN: {IN_FEATURES: [res2, res3, res4, res5]}
  ANCHOR_GENERATOR:
    SIZES: [[32], [64], [128], [256], [512]]
    ASPECT_RATIOS: [[0.5, 1.0, 2.0]]
  RPN:
    IN_FEATURES: [p2, p3, p4, p5, p6]
    PRE_NMS_TOPK_TEST: 1000
    POST_NMS_TOPK_TEST: 1000
    NMS_THRESH: 0.3
  ROI_HEADS:
    NAME: StandardROIHeads
    IN_FEATURES: [p2, p3, p4, p5]
    NUM_CLASSES: 1
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 2, POOLER_RESOLUTION: 7}
  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 4, POOLER_RESOLUTION: 14}
INPUT:
  MIN_SIZE_TEST: 800
  MAX_SIZE_TEST: 1333
"""

CALIBRATION_SCENES = 4
CALIBRATION_SIZE = 320  # shortest edge; statistics need no more, and float64 at 800 takes minutes
RESIDUAL_GAIN = 0.3
# Objectness of the tenth and of the hundredth proposal on the calibration images: the recipe keeps a hundred.
TENTH_OBJECTNESS = 0.95
HUNDREDTH_OBJECTNESS = 0.4
# Standard deviation of the network's (dx, dy, dw, dh), in box sizes and log sizes. The RPN's is that of a
# working detector. The box head's is small because ten passes add up: a box moves by about a third of its size.
RPN_DELTA_STD = (0.1, 0.1, 0.2, 0.2)
REFINEMENT_DELTA_STD = (0.03, 0.03, 0.05, 0.05)


def write_tiny_detector(folder: Path, image_paths: Sequence[Path] = (), seed: int = 0) -> tuple[Path, Path]:
    """Writes a small class-agnostic Mask R-CNN (0.3 M parameters, input 192 to 320 pixels).

    Args:
        folder: where detector.yaml and detector.pth go; made if missing.
        image_paths: a few images to calibrate the scales on, beside generated scenes.
        seed: decides the weights.

    Returns:
        The detectron2 config and the checkpoint, `{"model": state dict}`, which `torch.load(weights_only=True)` reads.

    Raises:
        ValueError: an image cannot be read.
    """
    return _write_detector(folder, TINY_DETECTOR_YAML, image_paths, seed)


def write_full_detector(folder: Path, image_path: Path | None = None, seed: int = 0) -> tuple[Path, Path]:
    """Writes a class-agnostic Mask R-CNN R50-FPN at its published size, 800 to 1333; see `write_tiny_detector`."""
    return _write_detector(folder, FULL_DETECTOR_YAML, [] if image_path is None else [image_path], seed)


def _write_detector(folder: Path, config_text: str, image_paths: Sequence[Path], seed: int) -> tuple[Path, Path]:
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    # One photo has too few positions at the coarsest level to show how much a channel varies elsewhere.
    images_bgr = [generated_scene(CALIBRATION_SCENES * seed + scene) for scene in range(CALIBRATION_SCENES)]
    images_bgr += [_read_bgr(path) for path in image_paths]
    folder.mkdir(parents=True, exist_ok=True)
    config_path = folder / "detector.yaml"
    config_path.write_text(config_text)
    cfg = get_cfg()
    cfg.merge_from_file(str(config_path), allow_unsafe=False)
    cfg.MODEL.DEVICE = "cpu"
    with seeded(seed):
        model = build_model(cfg).eval()
    _calibrate_detector(model, cfg, images_bgr)
    weights_path = folder / "detector.pth"
    torch.save({"model": model.state_dict()}, weights_path)
    return config_path, weights_path


@torch.no_grad()
def _calibrate_detector(model: Any, cfg: Any, images_bgr: Sequence[np.ndarray]) -> None:
    """Gives every layer outputs of a sane scale on these images, from front to back in one pass."""
    from detectron2.data.transforms import ResizeShortestEdge
    from detectron2.structures import Boxes

    # float64, so that the order of a sum (threads, instruction set) does not reach the float32 that is written.
    model.double()
    resize = ResizeShortestEdge(min(cfg.INPUT.MIN_SIZE_TEST, CALIBRATION_SIZE), cfg.INPUT.MAX_SIZE_TEST)
    inputs = []
    for image_bgr in images_bgr:
        resized = resize.get_transform(image_bgr).apply_image(image_bgr)
        inputs.append({"image": torch.from_numpy(resized.transpose(2, 0, 1).astype(np.float64))})

    normalize_on_first_call(model.backbone.bottom_up)
    for block in model.backbone.bottom_up.modules():
        # Beside the shortcut a residual is small in trained networks; at full size, depth multiplies what is unusual in
        # an image until every objectness saturates.
        if hasattr(block, "shortcut"):
            block.conv3.norm.weight.fill_(RESIDUAL_GAIN)
    fpn_convs = [layer for name, layer in model.backbone.named_children() if name != "bottom_up"]
    for layer in fpn_convs:
        if isinstance(layer, nn.Conv2d):
            standardize_on_first_call(layer)
    rpn_head = model.proposal_generator.rpn_head
    standardize_on_first_call(rpn_head.conv)
    standardize_on_first_call(rpn_head.objectness_logits)
    anchors_per_cell = rpn_head.objectness_logits.out_channels
    standardize_on_first_call(rpn_head.anchor_deltas, torch.tensor(RPN_DELTA_STD).repeat(anchors_per_cell))

    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    rpn_head([features[name] for name in model.proposal_generator.in_features])
    # torchvision's NMS wants boxes and scores of one type, and detectron2 gives it float32 boxes.
    model.proposal_generator.float()
    proposals, _ = model.proposal_generator(images, {name: level.float() for name, level in features.items()}, None)

    # The order of proposals does not change under an increasing map, so two of them can be put where they should be.
    # Rounded, as float32 results are from here on, to keep their last bits out of the file.
    tenth = float(np.mean([float(p.objectness_logits[:10][-1]) for p in proposals]))
    hundredth = float(np.mean([float(p.objectness_logits[:100][-1]) for p in proposals]))
    wanted_tenth, wanted_hundredth = (np.log(p / (1 - p)) for p in (TENTH_OBJECTNESS, HUNDREDTH_OBJECTNESS))
    gain = round((wanted_tenth - wanted_hundredth) / (tenth - hundredth), 3)
    rpn_head.objectness_logits.weight.mul_(gain)
    rpn_head.objectness_logits.bias.mul_(gain).add_(round(wanted_tenth - gain * tenth, 3))

    roi_heads = model.roi_heads
    for layer in roi_heads.box_head.modules():
        if isinstance(layer, nn.Linear):
            standardize_on_first_call(layer)
    standardize_on_first_call(roi_heads.box_predictor.cls_score)
    deltas_std = torch.tensor(REFINEMENT_DELTA_STD) * torch.tensor(cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS)
    standardize_on_first_call(roi_heads.box_predictor.bbox_pred, deltas_std)
    levels = [features[name] for name in roi_heads.box_in_features]
    pooled = roi_heads.box_pooler(
        levels, [Boxes((p.proposal_boxes.tensor.double() * 8).round() / 8) for p in proposals]
    )
    roi_heads.box_predictor(roi_heads.box_head(pooled))
    model.float()


def _read_bgr(path: Path) -> np.ndarray:
    image_bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image_bgr is None:
        raise ValueError(f"{path}: not an image that OpenCV can read")
    return image_bgr
