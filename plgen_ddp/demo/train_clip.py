"""Trains the demo's CLIP from nothing on drawn scenes, and says how good it is.

    python -m plgen_ddp.demo.train_clip --out plgen_ddp/demo/weights/clip.pt      # train, evaluate, write
    python -m plgen_ddp.demo.train_clip --evaluate plgen_ddp/demo/weights/clip.pt  # evaluate a file

The file is a state dict that OpenAI's `clip.load(path)` reads unmodified. The model is OpenAI's own `CLIP` class with a
ModifiedResNet image tower of one block a stage at 64 x 64 and a text tower of one layer: 1.36 M and 0.11 M parameters,
plus CLIP's table of 49,408 tokens, of which only the rows the prompts use are not zero.

The towers are trained one after the other; together, from nothing, they do not get off the ground at this size.

1. Text: prompts, drawn from a small grammar of templates times the 18 names and "background", are fitted to fixed
   targets: a direction common to all texts (weight sqrt(0.85)) plus a vertex of a regular simplex of one's own
   (sqrt(0.15)). Two names then have a cosine of 0.84, a name and itself 1, and an image of anything else is about
   equally far from all names: at CLIP's temperature of 0.01 a softmax over the novel names alone stays flat for it.
2. Images: the text tower frozen, softmax cross-entropy at temperature 0.01, over all 19 texts and over a random
   vocabulary of 6 names for each sample: where the sample's own name is not in it, all six shall be as likely, since
   the job asks for some names and meets others. A sample is a box, cropped as the job crops it (scale 1.0 or 1.5,
   CLIP's preprocessing). The target slides from "background" to the name with the box's IoU, so parts of an object
   and loose boxes score low.
3. Text again, the token table frozen: the names keep their targets, and any word whose tokens were never trained (they
   are all zero, hence alike) is taken to a place about as far from every image as a wrong name, unless a name stands
   beside it: a template may hold words of its own. Left alone, such words fall on one of the 18 names.

The embedded file: the first command's defaults, 5000 steps of 64 crops, 15 minutes on one thread of an AMD EPYC
(PyTorch 2.14.1, OpenCV 5.0.0, NumPy 2.4.6; there, the same command gives the same bytes again). On 200 validation
scenes (1,027 objects, seeds from 100,000): accuracy 0.986 over the 18 names; among the six novel names alone, with p
> 0.5, 98.2 % of the novel objects are named right, and 1.3 % of the base objects and 0.2 % of background boxes are
taken for novel. Any name beyond the 18 means nothing to it.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from clip import load, tokenize
from clip.model import CLIP
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from plgen_ddp.demo.scenes import BASE, JPEG_QUALITY, NOVEL, SEEDS, SceneImage, draw_scene
from plgen_ddp.train.weights import write_small_weights

__all__ = ["Evaluation", "build", "evaluate", "main", "region_embeddings", "text_embeddings", "train"]

NAMES = (*BASE, *NOVEL)
TEXTS = (*NAMES, "background")  # a column of the loss each
RESOLUTION = 64  # pixels
EMBEDDING = 128
SCALES = (1.0, 1.5)  # the job's crop scales
TEMPERATURE = 0.01
COMMON = 0.85  # share of a text embedding's squared length that all texts have in common
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's own, RGB
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

TEXT_STEPS = 400  # of 1. and of 3. each
STEPS = 5000
BATCH = 64  # crops a step
LEARNING_RATE = 1.5e-3
WARM_UP = 100  # steps
WEIGHT_DECAY = 0.05
SMOOTHING = 0.1  # of the targets over all texts
VOCABULARY = 6  # names in a sample's random vocabulary
CERTAIN = 0.97  # a good box's target for its own name within such a vocabulary
IOU_RAMP = (0.25, 0.7)  # the target is "background" up to the first IoU and the name from the second on
STRANGE_WORDING = 0.15  # share of a prompt's tokens, the name apart, that 3. makes unknown
STRANGERS = ("dog", "dinosaur", "tennis racket", "hot air balloon")  # of one to three tokens no prompt has
SCENES_AT_ONCE = 32  # drawn together, their boxes shuffled
EVALUATION_SCENES = 200

_PHOTOS = (
    *("photo", "good photo", "bad photo", "bright photo", "dark photo", "low resolution photo", "cropped photo"),
    *("close-up photo", "jpeg corrupted photo", "blurry photo", "pixelated photo", "black and white photo"),
    *("painting", "drawing", "picture"),
)
_LOOKS = (
    *("nice", "cool", "weird", "small", "large", "clean", "dirty", "hard to see"),
    *("plastic", "toy", "plushie", "cartoon", "embroidered"),
)
_DETERMINERS = ("a", "the", "my", "one", "many")
_SCENE = " in the scene."


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _templates() -> tuple[str, ...]:
    """Prompt templates with `{}` for the name; among them, up to "a" for "an", the common CLIP prompts."""
    plain = [f"{determiner} {{}}" for determiner in _DETERMINERS]
    looks = [f"{determiner} {look} {{}}" for look in _LOOKS for determiner in ("a", "the")]
    photos = [f"{_with_article(photo)} of {thing}" for photo in _PHOTOS for thing in (*plain, *looks)]
    loose = [f"{start}{thing}" for thing in (*plain, *looks) for start in ("itap of ", "There is ", "")]
    endless = ["{}", *loose, *photos]
    return tuple(text + end for text in endless for end in ("", ".", _SCENE))


def build() -> CLIP:
    """The untrained model, float32, on the CPU."""
    model = CLIP(EMBEDDING, RESOLUTION, (1, 1, 1, 1), 16, None, 77, 49408, 64, 1, 1)
    for name, parameter in model.visual.named_parameters():
        # CLIP starts residual branches at zero, which suits its depth; one block a stage then barely learns
        if name.startswith("layer") and name.endswith("bn3.weight"):
            nn.init.ones_(parameter)
    return model


def _text_targets(generator: torch.Generator) -> Tensor:
    """Unit text embeddings to aim at, float32 (19, 128), pairwise equally far apart."""
    count = len(TEXTS)
    basis, _ = torch.linalg.qr(torch.randn(EMBEDDING, count + 1, generator=generator))
    vertices = functional.normalize(torch.eye(count) - 1 / count, dim=1) @ basis[:, 1:].T
    return math.sqrt(COMMON) * basis[:, 0] + math.sqrt(1 - COMMON) * vertices


def _log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _fit_text(model: CLIP, generator: torch.Generator) -> Tensor:
    """Fit the text tower to its targets. Returns unit embeddings of every template and text, (T, 19, 128)."""
    templates, targets = _templates(), _text_targets(generator)
    tokens = torch.stack([tokenize([template.format(text) for text in TEXTS]) for template in templates])
    parameters = [p for name, p in model.named_parameters() if not name.startswith("visual.") and name != "logit_scale"]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=TEXT_STEPS)
    for step in range(1, TEXT_STEPS + 1):
        chosen = tokens[torch.randint(len(templates), (6,), generator=generator)]
        found = functional.normalize(model.encode_text(chosen.flatten(0, 1)), dim=1)
        loss = (found - targets.repeat(6, 1)).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            _log(f"text {step}/{TEXT_STEPS}: squared distance {loss.item():.4f}")
    unused = torch.ones(model.vocab_size, dtype=torch.bool)
    unused[tokens.unique()] = False
    with torch.no_grad():
        model.token_embedding.weight[unused] = 0.0  # never trained, and zeros deflate to nothing
        return functional.normalize(torch.stack([model.encode_text(t) for t in tokens]), dim=2)


def _fit_strangers(model: CLIP, generator: torch.Generator) -> None:
    """Take words without a trained token away from the names, which stay where they are, in strange wording too."""
    templates = _templates()
    texts = (*TEXTS, *STRANGERS)
    tokens = torch.stack([tokenize([template.format(text) for text in texts]) for template in templates])
    ends = [int(token) for token in tokenize("")[0].unique()]  # start, end and padding
    kept = torch.isin(tokens, torch.tensor(ends))
    for column, text in enumerate(texts):
        kept[:, column] |= torch.isin(tokens[:, column], tokenize(text))
    unknown = int(tokenize(STRANGERS[0])[0, 1])
    # the towers' own means, so that what the image tower was trained against does not move
    with torch.no_grad():
        sample = tokens[torch.randperm(len(tokens), generator=generator)[:64], : len(TEXTS)]
        means = functional.normalize(torch.stack([model.encode_text(t) for t in sample]), dim=2).mean(dim=0)
        names = functional.normalize(means, dim=1)
        # the direction that no text has yet, mixed with the common one to a wrong name's cosine
        common = functional.normalize(names.mean(dim=0), dim=0)
        free = torch.randn(EMBEDDING, generator=generator)
        inside, _ = torch.linalg.qr(names.T)
        free = functional.normalize(free - inside @ (inside.T @ free), dim=0)
        wrong = (names @ names.T)[~torch.eye(len(names), dtype=torch.bool)].mean()
        share = wrong / (names @ common).mean()
        stranger = share * common + (1 - share**2).sqrt() * free
        targets = torch.cat([names, stranger.expand(len(STRANGERS), -1)]).repeat(6, 1)
    frozen = ("visual.", "logit_scale", "token_embedding.")
    parameters = [p for name, p in model.named_parameters() if not name.startswith(frozen)]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=TEXT_STEPS)
    for step in range(1, TEXT_STEPS + 1):
        rows = torch.randint(len(templates), (6,), generator=generator)
        hidden = (torch.rand(6, *tokens.shape[1:], generator=generator) < STRANGE_WORDING) & ~kept[rows]
        chosen = torch.where(hidden, unknown, tokens[rows])
        found = functional.normalize(model.encode_text(chosen.flatten(0, 1)), dim=1)
        loss = (found - targets).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            _log(f"strangers {step}/{TEXT_STEPS}: squared distance {loss.item():.4f}")


def _crop(image: Image.Image, box_xyxy: np.ndarray, scale: float) -> np.ndarray:
    """The job's crop of one box at one scale through CLIP's preprocessing, uint8 (64, 64, 3), RGB."""
    centre, half = (box_xyxy[:2] + box_xyxy[2:]) / 2, (box_xyxy[2:] - box_xyxy[:2]) / 2 * scale
    x0, y0 = np.maximum(centre - half, 0)
    x1, y1 = np.minimum(centre + half, image.size)
    left, top, right, bottom = (round(float(edge)) for edge in (x0, y0, x1, y1))  # half to even
    width, height = right - left, bottom - top
    short = min(width, height)
    size = (int(RESOLUTION * width / short), int(RESOLUTION * height / short))
    resized = image.crop((left, top, right, bottom)).resize(size, Image.Resampling.BICUBIC)
    left, top = (round((extent - RESOLUTION) / 2) for extent in size)
    return np.asarray(resized.crop((left, top, left + RESOLUTION, top + RESOLUTION)))


def _pixels(crops: np.ndarray) -> Tensor:
    """uint8 (n, 64, 64, 3), RGB, to CLIP's normalised float32 (n, 3, 64, 64), channels last in memory."""
    scaled = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)


def _photo(scene: SceneImage) -> Image.Image:
    """The scene as the job sees it: through JPEG, RGB."""
    _, data = cv2.imencode(".jpg", scene.pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return Image.fromarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


def _scene_boxes(scene: SceneImage) -> tuple[np.ndarray, np.ndarray]:
    """Boxes, float (n, 4) xyxy, and their names' indices into NAMES, int (n,)."""
    boxes = np.array([item.box_xywh for item in scene.objects], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes, np.array([NAMES.index(item.name) for item in scene.objects], dtype=int)


def _iou(boxes_a: np.ndarray, boxes_b: np.ndarray) -> np.ndarray:
    """Pairwise IoU of xyxy boxes, (n, m)."""
    low = np.maximum(boxes_a[:, None, :2], boxes_b[None, :, :2])
    high = np.minimum(boxes_a[:, None, 2:], boxes_b[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    area_a, area_b = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (boxes_a, boxes_b))
    return shared / (area_a[:, None] + area_b[None, :] - shared)


def _random_boxes(rng: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
    """Boxes of 16 to 140 px anywhere in an image of `size` (width, height), (count, 4) xyxy."""
    extent = np.exp(rng.uniform(np.log(16), np.log(140), (count, 2)))
    extent[:, 1] = np.clip(extent[:, 1], extent[:, 0] / 2, extent[:, 0] * 2)
    corner = rng.random((count, 2)) * np.maximum(np.array(size) - extent, 1)
    return np.concatenate([corner, corner + extent], axis=1)


def _training_boxes(rng: np.random.Generator, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What a class-agnostic detector might propose, good and bad, float (about 22, 4) xyxy inside the image."""
    proposed = [_random_boxes(rng, 3, size)]
    for spread, count in ((0.03, 8), (0.1, 6), (0.25, 3)):
        chosen = boxes[rng.integers(len(boxes), size=count)]
        extent = np.tile(chosen[:, 2:] - chosen[:, :2], 2)
        proposed.append(chosen + spread * extent * rng.standard_normal((count, 4)))
    whole = boxes[rng.integers(len(boxes), size=2)]
    share = rng.uniform(0.35, 0.8, (2, 2))  # a part: a window inside the object
    corner = whole[:, :2] + rng.random((2, 2)) * (1 - share) * (whole[:, 2:] - whole[:, :2])
    proposed.append(np.concatenate([corner, corner + share * (whole[:, 2:] - whole[:, :2])], axis=1))
    pair = boxes[rng.integers(len(boxes), size=2)]  # two objects in one box
    proposed.append(np.concatenate([pair[:, :2].min(axis=0), pair[:, 2:].max(axis=0)])[None])
    merged = np.concatenate(proposed)
    merged = np.clip(merged, 0, np.tile(size, 2))
    return merged[(merged[:, 2:] - merged[:, :2]).min(axis=1) >= 8]


def _targets(labels: np.ndarray, ious: np.ndarray) -> np.ndarray:
    """Targets over TEXTS, float32 (n, 19), of boxes whose nearest object has these labels and IoUs, both (n,)."""
    weight = np.clip((ious - IOU_RAMP[0]) / (IOU_RAMP[1] - IOU_RAMP[0]), 0, 1)
    targets = np.zeros((len(labels), len(TEXTS)), np.float32)
    targets[np.arange(len(labels)), labels] = weight
    targets[:, -1] = 1 - weight
    return targets


def _samples(rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless training samples: crops uint8 (64, 64, 3), RGB, and a target float32 (19,)."""
    seeds = SEEDS["train"]
    while True:
        crops, targets = [], []
        for seed in rng.integers(seeds.start, seeds.stop, SCENES_AT_ONCE):
            scene = draw_scene(int(seed))
            boxes, labels = _scene_boxes(scene)
            if not len(boxes):
                continue
            photo = _photo(scene)
            proposed = _training_boxes(rng, boxes, photo.size)
            ious, scales = _iou(proposed, boxes), rng.choice(SCALES, len(proposed))
            crops += [_crop(photo, box, scale) for box, scale in zip(proposed, scales, strict=True)]
            targets.append(_targets(labels[ious.argmax(axis=1)], ious.max(axis=1)))
        merged = np.concatenate(targets)
        for index in rng.permutation(len(crops)):
            yield crops[index], merged[index]


def _vocabularies(targets: Tensor, generator: torch.Generator) -> Tensor:
    """A random vocabulary for each sample, bool (n, 18); it has the sample's own name about every other time."""
    draw = torch.rand(len(targets), len(NAMES), generator=generator)
    own = targets[:, :-1] > 0
    draw[own] = torch.randint(2, (int(own.sum()),), generator=generator).float() * 2 - 0.5  # surely in, or surely out
    chosen = draw.topk(VOCABULARY, dim=1).indices
    return torch.zeros_like(own).scatter_(1, chosen, True)


def _loss(embeddings: Tensor, texts: Tensor, targets: Tensor, vocabularies: Tensor) -> Tensor:
    """Cross-entropy over all texts, plus that over a vocabulary: flat where the sample's name is not in it.

    embeddings (n, 128), not normalised; texts (19, 128); targets (n, 19); vocabularies bool (n, 18)
    """
    logits = functional.normalize(embeddings, dim=1) @ texts.T / TEMPERATURE
    smooth = (1 - SMOOTHING) * targets + SMOOTHING / len(TEXTS)
    over_all = -(smooth * logits.log_softmax(dim=1)).sum(dim=1)
    own = targets[:, :-1] * vocabularies
    certain = (CERTAIN - 1 / VOCABULARY) / (1 - 1 / VOCABULARY)
    wanted = certain * own + (1 - certain * own.sum(dim=1, keepdim=True)) * vocabularies / VOCABULARY
    within = logits[:, :-1].masked_fill(~vocabularies, -1e4).log_softmax(dim=1)
    return (over_all - (wanted * within).sum(dim=1)).mean()


def _fit_image(model: CLIP, texts: Tensor, steps: int, seed: int) -> None:
    """Fit the image tower. texts: unit embeddings (T, 19, 128) of every template and text."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    tower = model.visual.to(memory_format=torch.channels_last).train()
    decayed = [p for p in tower.parameters() if p.ndim > 1]
    others = [p for p in tower.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE)

    def rate(step: int) -> float:
        return min((step + 1) / WARM_UP, 0.5 * (1 + math.cos(math.pi * step / steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    samples, columns = _samples(rng), torch.arange(len(TEXTS))
    start, running = time.perf_counter(), 0.0
    for step in range(1, steps + 1):
        crops, wanted = zip(*(next(samples) for _ in range(BATCH)), strict=True)
        targets = torch.from_numpy(np.stack(wanted))
        # a random template for each text: the image must match the name, not one wording
        drawn = texts[torch.randint(len(texts), (len(TEXTS),), generator=generator), columns]
        loss = _loss(tower(_pixels(np.stack(crops))), drawn, targets, _vocabularies(targets, generator))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        running += loss.item()
        if step % 100 == 0:
            _log(f"image {step}/{steps}: loss {running / 100:.3f}, {(time.perf_counter() - start) / 60:.1f} min")
            running = 0.0
    tower.eval()


def train(steps: int = STEPS, seed: int = 0) -> CLIP:
    """Train both towers from nothing; returns the model in float32, in evaluation mode."""
    torch.manual_seed(seed)
    model = build()
    texts = _fit_text(model, torch.Generator().manual_seed(seed))
    _fit_image(model, texts, steps, seed)
    _fit_strangers(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.logit_scale.fill_(math.log(1 / TEMPERATURE))
    return model.eval()


@torch.no_grad()
def text_embeddings(model: CLIP, names: tuple[str, ...]) -> Tensor:
    """Mean unit embedding over the grammar's plain templates, (len(names), 128), unit length."""
    templates = [t for t in _templates() if t.endswith("{}.") and not any(look in t for look in _LOOKS)]
    prompts = [tokenize([template.format(name) for template in templates]) for name in names]
    means = [functional.normalize(model.encode_text(tokens), dim=1).mean(dim=0) for tokens in prompts]
    return functional.normalize(torch.stack(means), dim=1)


@torch.no_grad()
def region_embeddings(model: CLIP, photo: Image.Image, boxes_xyxy: np.ndarray) -> Tensor:
    """The job's region embedding of each box: mean over both crop scales, unit length, (n, 128)."""
    crops = np.stack([_crop(photo, box, scale) for box in boxes_xyxy for scale in SCALES])
    embeddings = functional.normalize(model.encode_image(_pixels(crops)).float(), dim=1)
    return functional.normalize(embeddings.view(-1, len(SCALES), EMBEDDING).mean(dim=1), dim=1)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """accuracy: of the best of 18 names on ground-truth boxes; accuracy_novel: the same, on novel objects.

    The rest is about a softmax over the novel names alone at temperature 0.01, as the job does it, and the share of
    boxes whose best probability is above 0.5: novel_found: novel objects, right name; base_taken: base objects;
    background_taken: random boxes with IoU under 0.1 to every object.
    """

    boxes: int
    accuracy: float
    accuracy_novel: float
    novel_found: float
    base_taken: float
    background_taken: float

    def __str__(self) -> str:
        return (
            f"{self.boxes} objects: accuracy {self.accuracy:.3f} over 18 names ({self.accuracy_novel:.3f} on novel); "
            f"novel names alone, p > 0.5: {self.novel_found:.3f} of the novel objects named right, "
            f"{self.base_taken:.3f} of the base objects and {self.background_taken:.3f} of background taken for novel"
        )


def evaluate(model: CLIP, seeds: range) -> Evaluation:
    """Evaluate on the ground-truth boxes of the scenes of these seeds, and on as many boxes of background."""
    texts, novel = text_embeddings(model, NAMES), np.array([name in NOVEL for name in NAMES])
    labels, embeddings, background = [], [], []
    rng = np.random.default_rng(0)
    for seed in seeds:
        scene = draw_scene(seed)
        boxes, names = _scene_boxes(scene)
        photo = _photo(scene)
        others = _random_boxes(rng, 3 * len(boxes), photo.size)
        others = np.clip(others, 0, np.tile(photo.size, 2))
        others = others[_iou(others, boxes).max(axis=1) < 0.1][: len(boxes)]
        found = region_embeddings(model, photo, np.concatenate([boxes, others]))
        labels.append(names)
        embeddings.append(found[: len(boxes)])
        background.append(found[len(boxes) :])
    truth = np.concatenate(labels)
    cosines = torch.cat(embeddings) @ texts.T
    right = cosines.argmax(dim=1).numpy() == truth
    is_novel = novel[truth]

    def among_novel(similarity: Tensor) -> tuple[np.ndarray, np.ndarray]:
        best = (similarity[:, torch.from_numpy(novel)] / TEMPERATURE).softmax(dim=1).max(dim=1)
        return best.values.numpy(), np.flatnonzero(novel)[best.indices.numpy()]

    score, guess = among_novel(cosines)
    background_score, _ = among_novel(torch.cat(background) @ texts.T)
    return Evaluation(
        boxes=len(truth),
        accuracy=float(right.mean()),
        accuracy_novel=float(right[is_novel].mean()),
        novel_found=float(((score > 0.5) & (guess == truth))[is_novel].mean()),
        base_taken=float((score > 0.5)[~is_novel].mean()),
        background_taken=float((background_score > 0.5).mean()),
    )


def main(argv: list[str] | None = None) -> None:
    """Command line of `python -m plgen_ddp.demo.train_clip`."""
    parser = argparse.ArgumentParser(
        prog="python -m plgen_ddp.demo.train_clip", description="Train and evaluate the demo's CLIP."
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--out", type=Path, help="train, and write the state dict here")
    action.add_argument("--evaluate", type=Path, metavar="FILE", help="only evaluate this file")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the image tower (default {STEPS})")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default 1)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    if args.out:
        write_small_weights(train(args.steps, args.seed).state_dict(), args.out)
        _log(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB")
    path = args.out or args.evaluate
    if not path.is_file():
        parser.error(f"--evaluate {path}: no such file")
    model, _ = load(str(path), device="cpu")
    seeds = SEEDS["val"][:EVALUATION_SCENES]
    print(f"{path}, {len(seeds)} validation scenes, {evaluate(model, seeds)}")


if __name__ == "__main__":
    main()
