"""The reference recipe written plainly: what VL-PLM and MarvelOVD compute for one image, with nothing made fast.

One image at a time, one Pillow crop at a time, every RPN proposal refined. Tests compare the package with it, and the
benchmark times it as the reference; so it imports nothing of the package and keeps the recipe's cost. It departs from
the published code in two places, both bugs there: each axis of a box is scaled back by its own ratio, and an image
without boxes is an image without labels.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

TEMPERATURE = 0.01
NEIGHBOURS = 5
NMS_IOU = 0.6
CLIP_CHUNK = 1000


class Recipe(NamedTuple):
    """The options of stage 1, as the recipe has them."""

    scales: Sequence[float] = (1.0, 1.5)  # of the crops of a box
    refine_steps: int = 10  # how often the box head is applied
    max_boxes: int = 100  # of an image, in RPN order
    min_size: float = 5.0  # pixels; narrower or lower boxes are dropped


RECIPE = Recipe()


class ReferenceRegions(NamedTuple):
    """What stage 1 leaves of one image with n kept boxes."""

    boxes_xyxy: Tensor  # float32 (n, 4), original pixels, inside the image
    objectness: Tensor  # float32 (n,), sigmoid of the RPN's logit, descending
    embeddings: Tensor  # float32 (n, d), unit length


class ReferenceEvidence(NamedTuple):
    """What else is known of the n boxes of `ReferenceRegions`, in their order: float32 (n,) each."""

    foreground: Tensor | None  # the box head's foreground probability in the last pass; None without passes
    last_move: Tensor | None  # IoU of the box before and after the last pass; None without passes
    agreement: Tensor  # mean of the five largest IoUs with the RPN's other boxes, before its suppression
    scale_cosine: Tensor  # cosine of the embeddings of the crops at the first two scales


@torch.no_grad()
def reference_proposals(
    model: Any, cfg: Any, image_bgr: np.ndarray, refine_steps: int = 10, refine_first: int | None = None
) -> tuple[Tensor, Tensor]:
    """All proposals of one image, refined, before any is dropped.

    Args:
        model: detectron2 GeneralizedRCNN in eval mode, with one class.
        cfg: its config.
        image_bgr: uint8 (H, W, 3), BGR.
        refine_steps: how often the box head is applied.
        refine_first: how many are refined, in RPN order; None: all, as the recipe does.

    Returns:
        boxes_xyxy float32 (n, 4), original pixels, not clipped; objectness float32 (n,), descending.
    """
    from detectron2.structures import Boxes

    height, width = image_bgr.shape[:2]
    images, features = _features(model, cfg, image_bgr)
    proposals, _ = model.proposal_generator(images, features, None)
    boxes = proposals[0].proposal_boxes.tensor[:refine_first]
    # Of all, then cut: torch's sigmoid may differ in the last bit between the body and the tail of a vector.
    objectness = proposals[0].objectness_logits.sigmoid()[:refine_first]

    heads = model.roi_heads
    levels = [features[name] for name in heads.box_in_features]
    for _ in range(refine_steps if len(boxes) else 0):
        pooled = heads.box_pooler(levels, [Boxes(boxes)])
        _, deltas = heads.box_predictor(heads.box_head(pooled))
        decoded = heads.box_predictor.box2box_transform.apply_deltas(deltas, boxes)
        boxes = decoded.view(len(boxes), -1, 4).mean(1)

    input_height, input_width = images.image_sizes[0]
    ratio = boxes.new_tensor([width / input_width, height / input_height]).repeat(2)
    return (boxes * ratio).cpu(), objectness.cpu()


def _features(model: Any, cfg: Any, image_bgr: np.ndarray) -> tuple[Any, dict[str, Tensor]]:
    from detectron2.data.transforms import ResizeShortestEdge

    resize = ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    resized = resize.get_transform(image_bgr).apply_image(image_bgr)
    pixels = torch.from_numpy(resized.astype(np.float32).transpose(2, 0, 1))
    images = model.preprocess_image([{"image": pixels}])
    return images, model.backbone(images.tensor)


def crop_window(box_xyxy: Sequence[float], scale: float, height: int, width: int) -> tuple[float, float, float, float]:
    """The box scaled about its centre, then clipped to the image; not rounded (Pillow's crop rounds, half to even)."""
    x0, y0, x1, y1 = box_xyxy
    center_x, center_y = (x0 + x1) / 2, (y0 + y1) / 2
    half_width, half_height = (x1 - x0) / 2 * scale, (y1 - y0) / 2 * scale
    return (
        max(center_x - half_width, 0.0),
        max(center_y - half_height, 0.0),
        min(center_x + half_width, float(width)),
        min(center_y + half_height, float(height)),
    )


@torch.no_grad()
def reference_region_embeddings(
    clip_model: Any,
    preprocess: Callable[[Image.Image], Tensor],
    image_bgr: np.ndarray,
    boxes_xyxy: Tensor,
    scales: Sequence[float] = (1.0, 1.5),
) -> Tensor:
    """One CLIP embedding a box: float32 (n, d), unit length, from boxes (n, 4) inside the image in original pixels."""
    device = next(clip_model.parameters()).device
    if len(boxes_xyxy) == 0:
        return torch.zeros(0, clip_model.text_projection.shape[1])
    height, width = image_bgr.shape[:2]
    image = Image.fromarray(np.ascontiguousarray(image_bgr[:, :, ::-1]))
    total = torch.zeros(len(boxes_xyxy), clip_model.text_projection.shape[1], device=device)
    for scale in scales:
        # Windows in Python's float64: a float32 box at scale 1.0 comes back exactly, so no edge rounds the other way.
        crops = [image.crop(crop_window(box, scale, height, width)) for box in boxes_xyxy.tolist()]
        inputs = torch.stack([preprocess(crop) for crop in crops]).to(device)
        features = torch.cat([clip_model.encode_image(chunk) for chunk in inputs.split(CLIP_CHUNK)]).float()
        total = total + features / features.norm(dim=1, keepdim=True)
    mean = total / len(scales)
    return (mean / mean.norm(dim=1, keepdim=True)).cpu()


def reference_regions(
    model: Any,
    cfg: Any,
    clip_model: Any,
    preprocess: Callable[[Image.Image], Tensor],
    image_bgr: np.ndarray,
    recipe: Recipe = RECIPE,
) -> ReferenceRegions:
    """Stage 1 of one image, uint8 (H, W, 3) BGR: refine all, keep the first `max_boxes`, clip, drop the small."""
    boxes, objectness = reference_proposals(model, cfg, image_bgr, recipe.refine_steps)
    boxes, kept = _clip_and_drop(boxes[: recipe.max_boxes], image_bgr, recipe.min_size)
    embeddings = reference_region_embeddings(clip_model, preprocess, image_bgr, boxes, recipe.scales)
    return ReferenceRegions(boxes, objectness[: recipe.max_boxes][kept], embeddings)


def _clip_and_drop(boxes_xyxy: Tensor, image_bgr: np.ndarray, min_size: float) -> tuple[Tensor, Tensor]:
    """The boxes (n, 4), clipped to the image, without those under `min_size`; and which these are, bool (n,)."""
    height, width = image_bgr.shape[:2]
    boxes = torch.minimum(boxes_xyxy.clamp(min=0), boxes_xyxy.new_tensor([width, height, width, height]))
    kept = ((boxes[:, 2:] - boxes[:, :2]) >= min_size).all(dim=1)
    return boxes[kept], kept


@torch.no_grad()
def reference_evidence(
    model: Any,
    cfg: Any,
    clip_model: Any,
    preprocess: Callable[[Image.Image], Tensor],
    image_bgr: np.ndarray,
    recipe: Recipe = RECIPE,
) -> ReferenceEvidence:
    """The evidence for the boxes that `reference_regions` returns with the same arguments.

    The recipe has no such columns, so they are computed apart from it, and its cost stays what it is.
    """
    from detectron2.structures import Boxes

    rpn, heads = model.proposal_generator, model.roi_heads
    images, features = _features(model, cfg, image_bgr)
    head_outputs: list[Any] = []
    hook = rpn.rpn_head.register_forward_hook(lambda module, inputs, outputs: head_outputs.append(outputs))
    proposals, _ = rpn(images, features, None)
    hook.remove()
    proposed = proposals[0].proposal_boxes.tensor[: recipe.max_boxes]

    # All boxes that the RPN chooses from: of every level the best, clipped.
    ((logits, deltas),) = head_outputs
    anchors = rpn.anchor_generator([features[name] for name in rpn.in_features])
    candidates = []
    for level_anchors, level_logits, level_deltas in zip(anchors, logits, deltas, strict=True):
        scores = level_logits[0].permute(1, 2, 0).flatten()
        moves = level_deltas[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).reshape(-1, 4)
        best = scores.sort(descending=True).indices[: cfg.MODEL.RPN.PRE_NMS_TOPK_TEST]
        decoded = Boxes(rpn.box2box_transform.apply_deltas(moves, level_anchors.tensor)[best])
        decoded.clip(images.image_sizes[0])
        candidates.append(decoded[decoded.nonempty()].tensor)
    everything = torch.cat(candidates)

    refined, foreground, last_move = proposed, None, None
    levels = [features[name] for name in heads.box_in_features]
    for _ in range(recipe.refine_steps if len(proposed) else 0):
        pooled = heads.box_pooler(levels, [Boxes(refined)])
        class_logits, moves = heads.box_predictor(heads.box_head(pooled))
        before, refined = refined, heads.box_predictor.box2box_transform.apply_deltas(moves, refined)
        foreground = torch.softmax(class_logits, dim=1)[:, 0]
        last_move = torch.stack(
            [box_iou(one[None], other[None])[0, 0] for one, other in zip(before, refined, strict=True)]
        )

    agreement = []
    for one, as_proposed in zip(refined, proposed, strict=True):
        ious = box_iou(one[None], everything)[0]
        itself = int(box_iou(as_proposed[None], everything)[0].argmax())
        others = torch.cat([ious[:itself], ious[itself + 1 :]]).sort(descending=True).values
        agreement.append(others[:NEIGHBOURS].sum() / NEIGHBOURS)

    height, width = image_bgr.shape[:2]
    input_height, input_width = images.image_sizes[0]
    boxes = (refined * refined.new_tensor([width / input_width, height / input_height]).repeat(2)).cpu()
    boxes, kept = _clip_and_drop(boxes, image_bgr, recipe.min_size)
    first, second = (
        reference_region_embeddings(clip_model, preprocess, image_bgr, boxes, [scale]) for scale in recipe.scales[:2]
    )
    return ReferenceEvidence(
        None if foreground is None else foreground.cpu()[kept],
        None if last_move is None else last_move.cpu()[kept],
        torch.stack(agreement).cpu()[kept] if agreement else torch.zeros(0),
        (first * second).sum(dim=1),
    )


@torch.no_grad()
def reference_text_embeddings(clip_model: Any, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """One CLIP embedding a name, over all templates: float32 (len(names), d), unit length.

    In a template, `{article}` becomes a or an and `{}` the name. An underscore in a name is read as a space.
    """
    import clip

    device = next(clip_model.parameters()).device
    embeddings = []
    for name in (name.replace("_", " ") for name in names):
        article = "an" if name[0].lower() in "aeiou" else "a"
        prompts = [template.format(name, article=article) for template in templates]
        features = clip_model.encode_text(clip.tokenize(prompts).to(device)).float()
        mean = (features / features.norm(dim=1, keepdim=True)).mean(0)
        embeddings.append(mean / mean.norm())
    return torch.stack(embeddings).cpu()


def reference_labels(
    image_id: int,
    boxes_xyxy: Tensor,
    objectness: Tensor,
    cosines: Tensor,
    category_ids: Sequence[int],
    preset: str,
    first_id: int = -1,
) -> list[dict[str, Any]]:
    """Stage 2 of one image: the pseudo labels as COCO annotations, by falling score.

    Args:
        image_id: written into each annotation.
        boxes_xyxy: (n, 4), original pixels.
        objectness: (n,).
        cosines: (n, c), region embeddings times text embeddings of the c novel names.
        category_ids: the c names' category ids.
        preset: "vlplm" or "marvelovd".
        first_id: id of the first annotation; the following count down from it.

    All arithmetic is float64 from here on.
    """
    if len(boxes_xyxy) == 0:
        return []
    clip_scores, names = torch.softmax(cosines.double() / TEMPERATURE, dim=1).max(dim=1)
    if preset == "vlplm":
        weight, threshold = 0.5, 0.8
    elif preset == "marvelovd":
        weight, threshold = 0.0, 0.5
    else:
        raise ValueError(f"preset is {preset!r}; expected 'vlplm' or 'marvelovd'")
    labels = reference_top_labels(
        image_id, boxes_xyxy, objectness, clip_scores, torch.tensor(category_ids)[names], weight, threshold, first_id
    )
    if preset == "vlplm":  # which does not write them
        for label in labels:
            del label["clip_score"], label["rpn_score"]
    return labels


def reference_top_labels(
    image_id: int,
    boxes_xyxy: Tensor,
    objectness: Tensor,
    clip_scores: Tensor,
    category_ids: Tensor,
    weight: float,
    threshold: float,
    first_id: int = -1,
    nms_iou: float = NMS_IOU,
) -> list[dict[str, Any]]:
    """Stage 2 of one image from the likeliest name of each box, as stage 1 of the published code leaves it.

    Args:
        boxes_xyxy: (n, 4), n > 0, original pixels.
        objectness, clip_scores, category_ids: (n,), the latter two of each box's likeliest name.
        weight: of objectness in the score; 0 is MarvelOVD's rule.
        threshold: a box is kept where its score is above this.
    """
    scores = weight * objectness.double() + (1 - weight) * clip_scores
    above = (scores > threshold).nonzero()[:, 0]
    order = batched_nms(boxes_xyxy[above].double(), scores[above], category_ids[above], nms_iou)
    labels: list[dict[str, Any]] = []
    for index in above[order].tolist():
        x0, y0, x1, y1 = boxes_xyxy[index].double().tolist()
        labels.append(
            {
                "id": first_id - len(labels),
                "image_id": image_id,
                "category_id": int(category_ids[index]),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": 0,
                "iscrowd": 0,
                "segmentation": [[]],
                "confidence": float(scores[index]),
                "thing_isBase": False,
                "thing_isNovel": True,
                "clip_score": float(clip_scores[index]),
                "rpn_score": float(objectness[index]),
            }
        )
    return labels
