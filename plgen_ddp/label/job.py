"""Stage 2: labels a COCO-format JSON from a region store. No GPU, no detector, no images.

`plan.py` reads the inputs and finds every mistake in them; `label_store` then does the work.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from plgen_ddp.config import Config
from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError
from plgen_ddp.label.audit import admit, unaudited
from plgen_ddp.label.base_annotations import BaseBoxes, read_base_boxes
from plgen_ddp.label.base_names import OnBaseNames, SampledImage, judge_on_base, learn_from_base
from plgen_ddp.label.box_scores import no_evidence
from plgen_ddp.label.category_embeddings import check_no_embeddings, embeddings_by_id
from plgen_ddp.label.embed_names import check_name_lengths, embed_names
from plgen_ddp.label.imported_rule import imported_rule
from plgen_ddp.label.labels import kept_boxes, label_image
from plgen_ddp.label.plan import LabelPlan, plan_labelling
from plgen_ddp.label.provenance import provenance
from plgen_ddp.label.retrieval import MIN_OBJECTNESS, NearestBoxes, merge, nearest_boxes, train_names
from plgen_ddp.label.rule import Rule, scores_base_names
from plgen_ddp.processor import available_cores
from plgen_ddp.records import LabelSummary, PseudoLabels, Regions
from plgen_ddp.store import RegionStore, store_of

# Images of the store that teach a rule about base names, about; parts hold at most so many.
_SAMPLE = 4000
_IMAGES_PER_PART = 64


def check_before_scoring(config: Config, scored: np.ndarray) -> None:
    """Checks the labelling that is to follow the scoring of the images `scored`, int64 (n,): now, not hours later.

    Raises:
        UserError: what `plan_labelling` raises, evidence that boxes from a file do not have, images to label that will
            not be scored, or a prompt that is too long for the encoder.
    """
    plan = plan_labelling(config)
    if config.proposals.source is not None and config.label.box_score in ("foreground", "agreement"):
        raise no_evidence(config.label.box_score)
    check_name_lengths(plan)
    absent = sorted(set(plan.image_ids) - set(scored.tolist()))
    if absent and not config.label.allow_partial:
        raise UserError(
            f"{len(absent)} of {len(plan.image_ids)} images of label.annotations are not in data.annotations, the "
            f"first is {absent[0]}; label.allow_partial=true labels the others"
        )


def label_store(plan: LabelPlan) -> LabelSummary:
    """Labels the images of the plan from the store and writes the labelled JSON, once its audit finds no leak.

    Raises:
        UserError: no store, an incomplete one, one of other images, an encoder that is not the store's, or a leak.
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
    if not part_of:
        raise UserError(f"run.output: the store {store.folder} has no images; score some with launch/score.py")
    if len(absent) == len(plan.image_ids):
        raise UserError(
            f"run.output: none of the {len(absent)} images of {plan.coco.path} is in the store {store.folder}; it was "
            "made from other images"
        )
    if absent:
        message = (
            f"{len(absent)} of {len(plan.image_ids)} images are not in the store {store.folder}, the first are "
            f"{', '.join(map(str, absent[:5]))}"
        )
        if not plan.config.label.allow_partial:
            raise UserError(f"{message}; finish scoring, or set label.allow_partial=true to label the others")
        print_line(f"warning: {message}; they get no pseudo labels", error=True)
    if plan.added:
        print_line(f"adding {len(plan.added)} categories: {', '.join(category.name for category in plan.added)}")
    if manifest.vocabulary is not None:
        rule: Rule = imported_rule(plan, manifest, manifest.vocabulary)
        check_no_embeddings(plan.config.label.text_embeddings, plan.embedded)
        of_categories = {}
    else:
        rows = embed_names(plan, plan.category_words())
        text_embeddings, more = np.split(rows, [len(plan.table.words)])
        rule = Rule(plan.config.label, plan.table, text_embeddings, manifest.similarity)
        of_categories = embeddings_by_id(plan.coco, plan.embedded, more)
    categories = plan.coco.categories_text(of_categories, plan.added, plan.left_out)
    wanted = set(plan.image_ids)
    paths = sorted({part_of[image_id] for image_id in wanted - set(absent)})
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(available_cores()) as pool:
        # The parts are the parallelism. One BLAS thread in each of them also keeps the bits the same on any number of
        # cores.
        work = _Work(plan, store, wanted, _base_boxes(plan), pool)
        rule, on_base = _prepare_rule(work, rule, paths)
        chosen = on_base.chosen if on_base else None
        threshold = chosen.threshold if chosen else plan.config.label.score_threshold
        labels, scored = _label_parts(work, rule, threshold, paths)
    failed = len(plan.image_ids) - len(absent) - scored
    everything = len(plan.image_ids) == len(plan.extents)
    base_annotations = plan.coco.write_labelled(
        unaudited(plan.output),
        set(plan.base_ids),
        labels,
        provenance(plan, manifest, rule, on_base, len(labels), failed, len(absent)),
        image_ids=None if everything else plan.image_ids,
        box_score=plan.config.label.box_score != "objectness",
        categories=categories,
    )
    admit(plan.output, plan.coco)
    return LabelSummary(plan.output, len(plan.image_ids), failed, len(labels), base_annotations)


@dataclass(frozen=True, slots=True)
class _Work:
    """What every pass over the store needs."""

    plan: LabelPlan
    store: RegionStore
    wanted: set[int]
    base: BaseBoxes | None
    pool: ThreadPoolExecutor

    def images(self, path: Path) -> Iterator[tuple[Regions, tuple[int, int]]]:
        """The wanted images of a part that were scored, each with its (width, height)."""
        for image in self.store.read_part(path):
            if image.image_id in self.wanted and image.failure is None:
                _check_extent(self.plan, image)
                yield image, self.plan.extents[image.image_id]

    def base_of(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """The base annotations of an image, where the rule looks at them; see `BaseBoxes.of_image`."""
        return _NO_BASE if self.base is None else self.base.of_image(image_id)


_NO_BASE = (np.empty((0, 4)), np.empty(0, np.int64))


def _base_boxes(plan: LabelPlan) -> BaseBoxes | None:
    options = plan.config.label
    suppresses = {"base_iou", "base_inside"} & set(options.suppress)
    learns = options.box_score in ("learned", "verified") or options.threshold != "fixed"
    return read_base_boxes(plan.coco, plan.base_ids) if suppresses or learns else None


def _prepare_rule(work: _Work, rule: Rule, paths: Sequence[Path]) -> tuple[Rule, OnBaseNames | None]:
    """The rule with all that it learns from the store, and what base names say of it, where they are asked."""
    options = rule.options
    if options.class_score == "retrieved" and options.box_score != "verified":
        rule = replace(rule, name_classifiers=train_names(_nearest_boxes(work, rule, paths)))
    if options.box_score not in ("learned", "verified") and options.threshold == "fixed":
        return rule, None

    def read(path: Path) -> list[SampledImage]:
        found = []
        for image, extent in work.images(path):
            boxes, names = work.base_of(image.image_id)
            if len(names):
                bare = replace(image, embeddings=np.empty((len(image.objectness), 0), np.float16))
                found.append(SampledImage(bare, rule.cosines(image), extent, boxes, names))
        return found

    sample: list[SampledImage] = []
    # Every so many-th part first, then those between, until there are enough images.
    step = max(1, len(paths) * _IMAGES_PER_PART // _SAMPLE)
    for start in range(step):
        for images in work.pool.map(read, paths[start::step]):
            sample += images
        if len(sample) >= _SAMPLE // 2:
            break
    rule = learn_from_base(rule, sample)
    return rule, judge_on_base(rule, sample) if scores_base_names(options) else None


def _nearest_boxes(work: _Work, rule: Rule, paths: Sequence[Path]) -> NearestBoxes:
    """The boxes of the whole store that are nearest to each novel and base name."""
    names, dim = rule.table.novel + rule.table.base, rule.text_embeddings.shape[1]

    def of_part(path: Path) -> NearestBoxes:
        cosines, embeddings = [np.empty((0, names))], [np.empty((0, dim), np.float16)]
        for image, _ in work.images(path):
            likely = image.objectness >= MIN_OBJECTNESS
            cosines.append(rule.cosines(image)[likely, :names])
            embeddings.append(image.embeddings[likely])
        return nearest_boxes(np.concatenate(cosines), np.concatenate(embeddings))

    nothing = nearest_boxes(np.empty((0, names)), np.empty((0, dim), np.float16))
    return merge(nothing, work.pool.map(of_part, paths))


def _label_parts(work: _Work, rule: Rule, threshold: float, paths: Sequence[Path]) -> tuple[PseudoLabels, int]:
    """The pseudo labels of the wanted images in these parts, by image id, and how many of them stage 1 had scored."""

    def label_part(path: Path) -> tuple[PseudoLabels, int]:
        labels, done = [], 0
        for image, extent in work.images(path):
            scored = rule.score(image, rule.cosines(image), extent)
            base_boxes, _ = work.base_of(image.image_id)
            kept = kept_boxes(image.boxes_xyxy, scored, base_boxes, rule.options, threshold)
            labels.append(label_image(image, scored, kept, work.plan.novel_ids))
            done += 1
        return PseudoLabels.concatenate(labels), done

    results = list(work.pool.map(label_part, paths))
    labels = PseudoLabels.concatenate([labels for labels, _ in results]).sorted_by_image()
    return labels, sum(done for _, done in results)


def _check_extent(plan: LabelPlan, image: Regions) -> None:
    """Boxes outside the image show that the JSON describes other images than those that were scored."""
    extent = plan.extents[image.image_id]
    if (image.boxes_xyxy[:, 2:] > np.array(extent)).any():
        raise UserError(
            f"{plan.coco.path}: image {image.image_id} is {extent[0]} x {extent[1]} there, and the store has boxes"
            " of it that lie outside; the store was made from other images"
        )
