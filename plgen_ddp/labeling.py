"""Stage 2: region embeddings meet names. Similarity, fusion, threshold, NMS, on plain arrays; no GPU, no detector.

VL-PLM and MarvelOVD differ in two numbers of it: the weight of objectness in the score, and the threshold.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from plgen_ddp import __version__
from plgen_ddp.coco import CocoFile, Image, PseudoLabels, check_output, dataset_digest
from plgen_ddp.config import Config, LabelConfig
from plgen_ddp.errors import UserError, tell
from plgen_ddp.store import RegionStore, StoredImage
from plgen_ddp.vocabulary import TextEmbeddings, Vocabulary, prompts, read_templates, read_vocabulary


@dataclass(frozen=True)
class LabelSummary:
    """What a labelling made. pseudo_labels_per_image is over all images, with and without pseudo labels."""

    path: Path
    images: int
    failed_images: int
    absent_images: int
    pseudo_labels: int
    base_annotations: int

    @property
    def pseudo_labels_per_image(self) -> float:
        return self.pseudo_labels / self.images


def best_names(
    embeddings: np.ndarray, text_embeddings: np.ndarray, temperature: float, novel: int
) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest novel name of each region.

    Args:
        embeddings: (n, d), unit length up to rounding. text_embeddings: float32 (c, d), unit length.
        temperature: divides the cosines before the softmax over all c names.
        novel: the first so many names can be chosen; the rest only take their share of the probability.

    Returns:
        (index int64 (n,) into the novel names, its probability float64 (n,)).
    """
    # A product sums in another order for another number of rows, and boxes may be left out of a store. Summed in
    # float64 and rounded to float32, a cosine does not show it.
    regions = embeddings.astype(np.float64)
    regions /= np.maximum(np.linalg.norm(regions, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    cosines = (regions @ text_embeddings.T.astype(np.float64)).astype(np.float32)
    logits = cosines.astype(np.float64) / temperature
    logits -= logits.max(axis=1, keepdims=True)
    likelihoods = np.exp(logits)
    best = likelihoods[:, :novel].argmax(axis=1)
    return best, likelihoods[np.arange(len(best)), best] / likelihoods.sum(axis=1)


def nms(boxes_xyxy: np.ndarray, scores: np.ndarray, groups: np.ndarray, iou: float) -> np.ndarray:
    """Greedy non-maximum suppression within each group: torchvision's `batched_nms`, in float64.

    Args:
        boxes_xyxy: (n, 4). scores: (n,). groups: (n,), boxes of different groups do not suppress each other.
        iou: a box is dropped when its IoU with a kept one is above this.

    Returns:
        Indices int64 of the kept boxes by falling score; of equal scores the earlier box comes first.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, groups = boxes_xyxy[order].astype(np.float64), groups[order]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    alive = np.ones(len(order), bool)
    for place in range(len(order)):
        if not alive[place]:
            continue
        low = np.maximum(boxes[place, :2], boxes[place + 1 :, :2])
        high = np.minimum(boxes[place, 2:], boxes[place + 1 :, 2:])
        overlap = np.clip(high - low, 0, None).prod(axis=1)
        union = areas[place] + areas[place + 1 :] - overlap
        # As a product, not a quotient: two boxes without area have no IoU, and must not warn of it.
        alive[place + 1 :] &= (overlap <= iou * union) | (groups[place + 1 :] != groups[place])
    return order[alive]


def can_exceed(objectness: np.ndarray, weight: float, threshold: float) -> np.ndarray:
    """Whether a box of this objectness can score above the threshold at all, whatever CLIP says: bool, elementwise."""
    return weight * objectness.astype(np.float64) + (1 - weight) > threshold


def label_image(
    image: StoredImage, text_embeddings: np.ndarray, category_ids: np.ndarray, options: LabelConfig
) -> PseudoLabels:
    """The pseudo labels of one image, by falling score.

    Boxes without an embedding are the last ones, and cannot score above the threshold; see `run.prune_below`.

    Args:
        text_embeddings: float32 (c, d), the novel names first.
        category_ids: int64, of the novel names in that order.
    """
    embedded = len(image.embeddings)
    needed = can_exceed(image.objectness[embedded:], options.objectness_weight, options.score_threshold)
    assert not needed.any(), "boxes were left without embeddings that this labelling needs"
    best, probability = best_names(image.embeddings, text_embeddings, options.temperature, len(category_ids))
    objectness = image.objectness[:embedded].astype(np.float64)
    score = options.objectness_weight * objectness + (1 - options.objectness_weight) * probability
    above = np.flatnonzero(score > options.score_threshold)
    kept = above[nms(image.boxes_xyxy[above], score[above], best[above], options.nms_iou)]
    corners = image.boxes_xyxy[kept].astype(np.float64)
    return PseudoLabels(
        image_ids=np.full(len(kept), image.image_id, np.int64),
        category_ids=category_ids[best[kept]],
        boxes_xywh=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
        scores=score[kept],
        clip_scores=probability[kept],
        objectness=objectness[kept],
    )


class Labeling:
    """One labelling of one store: everything a user can get wrong is found when it is built."""

    def __init__(self, config: Config) -> None:
        """
        Raises:
            UserError: a missing option, an unreadable JSON, a name that the JSON lacks or that is given twice.
        """
        self._config = config
        self._path = Path(config.label.output or Path(config.value("run.output"), "labels.json"))
        self._coco = self._file_to_label()
        inputs = {
            "the JSON to label": self._coco.path,
            "data.annotations": config.data.annotations,
            "label.vocabulary": config.label.vocabulary,
            "label.templates": config.label.templates,
            "clip.model": config.clip.model,
            "detector.config": config.detector.config,
            "detector.weights": config.detector.weights,
        }
        check_output(self._path, "label.output", inputs)
        self._coco.annotation_keys()  # what is wrong with them must show now
        self._vocabulary: Vocabulary = read_vocabulary(config)
        self._templates = read_templates(config)
        self._novel_ids, self._base_ids = self._vocabulary.category_ids(self._coco.categories())
        images = self._coco.images()
        self._digest = dataset_digest(images)
        self._extents = {image.id: (image.width, image.height) for image in images}
        self._image_ids = self._images_to_label(images)

    def check(self, scored: np.ndarray) -> None:
        """
        Raises:
            UserError: images to label will be missing when these ids are scored, `run.prune_below` leaves out boxes
                that the labels need, or a prompt is too long for CLIP.
        """
        from plgen_ddp.clip_model import check_prompts  # only here: labelling alone may need no torch

        for words in self._vocabulary.words():
            check_prompts(prompts(words, self._templates))
        absent = sorted(set(self._image_ids) - set(scored.tolist()))
        if absent and not self._config.label.allow_partial:
            raise UserError(
                f"{len(absent)} of {len(self._image_ids)} images of label.annotations are not in data.annotations, the "
                f"first is {absent[0]}; label.allow_partial=true labels the others"
            )
        self._check_pruning(pruning_of(self._config))

    def run(self) -> LabelSummary:
        """Labels the images of the JSON from the store and writes the labelled JSON.

        Raises:
            UserError: no store, an incomplete one, or a CLIP model that is not the store's.
        """
        config = self._config
        store = store_of(config)
        manifest = store.manifest()
        self._check_pruning(manifest["identity"].get("pruning"))
        if config.label.annotations is None and manifest["identity"]["dataset"]["digest"] != self._digest:
            raise UserError(
                f"data.annotations: {self._coco.path} has other images than the store {store.folder} was made from; "
                "label.annotations takes another JSON of the same images"
            )
        part_of = store.part_of_images()
        absent = [image_id for image_id in self._image_ids if image_id not in part_of]
        if absent:
            message = (
                f"{len(absent)} of {len(self._image_ids)} images are not in the store {store.folder}, the first are "
                f"{', '.join(map(str, absent[:5]))}"
            )
            if not config.label.allow_partial:
                raise UserError(f"{message}; finish scoring, or set label.allow_partial=true to label the others")
            tell(f"warning: {message}; they get no pseudo labels", error=True)
        text_embeddings = self._text_embeddings(store, manifest)
        wanted = set(self._image_ids)
        labels, failed = self._label_parts(
            store, sorted({part_of[image_id] for image_id in wanted - set(absent)}), wanted, text_embeddings
        )
        everything = len(self._image_ids) == len(self._extents)
        return LabelSummary(
            path=self._path,
            images=len(self._image_ids),
            failed_images=failed,
            absent_images=len(absent),
            pseudo_labels=len(labels),
            base_annotations=self._coco.write_labelled(
                self._path,
                self._base_ids,
                labels,
                self._provenance(store, manifest, len(labels), failed, len(absent)),
                image_ids=None if everything else self._image_ids,
            ),
        )

    def _file_to_label(self) -> CocoFile:
        """The JSON of `label.annotations`, else of `data.annotations`, else the one that the store was made from."""
        config = self._config
        if config.label.annotations is not None:
            return CocoFile(config.label.annotations, "label.annotations")
        if config.data.annotations is None and (recorded := store_of(config).manifest().get("annotations")):
            return CocoFile(recorded, "data.annotations is not set, and the JSON that the store was made from")
        return CocoFile(config.value("data.annotations"), "data.annotations")

    def _images_to_label(self, images: Sequence[Image]) -> list[int]:
        """The JSON's images; with `data.limit`, those of them that stage 1 was limited to."""
        config = self._config
        image_ids = [image.id for image in images]
        if config.data.limit is None:
            return image_ids
        if config.label.annotations is None:
            return image_ids[: config.data.limit]
        scored = CocoFile(config.value("data.annotations"), "data.annotations").images()[: config.data.limit]
        return sorted(set(image_ids) & {image.id for image in scored})

    def _check_pruning(self, pruning: dict[str, float] | None) -> None:
        """Refuses settings under which a box could be labelled that stage 1 left without an embedding."""
        if pruning is None:
            return
        weight, threshold = pruning["objectness_weight"], pruning["prune_below"]
        highest = np.array([(threshold - (1 - weight)) / weight])  # objectness of the boxes that were left out, at most
        label = self._config.label
        # Below 0 none was left out. A hair above the threshold is the rounding of this very formula.
        if highest[0] >= 0 and can_exceed(highest, label.objectness_weight, label.score_threshold + 1e-9)[0]:
            raise UserError(
                f"this store was made with run.prune_below={threshold} at label.objectness_weight={weight}: its boxes "
                f"of objectness up to {highest[0]:.3f} have no embedding, and label.score_threshold="
                f"{label.score_threshold} at label.objectness_weight={label.objectness_weight} could make labels of "
                "them; raise the threshold, or score into another run.output"
            )

    def _label_parts(
        self, store: RegionStore, paths: Sequence[Path], wanted: set[int], text_embeddings: np.ndarray
    ) -> tuple[PseudoLabels, int]:
        category_ids = np.array(self._novel_ids, np.int64)

        def label_part(path: Path) -> tuple[PseudoLabels, int]:
            images = [image for image in store.read_part(path) if image.image_id in wanted]
            scored = [image for image in images if image.reason is None]
            for image in scored:
                self._check_extent(image)
            labels = [label_image(image, text_embeddings, category_ids, self._config.label) for image in scored]
            return PseudoLabels.concatenate(labels), len(images) - len(scored)

        # The parts are the parallelism. One BLAS thread in each of them also keeps the products' bits the same on any
        # number of cores.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(available_cores()) as pool:
            results = list(pool.map(label_part, paths))
        labels = PseudoLabels.concatenate([labels for labels, _ in results]).sorted_by_image()
        return labels, sum(failed for _, failed in results)

    def _check_extent(self, image: StoredImage) -> None:
        """Ids alone do not say that the JSON means the image that was scored; a box outside of it says it does not."""
        extent = self._extents[image.image_id]
        if (image.boxes_xyxy[:, 2:] > np.array(extent)).any():
            raise UserError(
                f"{self._coco.path}: image {image.image_id} is {extent[0]} x {extent[1]} there, and the store has boxes"
                " of it that lie outside; the store was made from other images"
            )

    def _text_embeddings(self, store: RegionStore, manifest: dict[str, Any]) -> np.ndarray:
        cache = TextEmbeddings(store.folder / "vocabulary", self._templates, manifest["dim"])
        return cache.embed(self._vocabulary.words(), lambda: self._load_text_encoder(manifest))

    def _load_text_encoder(self, manifest: dict[str, Any]) -> Callable[[Sequence[str]], Any]:
        import torch  # only here: names that were embedded before need neither

        from plgen_ddp.clip_model import ClipModel, fetch_clip

        weights = fetch_clip(self._config.clip.model)
        expected = manifest["identity"]["clip"]["weights"]
        if file_sha256(weights) != expected:
            raise UserError(
                f"clip.model: {self._config.clip.model} is not the model that made this store "
                f"(its weights have SHA-256 {expected[:12]}...)"
            )
        # A rank scores on one thread, and is alone now. Text embeddings keep their bits on several: a test holds it.
        torch.set_num_threads(available_cores())
        device = torch.device("cuda" if torch.cuda.is_available() and self._config.run.device != "cpu" else "cpu")
        model = ClipModel(weights, device, "fp32")
        tell(f"embedding {len(self._vocabulary.words())} names, {len(self._templates)} prompts each", error=True)
        return lambda texts: model.encode_texts(texts).cpu().numpy()

    def _provenance(
        self, store: RegionStore, manifest: dict[str, Any], labels: int, failed: int, absent: int
    ) -> dict[str, Any]:
        """What made the file. No paths, dates or machine names: the same inputs give the same bytes."""
        label, vocabulary = self._config.label, self._vocabulary
        return {
            "version": __version__,
            "store": {"fingerprint": store.fingerprint(), "versions": manifest["versions"], **manifest["identity"]},
            "annotations": {"name": self._coco.path.name, "sha256": self._coco.sha256},
            "label": {
                "temperature": label.temperature,
                "objectness_weight": label.objectness_weight,
                "score_threshold": label.score_threshold,
                "nms_iou": label.nms_iou,
                "novel": list(vocabulary.novel),
                "base": "all others" if vocabulary.base is None else list(vocabulary.base),
                "distractors": list(vocabulary.distractors),
                "aliases": {name: list(words) for name, words in vocabulary.aliases.items()},
                "templates": list(self._templates),
            },
            "pseudo_labels": labels,
            "images_failed": failed,
            "images_not_scored": absent,
        }


def check_labeling(config: Config, image_ids: np.ndarray) -> None:
    """Raises what is wrong with a labelling that is to follow the scoring of `image_ids`: now, not after it."""
    Labeling(config).check(image_ids)


def pruning_of(config: Config) -> dict[str, float] | None:
    """What decides which boxes stage 1 leaves without an embedding; None where it embeds all."""
    if config.run.prune_below is None:
        return None
    return {"objectness_weight": config.label.objectness_weight, "prune_below": config.run.prune_below}


def store_of(config: Config) -> RegionStore:
    """The region store of a run."""
    return RegionStore(Path(config.value("run.output"), "store"))


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
