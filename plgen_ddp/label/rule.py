"""One labelling rule, ready to score the boxes of images: names, class score, box score, fusion.

The families of the literature are choices in `label.class_score`, `label.box_score` and `label.fusion`, not branches of
the code. A rule scores one group of names, the novel ones. To choose thresholds and to train classifiers it scores the
base names in the same way, as if they were the novel ones.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from plgen_ddp.config import LabelConfig
from plgen_ddp.errors import UserError
from plgen_ddp.label.box_scores import COLUMNS, column_score, fuse
from plgen_ddp.label.class_scores import best_names, confirmed, cosines, hierarchical, probabilities
from plgen_ddp.label.retrieval import NameClassifiers
from plgen_ddp.label.stacked import StackedBoxes
from plgen_ddp.label.verified import Classifier, NamedBoxes, box_features, pair_features
from plgen_ddp.label.vocabulary import Vocabulary
from plgen_ddp.records import Regions, Similarity

Group = Literal["novel", "base"]


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a group's hierarchy. columns: of its words in the table. owner: int64, whose word each is."""

    columns: slice
    owner: np.ndarray


@dataclass(frozen=True)
class NameTable:
    """The text embeddings that a rule looks at, in one matrix.

    Attributes:
        words: those in the prompts of each row.
        novel, base, others: how many rows of each there are, in this order; others are distractors and background.
        levels: of the groups that the hierarchy rule scores, (super level, sub level).
    """

    words: list[tuple[str, ...]]
    novel: int
    base: int
    others: int
    levels: dict[Group, tuple[Level, Level]]

    def asked(self, group: Group) -> np.ndarray:
        """The rows of a group's names."""
        return np.arange(self.novel) if group == "novel" else self.novel + np.arange(self.base)

    def all_names(self, group: Group) -> np.ndarray:
        """The rows of all names, those of the group first."""
        named = self.novel + self.base
        others = self.novel + np.arange(self.base) if group == "novel" else np.arange(self.novel)
        return np.concatenate([self.asked(group), others, named + np.arange(self.others)])


def name_table(vocabulary: Vocabulary, base_names: Sequence[str], options: LabelConfig) -> NameTable:
    """The names that a rule needs: novel ones and distractors, and for most rules base names and hierarchies.

    Args:
        base_names: of the JSON's base categories, in their order.

    Raises:
        UserError: the rule looks at super and sub words, and a name has none.
    """

    def words_of(names: Sequence[str]) -> list[tuple[str, ...]]:
        return [vocabulary.words_of(name) for name in names]

    words = words_of(vocabulary.novel)
    base = words_of(base_names) if needs_base_names(options) else []
    words += base + words_of(vocabulary.distractors)
    levels: dict[Group, tuple[Level, Level]] = {}
    groups: dict[Group, Sequence[str]] = {}
    if uses_hierarchy(options):
        groups["novel"] = vocabulary.novel
        if options.asks_base_names and base_names:  # else the rule scores no base name
            groups["base"] = base_names
    elif options.box_score == "verified" and base_names and _has_hierarchy(vocabulary, base_names):
        groups |= {"novel": vocabulary.novel, "base": base_names}
    for group, names in groups.items():
        _check_levels(vocabulary, group, names, options)
        found = []
        for level in (vocabulary.supers, vocabulary.subs):
            start = len(words)
            owner = np.repeat(np.arange(len(names)), [len(level[name]) for name in names])
            words += [(word,) for name in names for word in level[name]]
            found.append(Level(slice(start, len(words)), owner))
        levels[group] = (found[0], found[1])
    return NameTable(words, len(vocabulary.novel), len(base), len(vocabulary.distractors), levels)


def needs_base_names(options: LabelConfig) -> bool:
    """Whether a rule looks at base names at all; the recipes do not."""
    scores_them = options.box_score == "verified" or options.asks_base_names
    return scores_them or options.class_score in ("all", "retrieved")


def uses_hierarchy(options: LabelConfig) -> bool:
    """Whether a rule needs super and sub words; `verified` looks at them where there are some."""
    return options.class_score == "hierarchy" and options.box_score != "verified"


def _has_hierarchy(vocabulary: Vocabulary, base_names: Sequence[str]) -> bool:
    """Whether every novel and base name has super and sub words."""
    names = (*vocabulary.novel, *base_names)
    return all(level.get(name) for name in names for level in (vocabulary.supers, vocabulary.subs))


def scores_base_names(options: LabelConfig) -> bool:
    """Whether a rule can label base names as if they were novel.

    A hierarchy of theirs is only read to choose, and `retrieved` looks at embeddings, which a sample does not hold.
    """
    if options.box_score == "verified":
        return True
    readable = options.asks_base_names or not uses_hierarchy(options)
    return needs_base_names(options) and readable and options.class_score != "retrieved"


def _check_levels(vocabulary: Vocabulary, group: Group, names: Sequence[str], options: LabelConfig) -> None:
    for title, level in (("super", vocabulary.supers), ("sub", vocabulary.subs)):
        lacking = [name for name in names if not level.get(name)]
        if lacking:
            shown = ", ".join(map(repr, lacking[:5])) + (", ..." if len(lacking) > 5 else "")
            fix = "add them to label.vocabulary or use another class_score"
            if group == "base":
                fix += f" (label.threshold {options.threshold} labels base names too; fixed needs none of theirs)"
            raise UserError(
                f"label.class_score is hierarchy, and {len(lacking)} of {len(names)} {group} names have no {title} "
                f"words: {shown}; {fix}"
            )


@dataclass(frozen=True, slots=True)
class ScoredBoxes:
    """The boxes of some images, (n,) each: one name int64, an index into the group's names, and its scores float64."""

    name: np.ndarray
    class_score: np.ndarray
    box_score: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Rule:
    """A labelling rule over a table of names.

    Attributes:
        text_embeddings: float32 (words of the table, d), unit length.
        cosine_mean, cosine_deviation: float64, over a sample of the store, of each name of the table; for
            `label.box_score` verified; None until measured.
        classifier: for `label.box_score` learned and verified; None until trained.
        name_classifiers: for `label.class_score` retrieved; None until trained.
    """

    options: LabelConfig
    table: NameTable
    text_embeddings: np.ndarray
    similarity: Similarity
    cosine_mean: np.ndarray | None = None
    cosine_deviation: np.ndarray | None = None
    classifier: Classifier | None = None
    name_classifiers: NameClassifiers | None = None

    def __post_init__(self) -> None:
        if self.options.temperature is not None:
            fixed = replace(self.similarity, temperature=self.options.temperature)
            object.__setattr__(self, "similarity", fixed)

    def cosines(self, regions: Regions) -> np.ndarray:
        """Cosines float64 (n, words) of regions with the words of the table."""
        return cosines(regions.embeddings, self.text_embeddings)

    def score(
        self, regions: Regions, cosine: np.ndarray, extent: tuple[int, int], group: Group = "novel"
    ) -> ScoredBoxes:
        """A name and its scores for each box of an image; see `score_images`. extent: its (width, height), pixels."""
        return self.score_images(StackedBoxes.of_image(regions, extent), cosine, group)

    def score_images(self, boxes: StackedBoxes, cosine: np.ndarray, group: Group = "novel") -> ScoredBoxes:
        """A name and its scores for each box of some images.

        Args:
            boxes: all boxes of these images, unless `scores_boxes_alone`.
            cosine: from `cosines`.
            group: the names that are asked for.
        """
        options = self.options
        if options.box_score == "verified":
            named = self.named(cosine, group)
            rows, score = named.likely(), np.zeros(len(named.name))
            score[rows] = self._classify(pair_features(boxes, named, rows), boxes.image_ids[boxes.place[rows]])
            return ScoredBoxes(named.name, named.probability, score, score)
        name, class_score = self._names(boxes.regions, cosine, group)
        box_score = self.box_score(boxes)
        fused = fuse(class_score, box_score, options.fusion, options.objectness_weight)
        return ScoredBoxes(name, class_score, box_score, fused)

    def box_score(self, boxes: StackedBoxes) -> np.ndarray:
        """How good each box is, whatever its name, float64 (n,); not for `label.box_score` verified."""
        kind = self.options.box_score
        if kind == "none":
            return np.ones(len(boxes.place))
        if kind in COLUMNS:
            return column_score(boxes.regions, kind)
        return self._classify(box_features(boxes), boxes.image_ids[boxes.place])

    @property
    def scores_boxes_alone(self) -> bool:
        """Whether a box's score depends on that box alone, and not on the other boxes of its image."""
        return not self.options.trains_classifier

    def columns(self, group: Group) -> np.ndarray:
        """The rows of the table that share a softmax when a group's names are scored, those names first."""
        if self.options.class_score == "all":
            return self.table.all_names(group)
        named = self.table.novel + self.table.base
        return np.concatenate([self.table.asked(group), named + np.arange(self.table.others)])

    def named(self, cosine: np.ndarray, group: Group) -> NamedBoxes:
        """The likeliest of a group's names for each box, among all names; what `verified` looks at."""
        if len(cosine) == 1:  # a box alone has the bits that it has among others, see `_names`
            return self.named(np.repeat(cosine, 2, axis=0), group).first()
        rows = self.table.all_names(group)
        asked = len(self.table.asked(group))
        probability = probabilities(cosine[:, rows], self.similarity)
        name, best = best_names(probability, asked)
        share = best / np.maximum(probability.sum(axis=1), np.finfo(np.float64).tiny)
        of_group, levels = probability[:, :asked].sum(axis=1), self._levels(cosine, probability, name, group)
        probability[np.arange(len(name)), name] = 0
        assert self.cosine_mean is not None and self.cosine_deviation is not None, "measured before the first image"
        row = rows[name]
        typical = (cosine[np.arange(len(row)), row] - self.cosine_mean[row]) / self.cosine_deviation[row]
        return NamedBoxes(name, best, share, probability.max(axis=1), of_group, typical, levels)

    def _levels(
        self, cosine: np.ndarray, probability: np.ndarray, name: np.ndarray, group: Group
    ) -> tuple[np.ndarray, ...]:
        """How the super and the sub level confirm each box's name among all names, where they have words."""
        if not self.table.levels:
            return ()
        names = self.table.novel + self.table.base
        other: Group = "base" if group == "novel" else "novel"
        found = []
        for own, others in zip(self.table.levels[group], self.table.levels[other], strict=True):
            words = np.concatenate([cosine[:, own.columns], cosine[:, others.columns]], axis=1)
            owner = np.concatenate([own.owner, others.owner + len(self.table.asked(group))])
            level = confirmed(probability[:, :names], probabilities(words, self.similarity), owner)
            found.append(level[np.arange(len(name)), name])
        return tuple(found)

    def _names(self, regions: Regions, cosine: np.ndarray, group: Group) -> tuple[np.ndarray, np.ndarray]:
        """The name of each box and its probability, by `label.class_score`."""
        asked = self.table.asked(group)
        if self.options.class_score == "retrieved":
            assert self.name_classifiers is not None, "trained before the first image is labelled"
            return best_names(self.name_classifiers(regions.embeddings)[:, asked], len(asked))
        # NumPy adds up a single row in another order than several. With a second row, a box alone has the bits that it
        # has among others.
        rows = cosine if len(cosine) != 1 else np.repeat(cosine, 2, axis=0)
        probability = probabilities(rows[:, self.columns(group)], self.similarity)[: len(cosine)]
        if self.options.class_score == "all":
            name, best = best_names(probability, len(asked))
            if self.options.require_novel:
                best = np.where(probability.argmax(axis=1) < len(asked), best, 0)
            return name, best
        if self.options.class_score == "hierarchy":
            upper, lower = self.table.levels[group]
            words = [probabilities(cosine[:, level.columns], self.similarity) for level in (upper, lower)]
            probability = hierarchical(probability[:, : len(asked)], words[0], upper.owner, words[1], lower.owner)
        return best_names(probability, len(asked))

    @functools.cached_property
    def novel_texts(self) -> np.ndarray:
        """The text embeddings of `columns("novel")`, float32 (d, words): a copy, made once, as a product reads it."""
        return np.ascontiguousarray(self.text_embeddings[self.columns("novel")].T)

    def _classify(self, features: dict[str, np.ndarray], image_ids: np.ndarray) -> np.ndarray:
        assert self.classifier is not None, "trained before the first image is labelled"
        return self.classifier(features, image_ids)
