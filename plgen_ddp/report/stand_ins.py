"""Base names as stand-ins for novel ones: the same labelling where nobody annotated the novel names.

Some base names play the novel ones. The rule learns from the other base names alone: it never sees an annotation of a
name that is not base. The stand-ins' own annotations then are the ground truth.
"""

from collections import Counter
from dataclasses import replace

from plgen_ddp.coco import CocoFile
from plgen_ddp.config import Config
from plgen_ddp.errors import UserError
from plgen_ddp.label.vocabulary import Vocabulary


def choose_stand_ins(coco: CocoFile, vocabulary: Vocabulary) -> tuple[str, ...]:
    """As many base names as there are novel ones, at most half of them, spread evenly over how frequent they are.

    Raises:
        UserError: fewer than two base names have annotations.
    """
    categories = coco.categories()
    _, base_ids = vocabulary.category_ids(categories)
    counts = Counter(key.category_id for key in coco.annotation_keys())
    base = [category for category in categories if category.id in base_ids and counts[category.id]]
    if len(base) < 2:
        raise UserError(f"--stand-ins: {coco.path} has annotations of {len(base)} base names; it takes two or more")
    base.sort(key=lambda category: -counts[category.id])
    wanted = min(len(vocabulary.novel), len(base) // 2)
    return tuple(base[(2 * place + 1) * len(base) // (2 * wanted)].name for place in range(wanted))


def with_stand_ins(config: Config, coco: CocoFile, vocabulary: Vocabulary, stand_ins: tuple[str, ...]) -> Config:
    """The configuration with the stand-ins as its novel names, and the other base names as its base.

    The true novel names are rivals for a rule that looks at all names, which then sees as many as it would; other rules
    do not see them.
    """
    categories = coco.categories()
    _, base_ids = vocabulary.category_ids(categories)
    base = [category.name for category in categories if category.id in base_ids and category.name not in stand_ins]
    rule = config.label
    looks_at_all = rule.class_score == "all" or rule.box_score == "verified"
    distractors = [*vocabulary.distractors, *(vocabulary.novel if looks_at_all else ())]
    named = {*stand_ins, *base}

    def of(words: dict[str, tuple[str, ...]], names: set[str]) -> dict[str, list[str]]:
        return {name: list(own) for name, own in words.items() if name in names}

    split = {
        "novel": list(stand_ins),
        "base": base,
        "distractors": distractors,
        "aliases": of(vocabulary.aliases, {*named, *distractors}),
        "supers": of(vocabulary.supers, named),
        "subs": of(vocabulary.subs, named),
    }
    return replace(config, label=replace(rule, vocabulary=split))
