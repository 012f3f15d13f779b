"""Many settings of a labelling from one pass over the store: how many labels each gives, and how good they are.

Settings that differ only in their thresholds are one ranking of labels, cut at several places.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from plgen_ddp.label.density import names_of, thresholds_by_density, wanted_labels
from plgen_ddp.label.job import fixed_thresholds
from plgen_ddp.label.labelling import Labelling
from plgen_ddp.label.passes import open_store
from plgen_ddp.label.plan import plan_labelling, with_label_options
from plgen_ddp.label.provenance import thresholds_in_words
from plgen_ddp.label.settings import Setting
from plgen_ddp.ranked_labels import Figures, JudgedLabels, Objects, RankedLabels, judge, read_objects
from plgen_ddp.records import PseudoLabels, concatenated


@dataclass(frozen=True, slots=True)
class NameRow:
    """One name's labels at a setting; figures is None without ground truth."""

    labels: int
    figures: Figures | None


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One setting.

    Attributes:
        values: of the swept options.
        threshold: above which labels are kept: one number, or one for each name.
        labels: how many there are. labels_per_image: on the images that were scored.
        figures: None without ground truth.
        names: of each novel name.
    """

    values: dict[str, str]
    threshold: float | dict[str, float]
    labels: int
    labels_per_image: float
    figures: Figures | None
    names: dict[str, NameRow]


@dataclass(frozen=True, slots=True)
class Sweep:
    """The rows of a sweep, in the order of its settings.

    Attributes:
        images: how many were labelled.
        judged_images: of how many ground truth knows the objects; None without ground truth.
        rankings: the rows that are cuts of one ranking of labels, as numbers of rows.
    """

    rows: list[SweepRow]
    images: int
    judged_images: int | None
    rankings: list[list[int]]


def sweep(settings: Sequence[Setting], ground_truth: Path | None = None) -> Sweep:
    """Labels with every setting; writes no labels.

    Args:
        ground_truth: COCO-format JSON with real annotations of the novel names, for figures.

    Raises:
        UserError: what labelling with a setting raises, or ground truth that does not fit the labels.
    """
    # Nothing is written, so no category needs its text embedding.
    configs = [replace(one.config, label=replace(one.config.label, text_embeddings="none")) for one in settings]
    first = plan_labelling(configs[0])
    plans = [first, *(with_label_options(first, config) for config in configs[1:])]
    extents = {image_id: first.extents[image_id] for image_id in first.image_ids}
    objects: dict[tuple[str, ...], Objects | None] = {}
    for plan in plans:
        if (names := plan.vocabulary.novel) not in objects:
            objects[names] = None
            if ground_truth is not None:
                objects[names] = read_objects(ground_truth, names, extents)
    with open_store(plans) as store:
        labellings = store.prepare()
        thresholds = [fixed_thresholds(one) for one in labellings]
        rankings = _rankings(labellings)
        heads = [labellings[numbers[0]] for numbers in rankings]

        def judge_part(number: int, labels: PseudoLabels) -> JudgedLabels:
            plan = heads[number].plan
            return judge(labels, names_of(labels, plan.novel_ids), objects[plan.vocabulary.novel])

        lowest = [np.min([thresholds[number] for number in numbers], axis=0) for numbers in rankings]
        parts: list[list[JudgedLabels]] = [[] for _ in rankings]
        images = 0
        for done, judged in store.label(heads, lowest, judge_part):
            images += done
            for own, labels in zip(parts, judged, strict=True):
                own.append(labels)
    rows: dict[int, SweepRow] = {}
    for ranking, numbers in enumerate(rankings):
        labels, parts[ranking] = concatenated(parts[ranking]), []
        names = heads[ranking].plan.vocabulary.novel
        ranked = RankedLabels(labels, objects[names], len(names))
        for number in numbers:
            options = settings[number].config.label
            least = thresholds[number]
            if options.threshold == "density" and options.per_image is not None:
                wanted = wanted_labels(options.per_image, images)
                least = thresholds_by_density(
                    labels.scores, labels.names, len(names), wanted, per_name=options.per_name
                )
            rows[number] = _row(settings[number], names, least, ranked, images, objects[names] is not None)
    known = objects[first.vocabulary.novel]
    return Sweep(
        [rows[number] for number in range(len(settings))],
        images,
        None if known is None else len(known.images),
        rankings,
    )


def _rankings(labellings: Sequence[Labelling]) -> list[list[int]]:
    """The labellings that differ only in their thresholds, together."""
    found: dict[str, list[int]] = {}
    for number, one in enumerate(labellings):
        found.setdefault(one.label_key, []).append(number)
    return list(found.values())


def _row(
    setting: Setting, names: Sequence[str], thresholds: np.ndarray, ranked: RankedLabels, images: int, judged: bool
) -> SweepRow:
    counts = ranked.counts(thresholds)
    together, by_name = ranked.figures(thresholds) if judged else (None, [None] * len(names))
    return SweepRow(
        values=setting.values,
        threshold=thresholds_in_words(thresholds, names),
        labels=int(counts.sum()),
        labels_per_image=int(counts.sum()) / max(images, 1),
        figures=together,
        names={name: NameRow(count, own) for name, count, own in zip(names, counts.tolist(), by_name, strict=True)},
    )
