"""Trains the demo's CLIP from nothing on drawn scenes, and says how good it is.

    python -m plgen_ddp.demo.train_clip --out plgen_ddp/demo/weights/clip.pt      # train, evaluate, write
    python -m plgen_ddp.demo.train_clip --evaluate plgen_ddp/demo/weights/clip.pt  # evaluate a file

The file is a state dict that OpenAI's `clip.load(path)` reads unmodified. The model is OpenAI's own `CLIP` class with a
ModifiedResNet image tower of one block a stage at 64 x 64 and a text tower of one layer: 1.36 M and 0.11 M parameters,
plus CLIP's table of 49,408 tokens, of which only the rows the prompts use are not zero.

CLIP is taught as the web taught the real one: a picture and words that name something in it. Nothing says how tightly a
crop fits, that a crop shows no object, or that its object is not in a list of names. The real recipes' mistakes follow:
asked for the novel names alone, it is sure of them on base objects, on parts, and on loose boxes.

The towers are trained one after the other; together, from nothing, they do not take off at this size.

1. Text: prompts, drawn from a small grammar of templates times names, kinds and more general names, are fitted to fixed
   targets. All have a direction in common (weight sqrt(0.85)). A name adds a vertex of a regular simplex (sqrt(0.15)),
   so two names have a cosine of 0.84. A kind lies between its name's vertex and a direction of its own, a more general
   name between the middle of its names' vertices and a direction of its own.
2. Images: the text tower is frozen, and CLIP's contrastive loss, image to text, pairs a crop with its caption. A crop
   has half to 2.5 times an object's size and lies up to 0.35 sizes off its middle, or it lies anywhere in the scene.
   The caption names the object, its kind or something more general, or does so for another object that the crop shows;
   a crop that shows none gets an object nearby. The caption competes with all other words of its level: "mug" with the
   other kinds, and not with "cup". In the first 30 % of the steps the crops grow from tight to loose and the
   temperature falls from 0.04 to 0.01: with loose crops from the first step on, nothing was learned in 1,400 steps.
3. Text again, the token table frozen: known words keep their targets, and any word whose tokens were never trained
   (they are all zero, hence alike) is taken to a place about as far from every image as a wrong name, unless a known
   word is beside it: a template may hold words of its own. Left alone, such words fall on one of the names.

The embedded file: the first command's defaults, 4500 steps of 64 crops, 26 minutes on one thread of an AMD EPYC that
was busy with other work too (PyTorch 2.14.1, OpenCV 5.0.0, NumPy 2.4.6). On 200 validation scenes (1,096 objects,
seeds from 100,000): accuracy on ground-truth boxes 0.792 over the 18 names (0.835 on novel objects), 0.626 over the 54
kinds, 0.818 over the 17 more general names. Among the six novel names alone, with p > 0.5, 79 % of the novel objects
are named right, and 55 % of the base objects and 6 % of background boxes are taken for novel. Any other word means
nothing to it.

The recipes on the 300 validation scenes of `scenes.CHOICE`, with the embedded detector:

            AP50    precision  recall  F1     labels an image  on nothing (IoU < 0.5 with every novel object)
MarvelOVD   0.398   0.120      0.792   0.208  11.8             0.854
VL-PLM      0.460   0.375      0.634   0.471  3.0              0.608
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from clip import load, tokenize
from clip.model import CLIP
from torch import Tensor, nn
from torch.nn import functional

from plgen_ddp.boxes import areas, covered
from plgen_ddp.demo.clip_inputs import (
    KIND_NAMES,
    LEVELS,
    NAMES,
    RESOLUTION,
    SUPER_NAMES,
    TEXTS,
    crop,
    photo_of,
    pixels,
    random_boxes,
    scene_boxes,
    templates,
)
from plgen_ddp.demo.drawings import KINDS
from plgen_ddp.demo.evaluate_clip import TEMPERATURE, evaluate
from plgen_ddp.demo.scenes import SEEDS, SUPERS, draw_scene
from plgen_ddp.train.weights import write_small_weights

EMBEDDING = 128
COMMON = 0.85  # share of a text embedding's squared length that all texts have in common
OF_NAME = 0.6  # of the rest, a kind's share that it has from its name
OF_MEMBERS = 0.5  # of the rest, a more general name's share that it has from the names under it

TEXT_STEPS = 600  # of 1. and of 3. each
PROMPTS = 100  # prompts a step of these
TEMPLATES = 128  # that captions are drawn from in 2.
STEPS = 4500
BATCH = 64  # crops a step
LEARNING_RATE = 8e-4
WARM_UP = 100  # steps
WEIGHT_DECAY = 0.05
START = 0.3  # share of the steps in which crops grow from tight to loose and the temperature falls
START_TEMPERATURE = 0.04
CROPS = 18  # of a scene, around its objects
ANYWHERE = 3  # of a scene, anywhere in it
EXTENT = (0.5, 2.5)  # a crop's size in objects, log-uniform
OFF_CENTRE = 0.35  # how far a crop's middle may lie from the object's, in sizes of the larger of the two
CAPTION = (0.5, 0.3, 0.2)  # probabilities of the levels
OTHER = 0.5  # probability that a caption names another object that the crop shows, if there is one
SHOWN = 0.3  # of an object's box inside a crop: then the crop shows it
STRANGE_WORDING = 0.15  # share of a prompt's tokens, the name apart, that 3. makes unknown
STRANGERS = ("dog", "dinosaur", "tennis racket", "hot air balloon")  # of one to three tokens no prompt has
SCENES_AT_ONCE = 32  # drawn together, their boxes shuffled
EVALUATION_SCENES = 200


def build() -> CLIP:
    """The untrained model, float32, on the CPU."""
    model = CLIP(EMBEDDING, RESOLUTION, (1, 1, 1, 1), 16, None, 77, 49408, 64, 1, 1)
    for name, parameter in model.visual.named_parameters():
        # CLIP starts residual branches at zero, which suits its depth; one block a stage then barely learns
        if name.startswith("layer") and name.endswith("bn3.weight"):
            nn.init.ones_(parameter)
    return model


def _text_targets(generator: torch.Generator) -> Tensor:
    """Unit text embeddings to aim at, float32 (len(TEXTS), 128): names equally far apart, kinds near their names."""
    basis, _ = torch.linalg.qr(torch.randn(EMBEDDING, 1 + len(TEXTS), generator=generator))
    common, names, kinds, supers = basis.T.split((1, *LEVELS))
    names = functional.normalize(torch.eye(len(NAMES)) - 1 / len(NAMES), dim=1) @ names
    owner = torch.tensor([NAMES.index(name) for name in NAMES for _ in KINDS[name]])
    members = torch.tensor([[float(general in SUPERS[name]) for name in NAMES] for general in SUPER_NAMES])
    kinds = math.sqrt(OF_NAME) * names[owner] + math.sqrt(1 - OF_NAME) * kinds
    middles = functional.normalize(members @ names, dim=1)
    supers = math.sqrt(OF_MEMBERS) * middles + math.sqrt(1 - OF_MEMBERS) * supers
    return math.sqrt(COMMON) * common + math.sqrt(1 - COMMON) * torch.cat([names, kinds, supers])


def _log(message: str) -> None:
    """Prints a line of progress on stderr."""
    print(message, file=sys.stderr, flush=True)


def _fit_text(model: CLIP, generator: torch.Generator) -> Tensor:
    """Fits the text tower to its targets.

    Returns:
        Unit embeddings under some templates, float32 (TEMPLATES, len(TEXTS), 128).
    """
    wordings, targets = templates(), _text_targets(generator)
    tokens = torch.stack([tokenize([template.format(text) for text in TEXTS]) for template in wordings])
    parameters = [p for name, p in model.named_parameters() if not name.startswith("visual.") and name != "logit_scale"]
    optimizer = torch.optim.AdamW(parameters, lr=1.2e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.2e-2, total_steps=TEXT_STEPS)
    for step in range(1, TEXT_STEPS + 1):
        rows = torch.randint(len(wordings), (PROMPTS,), generator=generator)
        columns = torch.randint(len(TEXTS), (PROMPTS,), generator=generator)
        found = functional.normalize(model.encode_text(tokens[rows, columns]), dim=1)
        loss = (found - targets[columns]).square().sum(dim=1).mean()
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
        some = tokens[torch.randperm(len(tokens), generator=generator)[:TEMPLATES]]
        return functional.normalize(torch.stack([model.encode_text(t) for t in some]), dim=2)


def _fit_strangers(model: CLIP, generator: torch.Generator) -> None:
    """Takes words without a trained token away from the names, which stay where they are, in strange wording too."""
    wordings = templates()
    texts = (*TEXTS, *STRANGERS)
    tokens = torch.stack([tokenize([template.format(text) for text in texts]) for template in wordings])
    ends = [int(token) for token in tokenize("")[0].unique()]  # start, end and padding
    kept = torch.isin(tokens, torch.tensor(ends))
    for column, text in enumerate(texts):
        kept[:, column] |= torch.isin(tokens[:, column], tokenize(text))
    unknown = int(tokenize(STRANGERS[0])[0, 1])
    # the towers' own means, so that what the image tower was trained against does not move
    with torch.no_grad():
        sample = tokens[torch.randperm(len(tokens), generator=generator)[:64], : len(TEXTS)]
        means = functional.normalize(torch.stack([model.encode_text(t) for t in sample]), dim=2).mean(dim=0)
        known = functional.normalize(means, dim=1)
        names = known[: len(NAMES)]
        # the direction that no text has yet, mixed with the common one to a wrong name's cosine
        common = functional.normalize(names.mean(dim=0), dim=0)
        free = torch.randn(EMBEDDING, generator=generator)
        inside, _ = torch.linalg.qr(known.T)
        free = functional.normalize(free - inside @ (inside.T @ free), dim=0)
        wrong = (names @ names.T)[~torch.eye(len(names), dtype=torch.bool)].mean()
        share = wrong / (names @ common).mean()
        stranger = share * common + (1 - share**2).sqrt() * free
        targets = torch.cat([known, stranger.expand(len(STRANGERS), -1)])
    frozen = ("visual.", "logit_scale", "token_embedding.")
    parameters = [p for name, p in model.named_parameters() if not name.startswith(frozen)]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=TEXT_STEPS)
    for step in range(1, TEXT_STEPS + 1):
        rows = torch.randint(len(wordings), (PROMPTS,), generator=generator)
        columns = torch.randint(len(texts), (PROMPTS,), generator=generator)
        chosen = tokens[rows, columns]
        hidden = (torch.rand(chosen.shape, generator=generator) < STRANGE_WORDING) & ~kept[rows, columns]
        found = functional.normalize(model.encode_text(torch.where(hidden, unknown, chosen)), dim=1)
        loss = (found - targets[columns]).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            _log(f"strangers {step}/{TEXT_STEPS}: squared distance {loss.item():.4f}")


def _loose_boxes(
    rng: np.random.Generator, boxes: np.ndarray, size: tuple[int, int], looseness: float
) -> tuple[np.ndarray, np.ndarray]:
    """Crops as the web's: of half an object up to 2.5 objects, off its middle.

    Args:
        boxes: of the objects, float (n, 4) xyxy, pixels.
        size: width and height of the image.
        looseness: 1; less near the training's start.

    Returns:
        The crops, float (CROPS, 4) xyxy, inside the image; and which object each is about, int (CROPS,).
    """
    about = rng.integers(len(boxes), size=CROPS)
    extent = boxes[about, 2:] - boxes[about, :2]
    larger = np.exp(looseness * rng.uniform(math.log(EXTENT[0]), math.log(EXTENT[1]), (CROPS, 1)))
    larger = larger * np.exp(rng.uniform(-0.2, 0.2, (CROPS, 2)))
    off = looseness * OFF_CENTRE * rng.uniform(-1, 1, (CROPS, 2)) * np.maximum(larger, 1)
    middle = boxes[about, :2] + (0.5 + off) * extent
    half = np.maximum(larger * extent, 8) / 2
    return np.clip(np.concatenate([middle - half, middle + half], axis=1), 0, np.tile(size, 2)), about


def _captioned(
    rng: np.random.Generator, crops: np.ndarray, boxes: np.ndarray, about: np.ndarray, looseness: float
) -> np.ndarray:
    """Which object each crop's caption names, int (crops,): the one it is about, or another one that it shows."""
    seen = covered(boxes, crops).T >= SHOWN
    seen[np.arange(len(crops)), about] = False
    other = np.where(seen, rng.random(seen.shape), -1).argmax(axis=1)
    return np.where(seen.any(axis=1) & (rng.random(len(crops)) < looseness * OTHER), other, about)


def _nearest(crops: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The object that a crop shows most of, by area; the nearest one if it shows none; int (crops,)."""
    area = covered(boxes, crops).T * areas(boxes)
    gap = np.linalg.norm(
        (crops[:, None, :2] + crops[:, None, 2:] - boxes[None, :, :2] - boxes[None, :, 2:]) / 2, axis=2
    )
    return np.where(area.any(axis=1), area.argmax(axis=1), gap.argmin(axis=1))


def _caption(rng: np.random.Generator, name: int, kind: int) -> int:
    """What a caption calls an object of this name and kind: an index into TEXTS."""
    level = rng.choice(len(LEVELS), p=CAPTION)
    if level == 0:
        return name
    if level == 1:
        return len(NAMES) + kind
    general = SUPERS[NAMES[name]]
    return len(NAMES) + len(KIND_NAMES) + SUPER_NAMES.index(general[rng.integers(len(general))])


def _looseness(progress: float) -> float:
    """0 to 1: how much of the web's looseness the crops have, by the share of the training that is done."""
    return min(1.0, progress / START)


def _samples(rng: np.random.Generator, count: int) -> Iterator[tuple[np.ndarray, int]]:
    """Training samples, at least `count`: a crop, uint8 (64, 64, 3), RGB, and its caption's index into TEXTS."""
    seeds, drawn = SEEDS["train"], 0
    while drawn < count:
        looseness = _looseness(drawn / count)
        samples: list[tuple[np.ndarray, int]] = []
        for seed in rng.integers(seeds.start, seeds.stop, SCENES_AT_ONCE):
            scene = draw_scene(int(seed))
            boxes, names, kinds = scene_boxes(scene)
            if not len(boxes):
                continue
            photo = photo_of(scene)
            loose, about = _loose_boxes(rng, boxes, photo.size, looseness)
            anywhere = np.clip(random_boxes(rng, round(looseness * ANYWHERE), photo.size), 0, np.tile(photo.size, 2))
            crops = np.concatenate([loose, anywhere])
            named = np.concatenate([_captioned(rng, loose, boxes, about, looseness), _nearest(anywhere, boxes)])
            samples += [
                (crop(photo, box, 1.0), _caption(rng, int(names[item]), int(kinds[item])))
                for box, item in zip(crops, named, strict=True)
                if (box[2:] - box[:2]).min() >= 6
            ]
        drawn += len(samples)
        for index in rng.permutation(len(samples)):
            yield samples[index]


def _loss(embeddings: Tensor, texts: Tensor, captions: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """CLIP's contrastive loss, image to text: a caption's text against all others of its level.

    A caption that says "mug" says nothing against "cup", so levels are not played off against each other.

    Args:
        embeddings: float32 (n, 128), not normalised.
        texts: unit embeddings, float32 (len(TEXTS), 128).
        captions: int64 (n,), indices into TEXTS.
    """
    logits = functional.normalize(embeddings, dim=1) @ texts.T / temperature
    level = torch.repeat_interleave(torch.arange(len(LEVELS)), torch.tensor(LEVELS))
    return functional.cross_entropy(logits.masked_fill(level[captions, None] != level, -1e4), captions)


def _fit_image(model: CLIP, texts: Tensor, steps: int, seed: int) -> None:
    """Fits the image tower.

    Args:
        texts: unit embeddings, float32 (templates, len(TEXTS), 128).
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    tower = model.visual.to(memory_format=torch.channels_last).train()
    decayed = [p for p in tower.parameters() if p.ndim > 1]
    others = [p for p in tower.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE)

    def rate(step: int) -> float:
        return min((step + 1) / WARM_UP, 0.5 * (1 + math.cos(math.pi * step / steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    samples, columns = _samples(rng, BATCH * steps), torch.arange(len(TEXTS))
    start, running = time.perf_counter(), 0.0
    for step in range(1, steps + 1):
        crops, wanted = zip(*(next(samples) for _ in range(BATCH)), strict=True)
        # a random template for each text: the image must match the name, not one wording
        drawn = texts[torch.randint(len(texts), (len(TEXTS),), generator=generator), columns]
        # CLIP's temperature falls too, and little is learned where it is low from the start
        temperature = START_TEMPERATURE * (TEMPERATURE / START_TEMPERATURE) ** _looseness(step / steps)
        loss = _loss(tower(pixels(np.stack(crops))), drawn, torch.tensor(wanted), temperature)
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
    """The model with both towers trained from nothing, float32, in evaluation mode."""
    torch.manual_seed(seed)
    model = build()
    texts = _fit_text(model, torch.Generator().manual_seed(seed))
    _fit_image(model, texts, steps, seed)
    _fit_strangers(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.logit_scale.fill_(math.log(1 / TEMPERATURE))
    return model.eval()


def main(argv: list[str] | None = None) -> None:
    """The command line of `python -m plgen_ddp.demo.train_clip`."""
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
