"""Passes over the store that labellings share: an image is read once, and cosines are computed once for all of them.

Labellings that differ only in thresholds and suppression share their scores too.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError
from plgen_ddp.label.base_names import SampledImages, judge_on_base, learn_from_base
from plgen_ddp.label.class_scores import cosines
from plgen_ddp.label.labelling import Labelling, labellings_of
from plgen_ddp.label.labels import kept_boxes_of_images, label_boxes
from plgen_ddp.label.plan import LabelPlan
from plgen_ddp.label.reachable import boxes_to_score
from plgen_ddp.label.retrieval import MIN_OBJECTNESS, NearestBoxes, merge, nearest_boxes, train_names
from plgen_ddp.label.rule import Rule, ScoredBoxes, scores_base_names
from plgen_ddp.label.stacked import StackedBoxes
from plgen_ddp.manifest import Manifest
from plgen_ddp.plurals import are, counted
from plgen_ddp.processor import available_cores
from plgen_ddp.records import PseudoLabels, Regions
from plgen_ddp.store import RegionStore, store_of

T = TypeVar("T")

ImageInStore = tuple[Regions, tuple[int, int]]
"""An image's regions and its (width, height), pixels."""

# About how many images of the store teach a rule about base names.
_SAMPLE = 4000
# Cosines that are scored together, about: 4 MB in float64.
_COSINES_AT_ONCE = 500_000


@dataclass(frozen=True)
class StorePass:
    """The images of some plans in a store, for one pass over them after the other.

    Attributes:
        plan: the first one; all have the same images.
        absent: how many images of the plan the store lacks.
        text_embeddings: of the words of all labellings, float32 (words, d).
        labellings: one a plan, not prepared.
        wanted: the images to label that the store has, each with the part that counts for it.
    """

    plan: LabelPlan
    store: RegionStore
    manifest: Manifest
    paths: list[Path]
    absent: int
    text_embeddings: np.ndarray
    labellings: list[Labelling]
    wanted: Mapping[int, Path]
    pool: ThreadPoolExecutor

    def prepare(self) -> list[Labelling]:
        """The labellings with all that their rules learn from the store.

        Raises:
            UserError: too few base annotations to learn from, or evidence that the store lacks.
        """
        # Of those that score alike only one learns: one that looks at base annotations, where any does.
        rules = {one.score_key: one for one in sorted(self.labellings, key=lambda one: one.base is not None)}
        retrieves = [key for key, one in rules.items() if _retrieves(one.rule)]
        for key, nearest in zip(retrieves, self._nearest_boxes([rules[key] for key in retrieves]), strict=True):
            rules[key] = replace(rules[key], rule=replace(rules[key].rule, name_classifiers=train_names(nearest)))
        learns = sorted({one.score_key for one in self.labellings if one.rule.options.learns_from_base})
        samples = dict(zip(learns, self._samples([rules[key] for key in learns]), strict=True))
        for key, sample in samples.items():
            rules[key] = replace(rules[key], rule=learn_from_base(rules[key].rule, sample, self.pool))
        ready = []
        for one in self.labellings:
            rule = replace(rules[one.score_key].rule, options=one.plan.config.label)
            asked = one.score_key in samples and scores_base_names(rule.options)
            on_base = judge_on_base(rule, samples[one.score_key], self.pool) if asked else None
            ready.append(replace(one, rule=rule, on_base=on_base))
        return ready

    def label(
        self,
        labellings: Sequence[Labelling],
        thresholds: Sequence[np.ndarray],
        use: Callable[[int, PseudoLabels], T],
    ) -> Iterator[tuple[int, list[T]]]:
        """Labels the images, part after part.

        Args:
            labellings: prepared ones.
            thresholds: of each, float64 (novel names,).
            use: called in the pool with a labelling's number and its labels in a part; what it returns is yielded.

        Yields:
            For each part how many of its images stage 1 had scored, and what `use` returned for each labelling.
        """
        groups: dict[str, list[int]] = {}
        for number, one in enumerate(labellings):
            groups.setdefault(one.score_key, []).append(number)
        rules = [
            (labellings[numbers[0]].rule, float(min(thresholds[number].min() for number in numbers)))
            for numbers in groups.values()
        ]

        def label_part(path: Path) -> tuple[int, list[T]]:
            labels: list[list[PseudoLabels]] = [[PseudoLabels.concatenate([])] for _ in labellings]
            done = 0
            for images in _some_at_once(self._images(path), len(self.text_embeddings)):
                boxes = boxes_to_score(rules, *zip(*images, strict=True))
                cosine = self._cosines(boxes.regions)
                for numbers in groups.values():
                    first = labellings[numbers[0]]
                    scored = first.rule.score_images(boxes, first.cosines(cosine))
                    for number in numbers:
                        one = labellings[number]
                        labels[number].append(_label(one, boxes, scored, images, thresholds[number]))
                done += len(images)
            return done, [use(number, PseudoLabels.concatenate(own)) for number, own in enumerate(labels)]

        return self.pool.map(label_part, self.paths)

    def _images(self, path: Path) -> Iterator[ImageInStore]:
        """The wanted images of a part that were scored, each with its (width, height)."""
        for image in self.store.read_part(path):
            if self.wanted.get(image.image_id) == path and image.failure is None:
                _check_extent(self.plan, image)
                yield image, self.plan.extents[image.image_id]

    def _cosines(self, image: Regions) -> np.ndarray:
        """Cosines float64 (n, words) of an image's regions with the words of all labellings."""
        if self.manifest.vocabulary is not None:
            return np.empty((len(image.objectness), 0))  # imported scores have named the boxes already
        return cosines(image.embeddings, self.text_embeddings)

    def _samples(self, rules: Sequence[Labelling]) -> list[list[SampledImages]]:
        """A sample of the images that have base annotations, for each of the rules."""
        if not rules:
            return []

        def read(path: Path) -> list[list[SampledImages]]:
            found: list[list[SampledImages]] = [[] for _ in rules]
            for images in _some_at_once(self._images(path), len(self.text_embeddings)):
                counts = [len(image.objectness) for image, _ in images]
                cosine: np.ndarray | None = None
                for own, one in zip(found, rules, strict=True):
                    taught = [len(one.base_of(image.image_id)[1]) > 0 for image, _ in images]
                    if any(taught):
                        if cosine is None:
                            cosine = self._cosines(StackedBoxes.with_embeddings([image for image, _ in images]).regions)
                        chosen = list(itertools.compress(images, taught))
                        own.append(_sampled(one, chosen, cosine[np.repeat(taught, counts)]))
            return found

        samples: list[list[SampledImages]] = [[] for _ in rules]
        # Every `step`-th part first, then those between, until there are enough images.
        step = max(1, len(self.wanted) // _SAMPLE)
        for start in range(step):
            for found in self.pool.map(read, self.paths[start::step]):
                for sample, images in zip(samples, found, strict=True):
                    sample += images
            if all(sum(len(images.boxes.image_ids) for images in sample) >= _SAMPLE // 2 for sample in samples):
                break
        return samples

    def _nearest_boxes(self, rules: Sequence[Labelling]) -> list[NearestBoxes]:
        """The boxes of the whole store that are nearest to each novel and base name of each rule."""
        if not rules:
            return []
        names, dim = [one.rule.table.novel + one.rule.table.base for one in rules], self.text_embeddings.shape[1]

        def of_part(path: Path) -> list[NearestBoxes]:
            cosine = [[np.empty((0, count))] for count in names]
            embeddings = [np.empty((0, dim), np.float16)]
            for image, _ in self._images(path):
                likely = image.objectness >= MIN_OBJECTNESS
                every = self._cosines(image)[likely]
                for own, one, count in zip(cosine, rules, names, strict=True):
                    own.append(one.cosines(every)[:, :count])
                embeddings.append(image.embeddings[likely])
            boxes = np.concatenate(embeddings)
            return [nearest_boxes(np.concatenate(own), boxes) for own in cosine]

        found = [nearest_boxes(np.empty((0, count)), np.empty((0, dim), np.float16)) for count in names]
        for part in self.pool.map(of_part, self.paths):
            found = [merge(before, more) for before, more in zip(found, part, strict=True)]
        return found


def _named(plan: LabelPlan) -> str:
    """The store, by its run: the last folder of its own path is always called store."""
    return f"the store of run.output={plan.config.run.output}"


def _of_other_images(plan: LabelPlan, manifest: Manifest, store: RegionStore) -> UserError:
    """The refusal of a JSON that was not scored; what helps depends on its images."""
    if set(plan.image_ids) <= store.part_of_images().keys():
        remedy = "label.annotations takes a JSON of images that were scored"
    else:
        scored = f", {manifest.annotations}," if manifest.annotations else ""
        remedy = f"label with the JSON that was scored{scored} or score this one into another run.output"
    return UserError(f"data.annotations: {plan.coco.path} has other images than {_named(plan)} was made from; {remedy}")


@contextlib.contextmanager
def open_store(plans: Sequence[LabelPlan]) -> Iterator[StorePass]:
    """The store that the plans label, checked, with the text embeddings of their names.

    Args:
        plans: of the same images, one at least; see `with_label_options`.

    Raises:
        UserError: no store, an incomplete one, one of other images, or an encoder that is not the store's.
    """
    plan = plans[0]
    store = store_of(plan.config)
    manifest = store.manifest()
    if plan.config.label.annotations is None and manifest.identity["dataset"]["digest"] != plan.digest:
        raise _of_other_images(plan, manifest, store)
    part_of = store.part_of_images()
    absent = [image_id for image_id in plan.image_ids if image_id not in part_of]
    if not part_of:
        raise UserError(f"run.output: {_named(plan)} has no images; score some with launch/score.py")
    if len(absent) == len(plan.image_ids):
        raise UserError(
            f"run.output: none of the {counted(len(absent), 'image')} of {plan.coco.path} is in {_named(plan)}; it was "
            "made from other images"
        )
    if absent:
        first = f", the first are {', '.join(map(str, absent[:5]))}" if len(absent) > 1 else f" (image {absent[0]})"
        share = f"{len(absent)} of {counted(len(plan.image_ids), 'image')} {are(len(absent))}"
        message = f"{share} not in {_named(plan)}{first}"
        if not plan.config.label.allow_partial:
            raise UserError(f"{message}; finish scoring, or set label.allow_partial=true to label the others")
        print_line(f"warning: {message}; they get no pseudo labels", error=True)
    labellings, text_embeddings = labellings_of(plans, manifest)
    wanted = {image_id: part_of[image_id] for image_id in plan.image_ids if image_id in part_of}
    paths = sorted(set(wanted.values()))
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(available_cores()) as pool:
        # The parts are the parallelism. One BLAS thread in each of them also keeps the bits the same on any number of
        # cores.
        yield StorePass(plan, store, manifest, paths, len(absent), text_embeddings, labellings, wanted, pool)


def _retrieves(rule: Rule) -> bool:
    """Whether a rule looks at the nearest boxes of the store before it labels; `verified` judges names itself."""
    return rule.options.class_score == "retrieved" and rule.options.box_score != "verified"


def _some_at_once(images: Iterator[ImageInStore], words: int) -> Iterator[list[ImageInStore]]:
    """Images in lists, short enough that their boxes' cosines with this number of words take a few megabytes."""
    taken: list[ImageInStore] = []
    boxes = 0
    for image in images:
        taken.append(image)
        boxes += len(image[0].objectness)
        if boxes * words > _COSINES_AT_ONCE:
            yield taken
            taken, boxes = [], 0
    if taken:
        yield taken


def _sampled(one: Labelling, images: Sequence[ImageInStore], cosine: np.ndarray) -> SampledImages:
    """Images with base annotations. cosine: float64 (n, words of all labellings), of their boxes."""
    boxes, names = zip(*(one.base_of(image.image_id) for image, _ in images), strict=True)
    place = np.repeat(np.arange(len(images)), [len(own) for own in names])
    stacked = StackedBoxes.of(*zip(*images, strict=True))
    return SampledImages(stacked, one.cosines(cosine), place, np.concatenate(boxes), np.concatenate(names))


def _label(
    one: Labelling, boxes: StackedBoxes, scored: ScoredBoxes, images: Sequence[ImageInStore], threshold: np.ndarray
) -> PseudoLabels:
    base = [one.base_of(image.image_id)[0] for image, _ in images]
    base_place = np.repeat(np.arange(len(images)), [len(own) for own in base])
    kept = kept_boxes_of_images(
        boxes.regions.boxes_xyxy, boxes.place, scored, np.concatenate(base), base_place, one.rule.options, threshold
    )
    image_ids = np.array([image.image_id for image, _ in images], np.int64)[boxes.place[kept]]
    return label_boxes(image_ids, boxes.regions, scored, kept, one.plan.novel_ids)


def _check_extent(plan: LabelPlan, image: Regions) -> None:
    """Boxes outside the image show that the JSON describes other images than those that were scored."""
    extent = plan.extents[image.image_id]
    right, bottom = image.boxes_xyxy[:, 2:].max(axis=0, initial=0).tolist()
    if right > extent[0] or bottom > extent[1]:
        raise UserError(
            f"{plan.coco.path}: image {image.image_id} is {extent[0]} x {extent[1]} there, and the store has boxes"
            " of it that lie outside; the store was made from other images"
        )
