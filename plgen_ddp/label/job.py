"""Stage 2: labels a COCO-format JSON from a region store. No GPU, no detector, no images.

`plan.py` reads the inputs and finds every mistake in them; `label_store` then does the work, `label_plans` for several
labellings at once. `passes.py` reads the store for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plgen_ddp.config import Config
from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError
from plgen_ddp.files import remove_left_over
from plgen_ddp.label.audit import admit, unaudited
from plgen_ddp.label.box_scores import no_evidence
from plgen_ddp.label.category_embeddings import print_without
from plgen_ddp.label.density import DensestLabels, names_of
from plgen_ddp.label.embed_names import check_name_lengths
from plgen_ddp.label.labelling import Labelling
from plgen_ddp.label.passes import open_store
from plgen_ddp.label.plan import LabelPlan, plan_labelling
from plgen_ddp.label.provenance import provenance
from plgen_ddp.manifest import Manifest
from plgen_ddp.plurals import are, counted
from plgen_ddp.processor import without_garbage_collection
from plgen_ddp.records import LabelSummary, PseudoLabels
from plgen_ddp.screen_text import visible_name

# Names that a note lists.
_SHOWN = 6


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
            f"{len(absent)} of {counted(len(plan.image_ids), 'image')} of label.annotations {are(len(absent))} not in "
            f"data.annotations, the first is {absent[0]}; label.allow_partial=true labels the others"
        )


@dataclass(frozen=True)
class LabelledStore:
    """One labelling's outcome.

    Attributes:
        labelling: what made it.
        manifest: of the store.
        thresholds: above which labels were kept, float64 (novel names,).
        labels: by image id.
        failed, absent: how many images of the plan stage 1 could not score, and how many the store lacks.
    """

    labelling: Labelling
    manifest: Manifest
    thresholds: np.ndarray
    labels: PseudoLabels
    failed: int
    absent: int


def label_store(plan: LabelPlan) -> LabelSummary:
    """Labels the images of the plan from the store and writes the labelled JSON, once its audit finds no leak.

    Raises:
        UserError: no store, an incomplete one, one of other images, an encoder that is not the store's, or a leak.
    """
    if plan.added:
        names = ", ".join(visible_name(category.name) for category in plan.added)
        print_line(f"adding {counted(len(plan.added), 'category', 'categories')}: {names}")
    with without_garbage_collection():
        (done,) = label_plans([plan])
        written = write_labels(done)
    if plan.vocabulary.base is None and not plan.vocabulary.novel_where and plan.base_names:
        shown = [visible_name(name) for name in plan.base_names[:_SHOWN]] + ["..."] * (len(plan.base_names) > _SHOWN)
        print_line(
            f"note: the JSON's {len(plan.base_names)} other categories count as base names, with their annotations: "
            f"{', '.join(shown)}; label.vocabulary={{novel: [...], base: [...]}} says which do",
            error=True,
        )
    return written


def label_plans(plans: Sequence[LabelPlan]) -> list[LabelledStore]:
    """Labels the same images under several plans in one pass over the store; writes nothing.

    Args:
        plans: one at least; the others come from it by `with_label_options`.

    Raises:
        UserError: what `label_store` raises.
    """
    with open_store(plans) as store:
        labellings = store.prepare()
        thresholds = [fixed_thresholds(one) for one in labellings]
        collected: list[list[PseudoLabels]] = [[] for _ in plans]
        dense = {
            number: DensestLabels(plan.novel_ids, per_image, len(plan.image_ids), per_name=plan.config.label.per_name)
            for number, plan in enumerate(plans)
            if plan.config.label.threshold == "density" and (per_image := plan.config.label.per_image) is not None
        }
        scored = 0
        for images, found in store.label(labellings, thresholds, lambda _, labels: labels):
            scored += images
            for number, labels in enumerate(found):
                if number in dense:
                    dense[number].add(labels)
                else:
                    collected[number].append(labels)
        for number, densest in dense.items():
            thresholds[number], collected[number] = densest.thresholds(scored), densest.labels()
        results = []
        for number, labelling in enumerate(labellings):
            labels = PseudoLabels.concatenate(collected[number]).sorted_by_image()
            collected[number] = []
            if number in dense:
                names = names_of(labels, labelling.plan.novel_ids)
                labels = labels.chosen(labels.scores > thresholds[number][names])
            failed = len(labelling.plan.image_ids) - store.absent - scored
            results.append(LabelledStore(labelling, store.manifest, thresholds[number], labels, failed, store.absent))
        return results


def fixed_thresholds(labelling: Labelling) -> np.ndarray:
    """The thresholds to label with, float64 (novel names,): 0 where their number is to decide."""
    plan = labelling.plan
    if labelling.on_base is not None and labelling.on_base.chosen is not None:
        return np.full(len(plan.novel_ids), labelling.on_base.chosen.threshold)
    return np.zeros(len(plan.novel_ids)) if plan.config.label.threshold == "density" else plan.thresholds


def write_labels(done: LabelledStore) -> LabelSummary:
    """Writes the labelled JSON of one labelling, once its audit finds no leak.

    Raises:
        UserError: a leak.
    """
    plan = done.labelling.plan
    if done.manifest.vocabulary is not None:
        print_without(plan.embedded)
    remove_left_over(plan.output.parent, unaudited(plan.output).name)
    everything = len(plan.image_ids) == len(plan.extents)
    base_annotations = plan.coco.write_labelled(
        unaudited(plan.output),
        set(plan.base_ids),
        done.labels,
        provenance(
            done.labelling,
            done.manifest,
            done.thresholds,
            labels=len(done.labels),
            failed=done.failed,
            absent=done.absent,
        ),
        image_ids=None if everything else plan.image_ids,
        categories=plan.coco.categories_text(done.labelling.text_embeddings, plan.added, plan.left_out),
        box_score=plan.config.label.box_score != "objectness",
    )
    admit(plan.output, plan.coco)
    return LabelSummary(plan.output, len(plan.image_ids), done.failed, len(done.labels), base_annotations)
