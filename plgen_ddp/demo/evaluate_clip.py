"""How good the demo's CLIP is: on ground-truth boxes and on boxes of background, as the job would use it."""

from dataclasses import dataclass

import numpy as np
import torch
from clip import tokenize
from clip.model import CLIP
from PIL import Image
from torch import Tensor
from torch.nn import functional

from plgen_ddp.boxes import ious
from plgen_ddp.demo.clip_inputs import (
    KIND_NAMES,
    LEVELS,
    LOOKS,
    NAMES,
    SUPER_NAMES,
    TEXTS,
    crop,
    photo_of,
    pixels,
    random_boxes,
    scene_boxes,
    templates,
)
from plgen_ddp.demo.scenes import NOVEL, SUPERS, draw_scene

SCALES = (1.0, 1.5)  # the job's crop scales
TEMPERATURE = 0.01  # the job's


@torch.no_grad()
def text_embeddings(model: CLIP, names: tuple[str, ...]) -> Tensor:
    """The mean embedding of each name over the grammar's plain templates: float32 (len(names), 128), unit length."""
    wordings = [t for t in templates() if t.endswith("{}.") and not any(look in t for look in LOOKS)]
    prompts = [tokenize([template.format(name) for template in wordings]) for name in names]
    means = [functional.normalize(model.encode_text(tokens), dim=1).mean(dim=0) for tokens in prompts]
    return functional.normalize(torch.stack(means), dim=1)


@torch.no_grad()
def region_embeddings(model: CLIP, photo: Image.Image, boxes_xyxy: np.ndarray) -> Tensor:
    """The job's region embedding of each box, the mean over both crop scales: float32 (n, 128), unit length."""
    crops = np.stack([crop(photo, box, scale) for box in boxes_xyxy for scale in SCALES])
    embeddings = functional.normalize(model.encode_image(pixels(crops)).float(), dim=1)
    return functional.normalize(embeddings.unflatten(0, (-1, len(SCALES))).mean(dim=1), dim=1)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Shares of ground-truth boxes and of background boxes.

    The last three are about a softmax over the novel names alone at temperature 0.01, as the job does it. They are
    shares of boxes whose best probability is above 0.5.

    Attributes:
        boxes: ground-truth boxes.
        accuracy: of them, those whose best of 18 names is the object's.
        accuracy_novel: the same, of novel objects.
        kind: the best of all kinds is the object's.
        general: the best of all more general names is one of the object's.
        novel_found: of novel objects, with the right name.
        base_taken: of base objects.
        background_taken: of random boxes with an IoU under 0.1 with every object.
    """

    boxes: int
    accuracy: float
    accuracy_novel: float
    kind: float
    general: float
    novel_found: float
    base_taken: float
    background_taken: float

    def __str__(self) -> str:
        return (
            f"{self.boxes} objects: accuracy {self.accuracy:.3f} over {len(NAMES)} names ({self.accuracy_novel:.3f} on "
            f"novel), {self.kind:.3f} over {len(KIND_NAMES)} kinds, {self.general:.3f} over {len(SUPER_NAMES)} more "
            f"general names; novel names alone, p > 0.5: {self.novel_found:.3f} of the novel objects named right, "
            f"{self.base_taken:.3f} of the base objects and {self.background_taken:.3f} of background taken for novel"
        )


def evaluate(model: CLIP, seeds: range) -> Evaluation:
    """Evaluates on the ground-truth boxes of the scenes of these seeds, and on as many boxes of background."""
    texts, novel = text_embeddings(model, TEXTS), np.array([name in NOVEL for name in NAMES])
    true_names, true_kinds, embeddings, background = [], [], [], []
    rng = np.random.default_rng(0)
    for seed in seeds:
        scene = draw_scene(seed)
        boxes, names, kinds = scene_boxes(scene)
        photo = photo_of(scene)
        others = random_boxes(rng, 3 * len(boxes), photo.size)
        others = np.clip(others, 0, np.tile(photo.size, 2))
        others = others[ious(others, boxes).max(axis=1) < 0.1][: len(boxes)]
        found = region_embeddings(model, photo, np.concatenate([boxes, others]))
        true_names.append(names)
        true_kinds.append(kinds)
        embeddings.append(found[: len(boxes)])
        background.append(found[len(boxes) :])
    truth = np.concatenate(true_names)
    best = [level.argmax(dim=1).numpy() for level in (torch.cat(embeddings) @ texts.T).split(LEVELS, dim=1)]
    right = best[0] == truth
    is_novel = novel[truth]

    def among_novel(similarity: Tensor) -> tuple[np.ndarray, np.ndarray]:
        likely = (similarity[:, np.flatnonzero(novel)] / TEMPERATURE).softmax(dim=1).max(dim=1)
        return likely.values.numpy(), np.flatnonzero(novel)[likely.indices.numpy()]

    score, guess = among_novel(torch.cat(embeddings) @ texts.T)
    background_score, _ = among_novel(torch.cat(background) @ texts.T)
    return Evaluation(
        boxes=len(truth),
        accuracy=float(right.mean()),
        accuracy_novel=float(right[is_novel].mean()),
        kind=float((best[1] == np.concatenate(true_kinds)).mean()),
        general=float(np.mean([SUPER_NAMES[g] in SUPERS[NAMES[n]] for g, n in zip(best[2], truth, strict=True)])),
        novel_found=float(((score > 0.5) & (guess == truth))[is_novel].mean()),
        base_taken=float((score > 0.5)[~is_novel].mean()),
        background_taken=float((background_score > 0.5).mean()),
    )
