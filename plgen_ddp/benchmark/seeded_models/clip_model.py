"""Seeded CLIP models: clip's own model, with embeddings as varied as a trained one's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from plgen_ddp.benchmark.seeded_models.calibration import normalize_on_first_call, one_thread, seeded
from plgen_ddp.benchmark.seeded_models.scenes import generated_scene

# The share of an embedding's squared length that differs between inputs. The rest is one constant coordinate, each
# tower's own, because trained towers lie apart too. At temperature 0.01 these shares make some softmax maxima over a
# dozen names exceed 0.8 and leave others below 0.3. In more dimensions random cosines are smaller, so more must differ.
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


def write_tiny_clip(folder: Path, seed: int = 0, kind: Literal["ViT", "RN"] = "ViT") -> Path:
    """Writes a small CLIP (embedding 32, input 64 pixels) as the state dict that `clip.load` accepts.

    Weights are float16 where OpenAI's are. So is the token table, because it is most of the file.

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
    """Writes a CLIP of ViT-B/32's sizes; see `write_tiny_clip`."""
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


def _write_clip(folder: Path, seed: int, *, image_resolution: int, image_share: float, **sizes: Any) -> Path:
    from clip.model import CLIP, convert_weights

    with seeded(seed):
        model: Any = CLIP(image_resolution=image_resolution, context_length=77, vocab_size=49408, **sizes).eval()
    convert_weights(model)
    # Calibrated as it will be used: with weights already rounded to float16, in float32.
    model.token_embedding.half()
    model.float()
    with one_thread():
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
    """Centres and whitens each tower's embeddings and gives each a constant coordinate, so that cosines vary as wanted.

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
        normalize_on_first_call(visual)
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
    """Centres and whitens what a layer norm and a projection without bias give, and makes one coordinate constant.

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
