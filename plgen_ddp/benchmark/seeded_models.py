"""Detectors and CLIP models with seeded random weights, in the files a user has: for tests, benchmarks, smoke runs.

    python -m plgen_ddp.seeded_models OUT_DIR                            # tiny models: seconds, about 9 MB
    python -m plgen_ddp.seeded_models OUT_DIR --full --image photo.jpg   # R50-FPN and ViT-B/32: minutes, about 480 MB

writes detector.yaml and detector.pth (detectron2: a class-agnostic Mask R-CNN) and clip.pt (a state dict for
`clip.load`). The weights have learned nothing, so the labels they give mean nothing. Their scale is that of trained
models, which plain random initialisation does not give: features neither vanish nor explode, objectness and class
probabilities spread over their range, and a box stays a box through ten refinement passes. The same seed and the same
images give the same files.

detectron2 and clip are imported inside functions: these builders know both libraries' own classes and nothing of the
rest of this package, so what they write tests the package's loaders.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor, nn

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
# Standard deviation of the network's (dx, dy, dw, dh), in box sizes and log sizes. The RPN's is that of a working
# detector. The box head's is small, for ten passes add up: a box moves by about a third of its size.
RPN_DELTA_STD = (0.1, 0.1, 0.2, 0.2)
REFINEMENT_DELTA_STD = (0.03, 0.03, 0.05, 0.05)

# Share of an embedding's squared length that differs between inputs; the rest is one coordinate, constant and each
# tower's own, as trained towers keep apart. At temperature 0.01 these shares make some softmax maxima over a dozen
# names exceed 0.8 and leave others below 0.3. In more dimensions random cosines are smaller, so more must differ.
TEXT_COORDINATE, IMAGE_COORDINATE = 0, 1
TINY_IMAGE_SHARE, FULL_IMAGE_SHARE = 0.30, 0.70
TEXT_SHARE = 0.15
# clip.py's normalisation of RGB in [0, 1].
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CALIBRATION_WORDS = (
    "lamp", "river", "drum", "ladder", "wolf", "candle", "bridge", "shoe", "violin", "teapot", "tractor", "feather",
    "mirror", "rocket", "basket", "lion", "anchor", "pillow", "hammer", "whale", "helmet", "tent", "piano", "cactus",
    "washing machine", "polar lights", "wine glass", "stone wall", "garden hose", "rain coat", "desk drawer",
)  # fmt: skip
CALIBRATION_TEMPLATES = (
    "a photo of a {}.", "There is the {} in the scene.", "itap of my {}.", "a bad photo of the {}.", "the cartoon {}.",
    "a sculpture of a {}.", "a drawing of the {}.", "a black and white photo of a {}.", "graffiti of the {}.",
    "a close-up photo of the {}.", "a photo of many {}.", "a {} in a video game.",
)  # fmt: skip


def generated_scene(seed: int = 0, height: int = 480, width: int = 640) -> np.ndarray:
    """A picture with a photo's statistics where they matter here: shading, edges at every scale, calm and busy places.

    Returns uint8 (height, width, 3), BGR.
    """
    random = np.random.default_rng(seed)
    coarse = _natural_colours(random, 6 * 8).reshape(6, 8, 3)
    canvas = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    shapes = int(np.exp(random.uniform(np.log(30), np.log(1500))))
    # From large to small, as a small object in front of a large one stays visible.
    sizes = np.sort(np.exp(random.uniform(np.log(2), np.log(height / 4), shapes)))[::-1]
    band_top, band_height = random.uniform(0, 0.6) * height, random.uniform(0.3, 0.6) * height
    for size, colour in zip(sizes, _natural_colours(random, shapes), strict=True):
        # Small shapes crowd in one band and leave the rest calm.
        y = random.uniform(0, height) if size > 20 else random.uniform(band_top, band_top + band_height)
        center = (int(random.uniform(0, width)), int(y))
        axes = (int(size), max(1, int(size * random.uniform(0.2, 1.0))))
        angle = float(random.uniform(0, 180))
        bgr = tuple(float(value) for value in colour)
        if random.random() < 0.5:
            cv2.ellipse(canvas, center, axes, angle, 0, 360, bgr, -1)
        else:
            corners = cv2.boxPoints((center, (2 * axes[0], 2 * axes[1]), angle))
            cv2.fillPoly(canvas, [corners.astype(np.int32)], bgr)
    grain = random.normal(0, 5, canvas.shape)
    return np.clip(canvas + grain, 0, 255).astype(np.uint8)


def _natural_colours(random: np.random.Generator, count: int) -> np.ndarray:
    """Mostly grey levels, with some colour: float32 (count, 3)."""
    return (random.uniform(0, 255, (count, 1)) + random.normal(0, 30, (count, 3))).clip(0, 255).astype(np.float32)


def write_tiny_detector(folder: Path, image_paths: Sequence[Path] = (), seed: int = 0) -> tuple[Path, Path]:
    """Write a small class-agnostic Mask R-CNN (0.3 M parameters, input 192 to 320 pixels).

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
    """Write a class-agnostic Mask R-CNN R50-FPN at its published size, 800 to 1333; see `write_tiny_detector`."""
    return _write_detector(folder, FULL_DETECTOR_YAML, [] if image_path is None else [image_path], seed)


def write_tiny_clip(folder: Path, seed: int = 0, kind: Literal["ViT", "RN"] = "ViT") -> Path:
    """Write a small CLIP (embedding 32, input 64 pixels) as the state dict that `clip.load` accepts.

    Weights are float16 where OpenAI's are; the token table is too, being most of the file.

    Args:
        folder: where clip.pt goes; made if missing.
        seed: decides the weights.
        kind: "ViT" (2 layers, patch 16) or "RN" (one bottleneck a stage, attention pooling).

    Returns:
        The path of clip.pt.
    """
    vision: dict[str, tuple[int | tuple[int, ...], int, int | None]] = {
        "ViT": (2, 64, 16),
        "RN": ((1, 1, 1, 1), 8, None),
    }
    if kind not in vision:
        raise ValueError(f"kind is {kind!r}; expected one of {sorted(vision)}")
    vision_layers, vision_width, patch_size = vision[kind]
    return _write_clip(
        folder,
        seed,
        image_share=TINY_IMAGE_SHARE,
        embed_dim=32,
        image_resolution=64,
        vision_layers=vision_layers,
        vision_width=vision_width,
        vision_patch_size=patch_size,
        transformer_width=64,
        transformer_heads=1,
        transformer_layers=2,
    )


def write_full_clip(folder: Path, seed: int = 0) -> Path:
    """Write a CLIP of ViT-B/32's sizes; see `write_tiny_clip`."""
    return _write_clip(
        folder,
        seed,
        image_share=FULL_IMAGE_SHARE,
        embed_dim=512,
        image_resolution=224,
        vision_layers=12,
        vision_width=768,
        vision_patch_size=32,
        transformer_width=512,
        transformer_heads=8,
        transformer_layers=12,
    )


# ---------------------------------------------------------------------------------------------------------- detector


def _write_detector(folder: Path, config_text: str, image_paths: Sequence[Path], seed: int) -> tuple[Path, Path]:
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    # One photo has too few positions at the coarsest level to print_line how much a channel varies elsewhere.
    images_bgr = [generated_scene(CALIBRATION_SCENES * seed + scene) for scene in range(CALIBRATION_SCENES)]
    images_bgr += [_read_bgr(path) for path in image_paths]
    folder.mkdir(parents=True, exist_ok=True)
    config_path = folder / "detector.yaml"
    config_path.write_text(config_text)
    cfg = get_cfg()
    cfg.merge_from_file(str(config_path), allow_unsafe=False)
    cfg.MODEL.DEVICE = "cpu"
    with _seeded(seed):
        model = build_model(cfg).eval()
    _calibrate_detector(model, cfg, images_bgr)
    weights_path = folder / "detector.pth"
    torch.save({"model": model.state_dict()}, weights_path)
    return config_path, weights_path


@torch.no_grad()
def _calibrate_detector(model: Any, cfg: Any, images_bgr: Sequence[np.ndarray]) -> None:
    """Give every layer outputs of a sane scale on these images, front to back in one pass (as LSUV does)."""
    from detectron2.data.transforms import ResizeShortestEdge
    from detectron2.structures import Boxes

    # float64, so that the order of a sum (threads, instruction set) does not reach the float32 that is written.
    model.double()
    resize = ResizeShortestEdge(min(cfg.INPUT.MIN_SIZE_TEST, CALIBRATION_SIZE), cfg.INPUT.MAX_SIZE_TEST)
    inputs = []
    for image_bgr in images_bgr:
        resized = resize.get_transform(image_bgr).apply_image(image_bgr)
        inputs.append({"image": torch.from_numpy(resized.transpose(2, 0, 1).astype(np.float64))})

    _normalize_on_first_call(model.backbone.bottom_up)
    for block in model.backbone.bottom_up.modules():
        # Beside the shortcut a residual is small in trained networks; at full size, depth multiplies what is unusual in
        # an image until every objectness saturates.
        if hasattr(block, "shortcut"):
            block.conv3.norm.weight.fill_(RESIDUAL_GAIN)
    fpn_convs = [layer for name, layer in model.backbone.named_children() if name != "bottom_up"]
    for layer in fpn_convs:
        if isinstance(layer, nn.Conv2d):
            _standardize_on_first_call(layer)
    rpn_head = model.proposal_generator.rpn_head
    _standardize_on_first_call(rpn_head.conv)
    _standardize_on_first_call(rpn_head.objectness_logits)
    anchors_per_cell = rpn_head.objectness_logits.out_channels
    _standardize_on_first_call(rpn_head.anchor_deltas, torch.tensor(RPN_DELTA_STD).repeat(anchors_per_cell))

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
            _standardize_on_first_call(layer)
    _standardize_on_first_call(roi_heads.box_predictor.cls_score)
    deltas_std = torch.tensor(REFINEMENT_DELTA_STD) * torch.tensor(cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS)
    _standardize_on_first_call(roi_heads.box_predictor.bbox_pred, deltas_std)
    levels = [features[name] for name in roi_heads.box_in_features]
    pooled = roi_heads.box_pooler(
        levels, [Boxes((p.proposal_boxes.tensor.double() * 8).round() / 8) for p in proposals]
    )
    roi_heads.box_predictor(roi_heads.box_head(pooled))
    model.float()


def _normalize_on_first_call(module: nn.Module) -> None:
    """Set each (frozen) batch norm's running statistics from the first batch it meets."""

    def set_statistics(layer: Any, x: Tensor) -> None:
        variance = x.var((0, 2, 3), correction=0)
        layer.running_mean.copy_(x.mean((0, 2, 3)))
        # A channel that hardly ever fires here may fire on another image: without a floor it would drown the others.
        layer.running_var.copy_(variance.clamp(min=0.5 * float(variance.mean())))

    for layer in module.modules():
        if hasattr(layer, "running_mean"):
            _on_first_call(layer, set_statistics)


def _standardize_on_first_call(layer: nn.Module, std: Tensor | None = None) -> None:
    """Rescale a convolution or linear layer: its first batch gives each channel mean 0 and `std` (default 1)."""

    def rescale(layer: Any, x: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            y = nn.functional.conv2d(x, layer.weight, stride=layer.stride, padding=layer.padding)
            y = y.transpose(0, 1).flatten(1)
        else:
            y = nn.functional.linear(x, layer.weight).T
        spread = y.std(1, correction=0)
        gain = (1.0 if std is None else std.to(y)) / spread.clamp(min=0.5 * float(spread.mean()))
        layer.weight.mul_(gain.view(-1, *[1] * (layer.weight.dim() - 1)))
        layer.bias.copy_(-gain * y.mean(1))

    _on_first_call(layer, rescale)


def _on_first_call(layer: nn.Module, action: Callable[[Any, Tensor], None]) -> None:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        handle.remove()
        action(layer, inputs[0])

    handle = layer.register_forward_pre_hook(hook)


# -------------------------------------------------------------------------------------------------------------- CLIP


def _write_clip(folder: Path, seed: int, *, image_resolution: int, image_share: float, **sizes: Any) -> Path:
    from clip.model import CLIP, convert_weights

    with _seeded(seed):
        model: Any = CLIP(image_resolution=image_resolution, context_length=77, vocab_size=49408, **sizes).eval()
    convert_weights(model)
    # Calibrated as it will be used: with weights already rounded to float16, in float32.
    model.token_embedding.half()
    model.float()
    with _one_thread():
        _calibrate_clip(model, image_resolution, image_share, seed)
    convert_weights(model)
    model.token_embedding.half()
    state: dict[str, Tensor] = model.state_dict()
    # OpenAI's files carry these three beside the weights.
    state["input_resolution"] = torch.tensor(image_resolution)
    state["context_length"] = torch.tensor(model.context_length)
    state["vocab_size"] = torch.tensor(model.vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "clip.pt"
    torch.save(state, path)
    return path


@torch.no_grad()
def _calibrate_clip(model: Any, resolution: int, image_share: float, seed: int) -> None:
    """Centre and whiten each tower's embeddings and give each a constant coordinate, so that cosines vary as wanted.

    A random tower gives nearly the same embedding for everything. What differs between inputs is kept; what is common
    is replaced by the constant coordinate, in the shares `image_share` and TEXT_SHARE.
    """
    visual = model.visual
    crops = _calibration_crops(resolution, seed)

    def image_embeddings() -> Tensor:
        return torch.cat([visual(part) for part in crops.split(32)])

    if hasattr(visual, "attnpool"):
        for block in visual.modules():
            if hasattr(block, "bn3"):
                nn.init.ones_(block.bn3.weight)  # CLIP starts at 0, which leaves only the shortcuts
        _normalize_on_first_call(visual)
        visual(crops)
        head = visual.attnpool.c_proj
        head.weight[[TEXT_COORDINATE, IMAGE_COORDINATE]] = 0.0
        head.bias.zero_()
        head.weight.copy_((_whitening(image_embeddings()) @ head.weight).half())
        embeddings = image_embeddings()
        head.bias.copy_(-embeddings.mean(0))
        head.bias[IMAGE_COORDINATE] = _common_length(embeddings, image_share)
    else:
        _calibrate_projection(visual.ln_post, visual.proj, image_embeddings, IMAGE_COORDINATE, image_share)

    texts = [template.format(word) for word in CALIBRATION_WORDS for template in CALIBRATION_TEMPLATES]

    def word_embeddings() -> Tensor:
        embeddings = torch.cat([model.encode_text(part) for part in _tokenize(texts).split(32)])
        return embeddings.view(len(CALIBRATION_WORDS), len(CALIBRATION_TEMPLATES), -1).mean(1)

    _calibrate_projection(model.ln_final, model.text_projection, word_embeddings, TEXT_COORDINATE, TEXT_SHARE)


def _calibrate_projection(
    norm: nn.LayerNorm, projection: Tensor, embed: Callable[[], Tensor], constant: int, share: float
) -> None:
    """Centre and whiten what a layer norm and a projection without bias give, and make one coordinate constant.

    A layer norm's output sums to zero over its width before the bias. So a projection column of ones reads the bias
    alone, and columns that sum to zero do not see a bias that is the same everywhere.
    """
    projection.sub_(projection.mean(0))
    projection[:, [TEXT_COORDINATE, IMAGE_COORDINATE]] = 0.0
    projection.copy_((projection @ _whitening(embed())).half())
    embeddings = embed()
    # The smallest bias whose projection is the mean's opposite.
    norm.bias.copy_(-torch.linalg.lstsq(projection.T, embeddings.mean(0)[:, None], driver="gelsd").solution[:, 0])
    norm.bias.add_(_common_length(embeddings, share) / len(norm.bias))
    projection[:, constant] = 1.0


def _whitening(embeddings: Tensor) -> Tensor:
    """The symmetric (d, d) matrix that gives (n, d) embeddings equal variance in every direction they vary in.

    Directions with less than a hundredth of the greatest variance are not raised further: they are noise.
    """
    variances, directions = torch.linalg.eigh(torch.cov(embeddings.double().T))
    scales = variances.clamp(min=0.01 * float(variances.max())).rsqrt()
    scales = scales / scales.min() / len(scales) ** 0.5
    return ((directions * scales) @ directions.T).float()


def _common_length(embeddings: Tensor, share: float) -> Tensor:
    """Length of the common coordinate beside which deviations from the mean are `share` of the mean squared length."""
    deviations = embeddings - embeddings.mean(0)
    return (deviations.square().sum(1).mean() * (1 - share) / share).sqrt()


def _tokenize(texts: list[str]) -> Tensor:
    import clip

    return clip.tokenize(texts)


def _calibration_crops(resolution: int, seed: int, scenes: int = 8, crops_per_scene: int = 16) -> Tensor:
    """Square crops of generated scenes as CLIP input: float32 (scenes * crops_per_scene, 3, resolution, resolution)."""
    random = np.random.default_rng(seed)
    crops = []
    for scene in range(scenes):
        image_rgb = generated_scene(seed * scenes + scene)[:, :, ::-1]
        height, width = image_rgb.shape[:2]
        for _ in range(crops_per_scene):
            side = int(np.exp(random.uniform(np.log(12), np.log(height))))
            top, left = int(random.integers(height - side + 1)), int(random.integers(width - side + 1))
            crop = np.ascontiguousarray(image_rgb[top : top + side, left : left + side])
            crops.append(cv2.resize(crop, (resolution, resolution), interpolation=cv2.INTER_AREA))
    pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)


# ------------------------------------------------------------------------------------------------------------ shared


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Run the libraries' own initialisation under a seed, leaving the caller's random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sum in one order whatever the machine: CLIP's layer norms force float32, where the order shows."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _read_bgr(path: Path) -> np.ndarray:
    image_bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image_bgr is None:
        raise ValueError(f"{path}: not an image that OpenCV can read")
    return image_bgr


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line described at the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m plgen_ddp.seeded_models", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("out_dir", type=Path, help="where detector.yaml, detector.pth and clip.pt go")
    parser.add_argument("--full", action="store_true", help="R50-FPN and ViT-B/32 instead of tiny models")
    parser.add_argument(
        "--image", type=Path, help="calibrate the detector on this image as well as on generated scenes"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        if options.full:
            detector_files = write_full_detector(options.out_dir, options.image, options.seed)
            clip_file = write_full_clip(options.out_dir, options.seed)
        else:
            images = [] if options.image is None else [options.image]
            detector_files = write_tiny_detector(options.out_dir, images, options.seed)
            clip_file = write_tiny_clip(options.out_dir, options.seed)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for path in (*detector_files, clip_file):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
