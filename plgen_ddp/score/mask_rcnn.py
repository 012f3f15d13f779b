"""From images to class-agnostic box proposals: those of the RPN, refined by the RoI box head.

The only importer of detectron2 in stage 1.

The recipe is VL-PLM's: proposals in RPN order, each refined by several passes of the box head, objectness stays the
RPN's. Every box is refined on its own, so only the boxes that are kept go through the passes, bit for bit the same.

Beside objectness, each box gets what the detector knows of it anyway (`EVIDENCE` in `plgen_ddp.records`):

- `foreground`: the box head's foreground probability in the last pass, for the box that goes into it.
- `last_move`: the IoU of the box before and after the last pass.
- `agreement`: the mean of the five largest IoUs of the refined box with the RPN's other proposals, before the RPN's
  own suppression.

For a cascade, the last pass is the last stage of the last pass. The first two are None with `refine_steps=0`.

Spearman's rank correlation of each with the true IoU, for 5,019 boxes of 60 drawn scenes and the demo's detector:
objectness 0.35, foreground 0.84, last_move 0.64, agreement 0.84. Agreement is 0.79 after suppression, and 0.26 where
the box is compared as the RPN gave it: the RPN's boxes overlap there whether they fit an object or not.
"""

import contextlib
import functools
import hashlib
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from yaml import YAMLError

from plgen_ddp.config import DetectorConfig
from plgen_ddp.device import DTYPES, resolve_precision
from plgen_ddp.errors import UserError, first_sentence, one_line
from plgen_ddp.options import deciding
from plgen_ddp.score.agreement import agreement, box_iou
from plgen_ddp.score.detector_weights import load_detector_weights, read_detector_weights
from plgen_ddp.score.half_precision import prepare_half_precision
from plgen_ddp.score.images import ImageBatch
from plgen_ddp.score.proposals import Proposals
from plgen_ddp.score.resample import resize_images
from plgen_ddp.score.timing import stage
from plgen_ddp.weight_files import refuse_url
from plgen_ddp.yaml_text import load_with_bases

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # detectron2 scripts functions at import, which newer torch deprecates
    from detectron2.config import CfgNode, get_cfg
    from detectron2.data.transforms import ResizeShortestEdge
    from detectron2.layers import FrozenBatchNorm2d
    from detectron2.modeling import build_model
    from detectron2.modeling.proposal_generator import RPN
    from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, RROIHeads, StandardROIHeads
    from detectron2.structures import Boxes, ImageList, Instances

# Two things of detectron2 that newer torch speaks of at run time, once in every rank, and no user can mend.
warnings.filterwarnings("ignore", message="torch.meshgrid")
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)


class _LocalCfg(CfgNode):
    """detectron2's configuration, whose `_BASE_` names files of this machine; its own also downloads."""

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        return load_with_bases(Path(filename), "detector.config")


def read_detector_config(path: Path, options: DetectorConfig | None = None) -> CfgNode:
    """The detectron2 configuration at `path`, checked to be one that stage 1 can run.

    Args:
        options: its RPN settings take the place of the file's; None: the file's stay, for training.

    Raises:
        UserError: not readable, an unknown key, Python objects in the YAML, not a two-stage detector with one class.
    """
    cfg = _LocalCfg(get_cfg())
    try:
        # detectron2 warns and falls back to unsafe YAML by default.
        cfg.merge_from_file(str(path), allow_unsafe=False)
    except UserError:
        raise
    except (YAMLError, KeyError, ValueError, TypeError, AssertionError, AttributeError, OSError) as error:
        raise UserError(f"detector.config: {path} is not a detectron2 config: {one_line(error)}") from None
    model = cfg.MODEL
    for key, value, wanted in (
        ("META_ARCHITECTURE", model.META_ARCHITECTURE, "GeneralizedRCNN"),
        ("PROPOSAL_GENERATOR.NAME", model.PROPOSAL_GENERATOR.NAME, "RPN"),
        ("ROI_HEADS.NUM_CLASSES", model.ROI_HEADS.NUM_CLASSES, 1),
    ):
        if value != wanted:
            raise UserError(
                f"detector.config: MODEL.{key} of {path} is {value!r}; a class-agnostic detector has {wanted!r}"
            )
    _check_numbers(cfg, path)
    return with_rpn_options(cfg, options) if options else cfg


def _check_numbers(cfg: CfgNode, path: Path) -> None:
    """Checks that no number is NaN or infinite, and that pixels can be normalised: else no image has a box.

    Raises:
        UserError: with the key and its value.
    """
    for key, value in _leaves(cfg, ""):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"detector.config: {key} of {path} is {value}; give a finite number")
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    numbers = all(isinstance(value, (int, float)) for value in (*mean, *std))
    if not numbers or len(mean) != len(std) or not all(value > 0 for value in std):
        raise UserError(
            f"detector.config: MODEL.PIXEL_MEAN and PIXEL_STD of {path} are {list(mean)} and {list(std)}; give a "
            "number for each colour, and positive ones for PIXEL_STD"
        )


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every value below a setting, with its dotted key."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner, key)
    else:
        yield key, value


def with_rpn_options(cfg: CfgNode, options: DetectorConfig) -> CfgNode:
    """A copy of `cfg` with the RPN settings of stage 1."""
    cfg = cfg.clone()
    cfg.MODEL.RPN.NMS_THRESH = options.rpn_nms_iou
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = options.rpn_proposals
    return cfg


def find_weights(weights: str) -> Path:
    """The file of `detector.weights`, which is read once to see that it holds a detector.

    Raises:
        UserError: a URL, no such file, or no checkpoint of tensors.
    """
    refuse_url(weights, "detector.weights")
    read_detector_weights(Path(weights))
    return Path(weights)


class RefinedBoxes(NamedTuple):
    """One image's boxes after the passes of the box head.

    Attributes:
        boxes_xyxy: float32 (n, 4), network input pixels, not clipped.
        foreground, last_move: float32 (n,), of the last pass; None where there was none.
    """

    boxes_xyxy: Tensor
    foreground: Tensor | None
    last_move: Tensor | None


class MaskRcnn:
    """A class-agnostic two-stage detector that turns batches of images into proposals."""

    def __init__(
        self, cfg: CfgNode, weights: Path | dict[str, Tensor], options: DetectorConfig, device: torch.device
    ) -> None:
        """Builds the model that `cfg` describes and loads `weights`: a file (from `find_weights`) or a state dict.

        Raises:
            UserError: the weights are not those of this configuration.
        """
        # Of the model alone: where it runs and where somebody once trained it change nothing.
        model = {key: value for key, value in cfg.MODEL.items() if key not in ("DEVICE", "WEIGHTS")}
        described = json.dumps([model, cfg.INPUT], sort_keys=True, default=str)
        self._config_digest = hashlib.sha256(described.encode()).hexdigest()
        self._weights_digest: str | None = None
        cfg = cfg.clone()
        cfg.MODEL.DEVICE = str(device)
        self._cfg = cfg
        self._options = options
        self.device = device
        self.precision = resolve_precision(options.precision, device)
        with quiet_detectron2():
            self.model: Any = _built(cfg)
            if isinstance(weights, Path):
                state, self._weights_digest = read_detector_weights(weights)
                load_detector_weights(self.model, state, weights)
            else:
                self.model.load_state_dict(weights)
        self.model.requires_grad_(False)
        heads = self.model.roi_heads  # a cascade is a StandardROIHeads, and so are heads of rotated boxes
        if not isinstance(heads, (StandardROIHeads, Res5ROIHeads)) or isinstance(heads, RROIHeads):
            raise UserError(
                f"detector.config: {cfg.MODEL.ROI_HEADS.NAME} is not supported; "
                "use StandardROIHeads, CascadeROIHeads or Res5ROIHeads"
            )
        if self.precision != "fp32":
            prepare_half_precision(self.model, DTYPES[self.precision], FrozenBatchNorm2d)

    def identity(self) -> dict[str, Any]:
        """What decides the boxes: the options of `detector`, config and weights by content."""
        assert self._weights_digest is not None, "only weights from a file have an identity"
        return deciding(self._options) | {
            "config": self._config_digest,
            "weights": self._weights_digest,
            "precision": self.precision,
        }

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) to which an image is resized before padding: detectron2's ResizeShortestEdge."""
        shortest, longest = self._cfg.INPUT.MIN_SIZE_TEST, self._cfg.INPUT.MAX_SIZE_TEST
        height, width = ResizeShortestEdge.get_output_shape(height, width, shortest, longest)
        return max(height, 1), max(width, 1)  # an image of one line, thousands of pixels long, is still an image

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) of the network's input for an image of this size, as `ImageList.from_tensors` pads it."""
        constraints = self.model.backbone.padding_constraints
        if square := constraints.get("square_size", 0):
            return square, square
        step = constraints.get("size_divisibility", self.model.backbone.size_divisibility) or 1
        height, width = self.input_size(height, width)
        return -(-height // step) * step, -(-width // step) * step

    @torch.inference_mode()
    def __call__(self, batch: ImageBatch) -> list[Proposals]:
        """Proposals for a batch whose pixels are on the model's device.

        A CPU gains nothing from a batch, and oneDNN's convolutions sum differently for each batch size: there, images
        go through one by one, so that proposals do not depend on what they are batched with, in any bit.
        """
        if self.device.type == "cpu":
            return [proposals for single in batch.singles() for proposals in self._propose(single)]
        return self._propose(batch) if len(batch) else []

    def _propose(self, batch: ImageBatch) -> list[Proposals]:
        with stage("detector"):
            images = self.preprocess(batch)
            with self._autocast():
                features = self.model.backbone(images.tensor)
                # RoIAlign reads them channel by channel, ten times over.
                plain = {"dtype": torch.float32, "memory_format": torch.contiguous_format}
                features = {name: feature.to(**plain) for name, feature in features.items()}
                found, candidates = propose_regions(self.model.proposal_generator, images, features)
            kept = [proposals[: self._options.max_boxes] for proposals in found]
            boxes = [proposals.proposal_boxes.tensor for proposals in kept]
        with stage("refine"):
            refined = self.refine(features, boxes)
            agreements = [
                agreement(moved.boxes_xyxy, own, others)
                for moved, own, others in zip(refined, boxes, candidates, strict=True)
            ]
        return [
            Proposals(
                image_id,
                self._to_original(moved.boxes_xyxy, resized, (height, width)),
                proposals.objectness_logits.sigmoid(),
                moved.foreground,
                moved.last_move,
                agreeing,
            )
            for image_id, moved, proposals, agreeing, resized, height, width in zip(
                batch.image_ids,
                refined,
                kept,
                agreements,
                images.image_sizes,
                batch.heights,
                batch.widths,
                strict=True,
            )
        ]

    def preprocess(self, batch: ImageBatch) -> ImageList:
        """The network's input: resized, normalised, zero-padded to one size. BGR, float32."""
        sizes = [self.input_size(*extent) for extent in zip(batch.heights, batch.widths, strict=True)]
        resized = resize_images(batch.pixels_bgr, batch.heights, batch.widths, sizes)
        if self.model.input_format == "RGB":
            resized = [image.flip(0) for image in resized]
        mean, std = self.model.pixel_mean, self.model.pixel_std
        return ImageList.from_tensors(
            [(image.float() - mean) / std for image in resized],
            self.model.backbone.size_divisibility,
            padding_constraints=self.model.backbone.padding_constraints,
        )

    def refine(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> list[RefinedBoxes]:
        """`refine_steps` passes of the box head over boxes (n_i, 4) of each image, xyxy in network input pixels.

        No clipping between the passes, as in the recipe.
        """
        counts = [len(own) for own in boxes]
        passes = _box_passes(self.model.roi_heads, features) * self._options.refine_steps
        current = before = torch.cat(list(boxes))
        if not passes:
            return [RefinedBoxes(own, None, None) for own in boxes]
        if not len(current):
            nothing = current.new_zeros(0)
            return [RefinedBoxes(own, nothing, nothing) for own in boxes]
        for predict, predictor in passes:
            with self._autocast():
                scores, deltas = predict([Boxes(own) for own in current.split(counts)])
            before = current
            moved = predictor.box2box_transform.apply_deltas(deltas.float(), current)
            current = moved.view(len(current), -1, 4).mean(dim=1)
        scores = scores.float()
        foreground = (scores.sigmoid() if predictor.use_sigmoid_ce else scores.softmax(dim=1))[:, 0]
        last_move = box_iou(before, current)
        columns = (column.split(counts) for column in (current, foreground, last_move))
        return [RefinedBoxes(*own) for own in zip(*columns, strict=True)]

    def _to_original(self, boxes: Tensor, resized: tuple[int, int], original: tuple[int, int]) -> Tensor:
        """Each axis by its own ratio: the rounded sizes differ between them by up to 0.3 px in 640."""
        x = boxes[:, 0::2] * (original[1] / resized[1])
        y = boxes[:, 1::2] * (original[0] / resized[0])
        return torch.stack([x, y], dim=2).flatten(1)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.precision])


def propose_regions(rpn: RPN, images: ImageList, features: dict[str, Tensor]) -> tuple[list[Instances], list[Tensor]]:
    """What `rpn` returns in eval mode, and for each image the boxes that its suppression has chosen from.

    detectron2's `RPN.forward` returns only the proposals, so this repeats its steps. The proposals come from its own
    `predict_proposals`, bit for bit.

    Returns:
        The proposals, and float32 (m, 4) boxes for each image: the first `PRE_NMS_TOPK_TEST` of each level, xyxy in
        network input pixels, clipped. A box that the RPN drops as empty or not finite is zeros.
    """
    levels = [features[name] for name in rpn.in_features]
    anchors = rpn.anchor_generator(levels)
    # (N, A, H, W) to (N, H x W x A), and (N, A x 4, H, W) to (N, H x W x A, 4)
    logits, deltas = rpn.rpn_head(levels)
    logits = [level.permute(0, 2, 3, 1).flatten(1) for level in logits]
    deltas = [level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in deltas]
    proposals = rpn.predict_proposals(anchors, logits, deltas, images.image_sizes)
    count = rpn.pre_nms_topk[False]
    chosen = []
    for level_anchors, level_logits, level_deltas in zip(anchors, logits, deltas, strict=True):
        first = level_logits.topk(min(count, level_logits.shape[1]), dim=1).indices
        own_deltas = level_deltas.gather(1, first[..., None].expand(-1, -1, 4)).flatten(0, 1)
        own_anchors = level_anchors.tensor[first].flatten(0, 1)
        chosen.append(rpn.box2box_transform.apply_deltas(own_deltas, own_anchors).view(len(first), -1, 4))
    candidates = torch.cat(chosen, dim=1)
    limits = candidates.new_tensor([[width, height, width, height] for height, width in images.image_sizes])
    usable = candidates.isfinite().all(dim=2, keepdim=True)
    candidates = torch.minimum(candidates.clamp(min=0), limits[:, None])
    usable &= ((candidates[..., 2:] - candidates[..., :2]) > rpn.min_box_size).all(dim=2, keepdim=True)
    return proposals, list(torch.where(usable, candidates, 0).unbind())


def _box_passes(
    roi_heads: Any, features: dict[str, Tensor]
) -> list[tuple[Callable[[list[Boxes]], tuple[Tensor, Tensor]], Any]]:
    """What one refinement applies in turn, several for a cascade: (boxes to class scores and deltas, the predictor)."""
    if isinstance(roi_heads, Res5ROIHeads):
        maps = [features[name] for name in roi_heads.in_features]
        shared = roi_heads._shared_roi_transform
        predictor = roi_heads.box_predictor
        return [(lambda boxes: predictor(shared(maps, boxes).mean(dim=[2, 3])), predictor)]
    maps = [features[name] for name in roi_heads.box_in_features]
    cascade = isinstance(roi_heads, CascadeROIHeads)
    heads = roi_heads.box_head if cascade else [roi_heads.box_head]
    predictors = roi_heads.box_predictor if cascade else [roi_heads.box_predictor]

    def predict(head: nn.Module, predictor: nn.Module, boxes: list[Boxes]) -> tuple[Tensor, Tensor]:
        return predictor(head(roi_heads.box_pooler(maps, boxes)))

    return [
        (functools.partial(predict, head, predictor), predictor)
        for head, predictor in zip(heads, predictors, strict=True)
    ]


def _built(cfg: CfgNode) -> nn.Module:
    """The model that a configuration describes, on its device.

    Raises:
        UserError: detectron2 has no such part, or cannot make it of that size.
    """
    try:
        model: nn.Module = build_model(cfg).eval()
    except (KeyError, ValueError, TypeError, AssertionError, AttributeError, ArithmeticError, MemoryError) as error:
        raise UserError(f"detector.config: detectron2 cannot build this model: {one_line(error)}") from None
    except RuntimeError as error:
        raise UserError(f"detector.config: detectron2 cannot build this model: {first_sentence(error)}") from None
    return model


@contextlib.contextmanager
def quiet_detectron2() -> Iterator[None]:
    """Every rank would log each loaded tensor; what matters is checked and raised above."""
    loggers = [logging.getLogger(name) for name in ("fvcore", "detectron2")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
