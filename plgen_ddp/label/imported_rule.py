"""The labelling rule over imported scores: the store has named the boxes already, and cannot name them anew."""

from dataclasses import dataclass, field

import numpy as np

from plgen_ddp.errors import UserError
from plgen_ddp.label.import_scores import fixed_vocabulary
from plgen_ddp.label.plan import LabelPlan
from plgen_ddp.label.rule import Group, Rule
from plgen_ddp.manifest import Manifest
from plgen_ddp.records import FixedVocabulary, Regions


@dataclass(frozen=True)
class ImportedRule(Rule):
    """A rule that takes the name of a box and its probability from the store.

    Attributes:
        place: int64, of each name of the store among the novel names of the labelling.
    """

    place: np.ndarray = field(kw_only=True)

    def cosines(self, regions: Regions) -> np.ndarray:
        """Nothing, float64 (n, 0): there are no embeddings."""
        return np.empty((len(regions.objectness), 0))

    def _names(self, regions: Regions, cosine: np.ndarray, group: Group) -> tuple[np.ndarray, np.ndarray]:
        assert group == "novel", "imported_rule has refused what scores base names"
        assert regions.top_name is not None and regions.top_score is not None, "a store of imported scores has them"
        return self.place[regions.top_name], regions.top_score


def imported_rule(plan: LabelPlan, manifest: Manifest, fixed: FixedVocabulary) -> ImportedRule:
    """The rule of a labelling from imported scores.

    Args:
        fixed: the manifest's.

    Raises:
        UserError: the labelling asks what such scores do not say: about other names, prompts or temperatures, by a
            rule that looks at other names, embeddings or evidence.
    """
    _check_rule(plan, manifest)
    _check_names(fixed_vocabulary(plan.vocabulary, plan.templates), fixed)
    place_of = {name: place for place, name in enumerate(plan.vocabulary.novel)}
    place = np.array([place_of[name] for name in fixed.names], np.int64)
    nothing = np.empty((len(plan.table.words), 0), np.float32)
    return ImportedRule(plan.config.label, plan.table, nothing, manifest.similarity, place=place)


def _check_rule(plan: LabelPlan, manifest: Manifest) -> None:
    options, temperature = plan.config.label, manifest.similarity.temperature
    only_top = "hold the likeliest name of each box and no embeddings"
    for name, allowed, reason in (
        ("class_score", ("novel",), only_top),
        ("box_score", ("objectness", "none", "learned"), "have no evidence about a box but its objectness"),
        ("temperature", (None, temperature), f"were computed at {temperature:g}, and {only_top}"),
    ):
        if (value := getattr(options, name)) not in allowed:
            raise _refused(f"label.{name} is {value}", reason, f"label.{name}={_shown(allowed)}")
    if options.threshold in ("f_beta_base", "precision"):
        reason = "say nothing about base names"
        raise _refused(f"label.threshold is {options.threshold}", reason, "label.threshold=fixed")


def _check_names(asked: FixedVocabulary, fixed: FixedVocabulary) -> None:
    for what, wanted, stored in (
        ("novel", asked.names, fixed.names),
        ("distractors", asked.distractors, fixed.distractors),
    ):
        new, gone = sorted(set(wanted) - set(stored)), sorted(set(stored) - set(wanted))
        if new or gone:
            changes = [f"{title} {', '.join(names[:5])}" for title, names in (("has", new), ("lacks", gone)) if names]
            raise _refused(
                f"label.vocabulary: its {what} {' and '.join(changes)}",
                f"were computed for {len(stored)} {what}: {', '.join(stored[:20]) or 'none'}",
                "the same names",
            )
    if asked.aliases != fixed.aliases:
        raise _refused("label.vocabulary: its aliases differ", "were computed with others", "those of the import")
    if asked.templates != fixed.templates:
        raise _refused("label.templates differ", "were computed with other prompts", "those of the import")


def _refused(what: str, reason: str, fix: str) -> UserError:
    return UserError(f"{what}, and the imported scores {reason}; use {fix}, or score the images with launch/score.py")


def _shown(allowed: tuple[object, ...]) -> str:
    return " or ".join("null" if value is None else str(value) for value in allowed)
