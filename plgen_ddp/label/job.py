"""Stage 2: labels a COCO-format JSON from a region store. No GPU, no detector, no images.

An encoder, and with it torch, is loaded only for names that the store has not seen.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from plgen_ddp import __version__
from plgen_ddp.coco import CocoFile, Image
from plgen_ddp.config import Config
from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError
from plgen_ddp.files import check_output, file_sha256
from plgen_ddp.image_files import dataset_digest
from plgen_ddp.label.labels import label_image
from plgen_ddp.label.text_embeddings import TextEmbeddings, prompts
from plgen_ddp.label.vocabulary import Vocabulary, read_templates, read_vocabulary
from plgen_ddp.records import LabelSummary, PseudoLabels, Regions, Similarity
from plgen_ddp.store import Manifest, RegionStore, store_of


class Labelling:
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
            UserError: images to label will be missing when these ids are scored, or a prompt is too long for CLIP.
        """
        from plgen_ddp.encoders.loading import check_prompts  # only here: labelling alone may need no torch

        words = self._vocabulary.words()
        check_prompts(self._config.clip, [text for names in words for text in prompts(names, self._templates)])
        absent = sorted(set(self._image_ids) - set(scored.tolist()))
        if absent and not self._config.label.allow_partial:
            raise UserError(
                f"{len(absent)} of {len(self._image_ids)} images of label.annotations are not in data.annotations, the "
                f"first is {absent[0]}; label.allow_partial=true labels the others"
            )

    def run(self) -> LabelSummary:
        """Labels the images of the JSON from the store and writes the labelled JSON.

        Raises:
            UserError: no store, an incomplete one, or a CLIP model that is not the store's.
        """
        config = self._config
        store = store_of(config)
        manifest = store.manifest()
        if config.label.annotations is None and manifest.identity["dataset"]["digest"] != self._digest:
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
            print_line(f"warning: {message}; they get no pseudo labels", error=True)
        text_embeddings = self._text_embeddings(store, manifest)
        wanted = set(self._image_ids)
        paths = sorted({part_of[image_id] for image_id in wanted - set(absent)})
        labels, failed = self._label_parts(store, paths, wanted, text_embeddings, manifest.similarity)
        everything = len(self._image_ids) == len(self._extents)
        return LabelSummary(
            path=self._path,
            images=len(self._image_ids),
            failed_images=failed,
            pseudo_labels=len(labels),
            base_annotations=self._coco.write_labelled(
                self._path,
                self._base_ids,
                labels,
                self._provenance(manifest, len(labels), failed, len(absent)),
                image_ids=None if everything else self._image_ids,
            ),
        )

    def _file_to_label(self) -> CocoFile:
        """The JSON of `label.annotations`, else of `data.annotations`, else the one that the store was made from."""
        config = self._config
        if config.label.annotations is not None:
            return CocoFile(config.label.annotations, "label.annotations")
        if config.data.annotations is None and (recorded := store_of(config).manifest().annotations):
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

    def _label_parts(
        self,
        store: RegionStore,
        paths: Sequence[Path],
        wanted: set[int],
        text_embeddings: np.ndarray,
        similarity: Similarity,
    ) -> tuple[PseudoLabels, int]:
        category_ids = np.array(self._novel_ids, np.int64)

        def label_part(path: Path) -> tuple[PseudoLabels, int]:
            images = [image for image in store.read_part(path) if image.image_id in wanted]
            scored = [image for image in images if image.failure is None]
            for image in scored:
                self._check_extent(image)
            labels = [
                label_image(image, text_embeddings, category_ids, similarity, self._config.label) for image in scored
            ]
            return PseudoLabels.concatenate(labels), len(images) - len(scored)

        # The parts are the parallelism. One BLAS thread in each of them also keeps the products' bits the same on any
        # number of cores.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(available_cores()) as pool:
            results = list(pool.map(label_part, paths))
        labels = PseudoLabels.concatenate([labels for labels, _ in results]).sorted_by_image()
        return labels, sum(failed for _, failed in results)

    def _check_extent(self, image: Regions) -> None:
        """Ids alone do not say that the JSON means the image that was scored; a box outside of it says it does not."""
        extent = self._extents[image.image_id]
        if (image.boxes_xyxy[:, 2:] > np.array(extent)).any():
            raise UserError(
                f"{self._coco.path}: image {image.image_id} is {extent[0]} x {extent[1]} there, and the store has boxes"
                " of it that lie outside; the store was made from other images"
            )

    def _text_embeddings(self, store: RegionStore, manifest: Manifest) -> np.ndarray:
        precision = self._config.clip.text_precision
        cache = TextEmbeddings(store.folder / "vocabulary", self._templates, manifest.dim, precision)
        return cache.embed(self._vocabulary.words(), lambda: self._load_text_encoder(manifest))

    def _load_text_encoder(self, manifest: Manifest) -> Callable[[Sequence[str]], Any]:
        import torch  # only here: names that were embedded before need neither

        from plgen_ddp.encoders.loading import fetch_encoder, load_encoder

        weights = fetch_encoder(self._config.clip)
        expected = manifest.identity["clip"]["weights"]
        if file_sha256(weights) != expected:
            raise UserError(
                f"clip.model: {self._config.clip.model} is not the model that made this store "
                f"(its weights have SHA-256 {expected[:12]}...)"
            )
        # A rank scores on one thread, and is alone now. Text embeddings keep their bits on several: a test holds it.
        torch.set_num_threads(available_cores())
        device = torch.device("cuda" if torch.cuda.is_available() and self._config.run.device != "cpu" else "cpu")
        encoder = load_encoder(self._config.clip, weights, device, self._config.clip.text_precision)
        if encoder.identity().get("tokenizer") != manifest.identity["clip"].get("tokenizer"):
            raise UserError(f"clip.tokenizer: {self._config.clip.tokenizer} is not the tokenizer of this store")
        return lambda texts: encoder.encode_texts(texts).cpu().numpy()

    def _provenance(self, manifest: Manifest, labels: int, failed: int, absent: int) -> dict[str, Any]:
        """What made the file. No paths, dates or machine names: the same inputs give the same bytes."""
        label, vocabulary = self._config.label, self._vocabulary
        return {
            "version": __version__,
            "store": {"fingerprint": manifest.fingerprint(), "versions": manifest.versions, **manifest.identity},
            "annotations": {"name": self._coco.path.name, "sha256": self._coco.sha256},
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
                "templates": list(self._templates),
            },
            "pseudo_labels": labels,
            "images_failed": failed,
            "images_not_scored": absent,
        }


def check_labelling(config: Config, image_ids: np.ndarray) -> None:
    """Raises what is wrong with a labelling that is to follow the scoring of `image_ids`: now, not after it."""
    Labelling(config).check(image_ids)


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
