"""What made a labelled JSON, for its `info`. No paths, dates or machine names: the same inputs give the same bytes."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from plgen_ddp import __version__
from plgen_ddp.label.labelling import Labelling
from plgen_ddp.manifest import Manifest


def provenance(
    labelling: Labelling, manifest: Manifest, thresholds: np.ndarray, *, labels: int, failed: int, absent: int
) -> dict[str, Any]:
    """The record of one labelling.

    Args:
        labelling: a prepared one. manifest: of the store.
        thresholds: above which labels were kept, float64 (novel names,).
        labels, failed, absent: numbers of pseudo labels, of images whose scoring failed, and of images not in the
            store.
    """
    plan = labelling.plan
    return {
        "version": __version__,
        "store": {"fingerprint": manifest.fingerprint(), "versions": manifest.versions, **manifest.identity},
        "annotations": {"name": plan.coco.path.name, "sha256": plan.coco.sha256},
        "label": _settings(labelling, thresholds),
        "pseudo_labels": labels,
        "images_failed": failed,
        "images_not_scored": absent,
    }


def _settings(labelling: Labelling, thresholds: np.ndarray) -> dict[str, Any]:
    """What decided the labels: the rule's options, what was learned, the names and prompts."""
    plan, rule, on_base = labelling.plan, labelling.rule, labelling.on_base
    label, vocabulary = plan.config.label, plan.vocabulary
    left_out = ["annotations", "vocabulary", "templates", "allow_partial", "output"]
    left_out += ["text_embeddings", "add_categories", "drop_categories"]  # the categories themselves show them
    if label.threshold != "density":
        left_out += ["per_image", "per_name"]
    settings: dict[str, Any] = {name: value for name, value in asdict(label).items() if name not in left_out}
    settings |= {"similarity": rule.similarity.rule, "temperature": rule.similarity.temperature}
    settings["score_threshold"] = thresholds_in_words(thresholds, vocabulary.novel)
    if on_base is not None:
        if on_base.chosen is not None:
            settings["on_base_names"] = asdict(on_base.chosen)
        settings["reliability_on_base_names"] = [
            {"labels": labels, "confidence": round(stated, 4), "right": round(measured, 4)}
            for labels, stated, measured in on_base.reliability
        ]
    if rule.classifier is not None:
        settings["classifier"] = rule.classifier.described()
    if plan.table.levels:
        names = [*vocabulary.novel, *(plan.base_names if "base" in plan.table.levels else ())]
        for level, words in (("supers", vocabulary.supers), ("subs", vocabulary.subs)):
            settings[level] = {name: list(words[name]) for name in names}
    return settings | {
        "novel": list(vocabulary.novel),
        "base": "all others" if vocabulary.base is None else list(vocabulary.base),
        "distractors": list(vocabulary.distractors),
        "aliases": {name: list(words) for name, words in vocabulary.aliases.items()},
        "templates": list(plan.templates),
    }


def thresholds_in_words(thresholds: np.ndarray, novel: Sequence[str]) -> float | dict[str, float]:
    """Thresholds of novel names, float64 (names,), as one number where they are equal, else by name."""
    if (thresholds == thresholds[0]).all():
        return float(thresholds[0])
    return dict(zip(novel, thresholds.tolist(), strict=True))
