"""Stage 2: labels a COCO-format JSON from a region store. No GPU, no detector, no images.

`plan_labelling` reads the inputs and finds every mistake in them; `label_store` then does the work. An encoder, and
with it torch, is loaded only for names that the store has not seen.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from plgen_ddp import __version__
from plgen_ddp.coco import CocoFile
from plgen_ddp.config import Config
from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError
from plgen_ddp.files import check_output, file_sha256
from plgen_ddp.image_files import dataset_digest
from plgen_ddp.label.labels import label_image
from plgen_ddp.label.text_embeddings import TextEmbeddings, prompts
from plgen_ddp.label.vocabulary import Vocabulary, read_templates, read_vocabulary
from plgen_ddp.options import given, require
from plgen_ddp.records import LabelSummary, PseudoLabels, Regions, Similarity
from plgen_ddp.store import Manifest, RegionStore, store_of

# Options that have no default and that every labelling needs.
LABELLING_REQUIRES = ("label.vocabulary", "label.templates", "run.output")


@dataclass(frozen=True)
class LabelPlan:
    """One labelling, its inputs read and checked.

    Attributes:
        output: the labelled JSON to write.
        coco: the JSON to label.
        extents: (width, height) in pixels of each of its images, by image id.
        image_ids: the images to label, ascending; fewer than `extents` with `data.limit`.
        digest: of its images, as the store's manifest has it.
        vocabulary, templates: the names and the prompts around them.
        novel_ids: category ids of the novel names, int64, in the vocabulary's order.
        base_ids: category ids whose annotations stay.
    """

    config: Config
    output: Path
    coco: CocoFile
    extents: dict[int, tuple[int, int]]
    image_ids: list[int]
    digest: str
    vocabulary: Vocabulary
    templates: tuple[str, ...]
    novel_ids: np.ndarray
    base_ids: set[int]


def plan_labelling(config: Config) -> LabelPlan:
    """Reads what a labelling needs beside the store.

    Raises:
        UserError: a missing option, an unreadable JSON, a name that the JSON lacks or that is given twice.
    """
    output = Path(config.label.output or Path(given(config.run.output), "labels.json"))
    coco = _file_to_label(config)
    inputs = {
        "the JSON to label": coco.path,
        "data.annotations": config.data.annotations,
        "label.vocabulary": config.label.vocabulary,
        "label.templates": config.label.templates,
        "clip.model": config.clip.model,
        "detector.config": config.detector.config,
        "detector.weights": config.detector.weights,
    }
    check_output(output, "label.output", inputs)
    coco.annotation_keys()  # a mistake in them must show before the work
    vocabulary = read_vocabulary(config)
    novel_ids, base_ids = vocabulary.category_ids(coco.categories())
    images = coco.images()
    return LabelPlan(
        config=config,
        output=output,
        coco=coco,
        extents={image.id: (image.width, image.height) for image in images},
        image_ids=_images_to_label(config, [image.id for image in images]),
        digest=dataset_digest(images),
        vocabulary=vocabulary,
        templates=read_templates(config),
        novel_ids=np.array(novel_ids, np.int64),
        base_ids=base_ids,
    )


def check_before_scoring(config: Config, scored: np.ndarray) -> None:
    """Checks the labelling that is to follow the scoring of the images `scored`, int64 (n,): now, not hours later.

    Raises:
        UserError: what `plan_labelling` raises, images to label that will not be scored, or a prompt that is too long
            for the encoder.
    """
    from plgen_ddp.encoders.loading import check_prompts  # only here: labelling alone may need no torch

    plan = plan_labelling(config)
    words = plan.vocabulary.words()
    check_prompts(config.clip, [text for names in words for text in prompts(names, plan.templates)])
    absent = sorted(set(plan.image_ids) - set(scored.tolist()))
    if absent and not config.label.allow_partial:
        raise UserError(
            f"{len(absent)} of {len(plan.image_ids)} images of label.annotations are not in data.annotations, the "
            f"first is {absent[0]}; label.allow_partial=true labels the others"
        )


def label_store(plan: LabelPlan) -> LabelSummary:
    """Labels the images of the plan from the store and writes the labelled JSON.

    Raises:
        UserError: no store, an incomplete one, one of other images, or an encoder that is not the store's.
    """
    store = store_of(plan.config)
    manifest = store.manifest()
    if plan.config.label.annotations is None and manifest.identity["dataset"]["digest"] != plan.digest:
        raise UserError(
            f"data.annotations: {plan.coco.path} has other images than the store {store.folder} was made from; "
            "label.annotations takes another JSON of the same images"
        )
    part_of = store.part_of_images()
    absent = [image_id for image_id in plan.image_ids if image_id not in part_of]
    if absent:
        message = (
            f"{len(absent)} of {len(plan.image_ids)} images are not in the store {store.folder}, the first are "
            f"{', '.join(map(str, absent[:5]))}"
        )
        if not plan.config.label.allow_partial:
            raise UserError(f"{message}; finish scoring, or set label.allow_partial=true to label the others")
        print_line(f"warning: {message}; they get no pseudo labels", error=True)
    text_embeddings = embed_names(plan)
    wanted = set(plan.image_ids)
    paths = sorted({part_of[image_id] for image_id in wanted - set(absent)})
    labels, failed = _label_parts(plan, store, paths, wanted, text_embeddings, manifest.similarity)
    everything = len(plan.image_ids) == len(plan.extents)
    base_annotations = plan.coco.write_labelled(
        plan.output,
        plan.base_ids,
        labels,
        _provenance(plan, manifest, len(labels), failed, len(absent)),
        image_ids=None if everything else plan.image_ids,
    )
    return LabelSummary(plan.output, len(plan.image_ids), failed, len(labels), base_annotations)


def embed_names(plan: LabelPlan) -> np.ndarray:
    """Text embeddings float32 (c, d), unit length, of the plan's names, novel ones first; kept in the store.

    Raises:
        UserError: no store, or a name is new to it and `clip.model` is not the encoder that made it.
    """
    store = store_of(plan.config)
    manifest = store.manifest()
    precision = plan.config.clip.text_precision
    cache = TextEmbeddings(store.folder / "vocabulary", plan.templates, manifest.dim, precision)
    return cache.embed(plan.vocabulary.words(), lambda: _load_text_encoder(plan, manifest))


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _file_to_label(config: Config) -> CocoFile:
    """The JSON of `label.annotations`, else of `data.annotations`, else the one that the store was made from."""
    if config.label.annotations is not None:
        return CocoFile(config.label.annotations, "label.annotations")
    if config.data.annotations is None and (recorded := store_of(config).manifest().annotations):
        return CocoFile(recorded, "data.annotations is not set, and the JSON that the store was made from")
    require(config, "data.annotations")
    return CocoFile(given(config.data.annotations), "data.annotations")


def _images_to_label(config: Config, image_ids: list[int]) -> list[int]:
    """The JSON's images in ascending id; with `data.limit`, those of them that stage 1 was limited to."""
    if config.data.limit is None:
        return image_ids
    if config.label.annotations is None:
        return image_ids[: config.data.limit]
    require(config, "data.annotations")
    scored = CocoFile(given(config.data.annotations), "data.annotations").images()[: config.data.limit]
    return sorted(set(image_ids) & {image.id for image in scored})


def _label_parts(
    plan: LabelPlan,
    store: RegionStore,
    paths: Sequence[Path],
    wanted: set[int],
    text_embeddings: np.ndarray,
    similarity: Similarity,
) -> tuple[PseudoLabels, int]:
    """The pseudo labels of the wanted images in these parts, by image id, and how many of the images had failed."""

    def label_part(path: Path) -> tuple[PseudoLabels, int]:
        images = [image for image in store.read_part(path) if image.image_id in wanted]
        scored = [image for image in images if image.failure is None]
        for image in scored:
            _check_extent(plan, image)
        labels = [
            label_image(image, text_embeddings, plan.novel_ids, similarity, plan.config.label) for image in scored
        ]
        return PseudoLabels.concatenate(labels), len(images) - len(scored)

    # The parts are the parallelism. One BLAS thread in each of them also keeps the products' bits the same on any
    # number of cores.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(available_cores()) as pool:
        results = list(pool.map(label_part, paths))
    labels = PseudoLabels.concatenate([labels for labels, _ in results]).sorted_by_image()
    return labels, sum(failed for _, failed in results)


def _check_extent(plan: LabelPlan, image: Regions) -> None:
    """Boxes outside the image show that the JSON describes other images than those that were scored."""
    extent = plan.extents[image.image_id]
    if (image.boxes_xyxy[:, 2:] > np.array(extent)).any():
        raise UserError(
            f"{plan.coco.path}: image {image.image_id} is {extent[0]} x {extent[1]} there, and the store has boxes"
            " of it that lie outside; the store was made from other images"
        )


def _load_text_encoder(plan: LabelPlan, manifest: Manifest) -> Callable[[Sequence[str]], Any]:
    import torch  # only here: names that were embedded before need neither

    from plgen_ddp.encoders.loading import fetch_encoder, load_encoder

    options = plan.config.clip
    weights = fetch_encoder(options)
    expected = manifest.identity["clip"]["weights"]
    if file_sha256(weights) != expected:
        raise UserError(
            f"clip.model: {options.model} is not the model that made this store "
            f"(its weights have SHA-256 {expected[:12]}...)"
        )
    # A rank scores on one thread, and is alone now. Text embeddings keep their bits on several: a test holds it.
    torch.set_num_threads(available_cores())
    device = torch.device("cuda" if torch.cuda.is_available() and plan.config.run.device != "cpu" else "cpu")
    encoder = load_encoder(options, weights, device, options.text_precision)
    if encoder.identity().get("tokenizer") != manifest.identity["clip"].get("tokenizer"):
        raise UserError(f"clip.tokenizer: {options.tokenizer} is not the tokenizer of this store")
    return lambda texts: encoder.encode_texts(texts).cpu().numpy()


def _provenance(plan: LabelPlan, manifest: Manifest, labels: int, failed: int, absent: int) -> dict[str, Any]:
    """What made the file. No paths, dates or machine names: the same inputs give the same bytes."""
    label, vocabulary = plan.config.label, plan.vocabulary
    return {
        "version": __version__,
        "store": {"fingerprint": manifest.fingerprint(), "versions": manifest.versions, **manifest.identity},
        "annotations": {"name": plan.coco.path.name, "sha256": plan.coco.sha256},
        "label": {
            "similarity": manifest.similarity.rule,
            "temperature": label.temperature or manifest.similarity.temperature,
            "objectness_weight": label.objectness_weight,
            "score_threshold": label.score_threshold,
            "nms_iou": label.nms_iou,
            "novel": list(vocabulary.novel),
            "base": "all others" if vocabulary.base is None else list(vocabulary.base),
            "distractors": list(vocabulary.distractors),
            "aliases": {name: list(words) for name, words in vocabulary.aliases.items()},
            "templates": list(plan.templates),
        },
        "pseudo_labels": labels,
        "images_failed": failed,
        "images_not_scored": absent,
    }
