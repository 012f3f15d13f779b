"""The detector that is trained: its configuration, initial weights and optimizer, all detectron2's."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plgen_ddp.errors import UserError
from plgen_ddp.score.mask_rcnn import quiet_detectron2, read_detector_config
from plgen_ddp.train.checkpoints import TrainingCheckpointer
from plgen_ddp.train.config import ProposalTrainingConfig, TrainConfig
from plgen_ddp.weight_files import refuse_url

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # as in plgen_ddp.score.mask_rcnn
    from detectron2.config import CfgNode
    from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads, build_model
    from detectron2.solver import build_optimizer as build_sgd
    from detectron2.solver import get_default_optimizer_params
    from detectron2.solver.build import maybe_add_gradient_clipping

# The backbone that the packaged configs start from.
_IMAGENET = "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl"


@ROI_HEADS_REGISTRY.register()
class HeadsWithoutSomeMasks(StandardROIHeads):
    """detectron2's heads, whose mask head learns nothing of an object without a mask (`gt_has_mask`).

    Such an object teaches the RPN and the box head as any other does.
    """

    def _forward_mask(self, features: Any, instances: Any) -> Any:
        if self.training:  # an image without objects has no such column, and no foreground for the mask head
            instances = [item[item.gt_has_mask] if item.has("gt_has_mask") else item for item in instances]
        return super()._forward_mask(features, instances)


def learns_masks(config: ProposalTrainingConfig) -> bool:
    """Whether the detector has a mask head.

    Raises:
        UserError: no detector configuration, or one that stage 1 could not run.
    """
    return bool(read_detector_config(config.detector_file()).MODEL.MASK_ON)


def find_initial_weights(config: ProposalTrainingConfig) -> Path | None:
    """The file of `detector.weights`.

    Raises:
        UserError: a URL, or no such file.
    """
    weights = config.detector.weights
    if weights is None:
        return None
    refuse_url(weights, "detector.weights")
    if not Path(weights).is_file():
        hint = ""
        if Path(weights).name == "R-50.pkl":
            hint = f"; download {_IMAGENET}"
        raise UserError(f"detector.weights: no file at {weights}{hint}")
    return Path(weights)


def training_cfg(
    config: ProposalTrainingConfig, device: torch.device, *, run_lengths: bool, boxes_alone: bool
) -> CfgNode:
    """The detector's configuration with this training's solver, in detectron2's keys.

    Args:
        run_lengths: whether some masks are run lengths.
        boxes_alone: whether some objects have no mask, as pseudo labels have none.

    Raises:
        UserError: the detector's mask head belongs to heads that cannot leave such objects out.
    """
    cfg, options = read_detector_config(config.detector_file()), config.train
    if boxes_alone and cfg.MODEL.MASK_ON:
        heads = cfg.MODEL.ROI_HEADS.NAME
        if heads != "StandardROIHeads":
            raise UserError(
                f"data.pseudo_labels: MODEL.ROI_HEADS.NAME of detector.config is {heads!r}; objects without masks need "
                "'StandardROIHeads', or MODEL.MASK_ON: false"
            )
        cfg.MODEL.ROI_HEADS.NAME = HeadsWithoutSomeMasks.__name__
    cfg.MODEL.DEVICE = str(device)
    cfg.SOLVER.MAX_ITER = options.steps
    cfg.SOLVER.IMS_PER_BATCH = options.images_per_step
    cfg.SOLVER.BASE_LR = options.base_lr
    cfg.SOLVER.WEIGHT_DECAY = options.weight_decay
    cfg.SOLVER.LR_SCHEDULER_NAME = {"steps": "WarmupMultiStepLR", "cosine": "WarmupCosineLR"}[options.schedule]
    cfg.SOLVER.STEPS = tuple(step for step in options.decay_at if step < options.steps)
    cfg.SOLVER.WARMUP_ITERS = options.warmup_steps
    cfg.SOLVER.AMP.ENABLED = options.amp and device.type == "cuda"
    if options.clip_norm is not None:
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = options.clip_norm
    if run_lengths:
        cfg.INPUT.MASK_FORMAT = "bitmask"  # the only one of detectron2's that takes run lengths
    return cfg


def build_detector(cfg: CfgNode, weights: Path | None) -> nn.Module:
    """The model that `cfg` describes, from `weights`, or from torch's random state without any.

    Raises:
        UserError: the weights are those of another detector.
    """
    with quiet_detectron2():
        model = build_model(cfg)
        if weights is not None:
            TrainingCheckpointer(model).start_from(weights)
    return model


def build_optimizer(cfg: CfgNode, options: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that `train.optimizer` names, with gradient clipping where `cfg` asks for it."""
    if options.optimizer == "sgd":
        return build_sgd(cfg, model)
    groups = get_default_optimizer_params(model, base_lr=options.base_lr, weight_decay_norm=0.0, weight_decay_bias=0.0)
    kind = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    return kind(groups, lr=options.base_lr, weight_decay=options.weight_decay)
