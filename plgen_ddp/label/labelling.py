"""A labelling is a plan with its rule. Those of one pass over the store share words, and where they can, scores."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from plgen_ddp.label.base_annotations import BaseBoxes, read_base_boxes
from plgen_ddp.label.base_names import OnBaseNames
from plgen_ddp.label.embed_names import embed_plans
from plgen_ddp.label.imported_rule import imported_rule
from plgen_ddp.label.plan import LabelPlan
from plgen_ddp.label.rule import Rule
from plgen_ddp.manifest import Manifest

# The options of `label` that decide no score.
_OF_SUPPRESSION = ("box_threshold", "nms_iou", "suppress", "base_iou")
_OF_THRESHOLD = ("score_threshold", "threshold", "f_beta", "wanted_precision", "per_image", "per_name")
_OF_FILES = ("annotations", "allow_partial", "output", "text_embeddings", "drop_categories")

_NO_BASE = (np.empty((0, 4)), np.empty(0, np.int64))


@dataclass(frozen=True)
class Labelling:
    """A plan with its rule.

    Attributes:
        plan: what is labelled, and how.
        rule: before it learns from the store; `StorePass.prepare` returns it afterwards.
        score_key: labellings with the same one score all boxes alike.
        label_key: labellings with the same one differ at most in their thresholds.
        columns: where the rule's words are among those of all labellings, int64; None: they are all, in this order.
        base: base annotations, where the rule looks at them.
        text_embeddings: of the categories that get `text_emb`, float32 (d,) each, by category id.
        on_base: what base names say of the rule, where they are asked; None until `StorePass.prepare`.
    """

    plan: LabelPlan
    rule: Rule
    score_key: str
    label_key: str
    columns: np.ndarray | None
    base: BaseBoxes | None
    text_embeddings: dict[int, np.ndarray]
    on_base: OnBaseNames | None = None

    def cosines(self, cosine: np.ndarray) -> np.ndarray:
        """The columns of the rule's words, float64 (n, words). `take` keeps rows together, and with it sums' bits."""
        return cosine if self.columns is None else cosine.take(self.columns, axis=1)

    def base_of(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """The base annotations of an image, where the rule looks at them; see `BaseBoxes.of_image`."""
        return _NO_BASE if self.base is None else self.base.of_image(image_id)


def labellings_of(plans: Sequence[LabelPlan], manifest: Manifest) -> tuple[list[Labelling], np.ndarray]:
    """One labelling a plan, and the text embeddings of the words of all of them, float32 (words, d).

    Args:
        plans: of the same images.
        manifest: of the store.

    Raises:
        UserError: what `embed_plans` or `imported_rule` raises.
    """
    embedded = embed_plans(plans, manifest)
    rules, text_embeddings, columns = _rules(plans, manifest, [rows for rows, _ in embedded])
    base: dict[tuple[int, ...], BaseBoxes] = {}
    for one in plans:
        if _looks_at_base(one) and tuple(one.base_ids) not in base:
            base[tuple(one.base_ids)] = read_base_boxes(one.coco, one.base_ids)
    labellings = [
        Labelling(
            plan=one,
            rule=rule,
            score_key=_key(one, (*_OF_SUPPRESSION, *_OF_THRESHOLD, *_OF_FILES)),
            label_key=_key(one, (*_OF_THRESHOLD, *_OF_FILES)),
            columns=own,
            base=base.get(tuple(one.base_ids)) if _looks_at_base(one) else None,
            text_embeddings=of_categories,
        )
        for one, rule, own, (_, of_categories) in zip(plans, rules, columns, embedded, strict=True)
    ]
    return labellings, text_embeddings


def _rules(
    plans: Sequence[LabelPlan], manifest: Manifest, matrices: Sequence[np.ndarray]
) -> tuple[list[Rule], np.ndarray, list[np.ndarray | None]]:
    """The rule of each plan, the words of all rules, and where among them each rule's own are.

    Args:
        matrices: the text embeddings of each plan's table.
    """
    if manifest.vocabulary is not None:
        imported: list[Rule] = [imported_rule(one, manifest, manifest.vocabulary) for one in plans]
        return imported, np.empty((0, 0), np.float32), [None] * len(plans)
    rules = [
        Rule(one.config.label, one.table, matrix, manifest.similarity)
        for one, matrix in zip(plans, matrices, strict=True)
    ]
    return rules, *_distinct_rows(matrices)


def _distinct_rows(matrices: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Every distinct row of some matrices once, and where the rows of each are; None: all of them, in this order."""
    place: dict[bytes, int] = {}
    rows: list[np.ndarray] = []
    columns = []
    for matrix in matrices:
        for row in matrix:
            if place.setdefault(row.tobytes(), len(rows)) == len(rows):
                rows.append(row)
        columns.append(np.array([place[row.tobytes()] for row in matrix], np.int64))
    every = np.arange(len(rows))
    return np.stack(rows), [None if np.array_equal(own, every) else own for own in columns]


def _key(plan: LabelPlan, but: Sequence[str]) -> str:
    """What decides a plan's scores or labels: its names, and its options without those in `but`."""
    options = {name: value for name, value in asdict(plan.config.label).items() if name not in but}
    # Whether base names are scored too decides no score of a novel one, but a table has them or not.
    return repr((options, plan.table.words, plan.templates))


def _looks_at_base(plan: LabelPlan) -> bool:
    """Whether a rule needs base annotations: to suppress, to learn, or to choose its threshold."""
    options = plan.config.label
    suppresses = {"base_iou", "base_inside"} & set(options.suppress)
    return bool(suppresses) or options.learns_from_base
