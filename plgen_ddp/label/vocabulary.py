"""Class names: the novel ones to score against, the base ones whose annotations stay, and the prompt templates."""

import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from yaml import YAMLError

from plgen_ddp.coco import Category, CocoFile
from plgen_ddp.config import Config
from plgen_ddp.errors import UserError, one_line, suggestion
from plgen_ddp.options import option_value
from plgen_ddp.yaml_text import load_yaml, reason

_LARGEST_ID = 2**63 - 1


@dataclass(frozen=True)
class Vocabulary:
    """The names of one labelling.

    Attributes:
        novel: names to score, each a category of the JSON or one to add to it. Empty until `of_json` where
            `novel_where` names them.
        base: categories whose annotations stay; None: all that are not novel.
        distractors: names that are scored and never become a label; they need no category.
        aliases: words that replace a name in the prompts; several are averaged.
        novel_where: values by key of the JSON's categories; the novel names are the categories that have, under each
            key, one of its values.
        supers, subs: wider words of a novel or base name (dog: animal, pet) and narrower ones (dog: corgi, husky), for
            the hierarchy rule. Names may share super words; a sub word belongs to one name. Not every name needs them.
    """

    novel: tuple[str, ...]
    base: tuple[str, ...] | None = None
    distractors: tuple[str, ...] = ()
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    novel_where: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    supers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    subs: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def words_of(self, name: str) -> tuple[str, ...]:
        """The words in the prompts of a name."""
        return self.aliases.get(name, (name,))

    def of_json(self, coco: CocoFile, key: str = "label.vocabulary") -> "Vocabulary":
        """The vocabulary with the novel names that `novel_where` means in a JSON, in the JSON's order.

        Raises:
            UserError: no category has the key or one of its values, or a novel name is a base name too.
        """
        if not self.novel_where:
            return self
        categories = coco.categories()
        chosen = dict.fromkeys(category.name for category in categories)
        for name, wanted in self.novel_where.items():
            values = coco.category_values(name)
            present = [value for value in values if value is not None]
            if not present:
                raise UserError(f"{key}: novel_where: no category of {coco.path} has the key {name!r}")
            kept, known = _identities(wanted), _identities(present)
            for one in wanted:
                if not _identities([one]) <= known:
                    shown = ", ".join(map(repr, list(dict.fromkeys(map(str, present)))[:10]))
                    raise UserError(f"{key}: novel_where: no category has {name} {one!r}; values there are {shown}")
            for category, value in zip(categories, values, strict=True):
                if not _identities([value]) & kept:
                    chosen.pop(category.name, None)
        if not chosen:
            raise UserError(f"{key}: novel_where: no category has all of {self.novel_where}")
        _check_names(found := replace(self, novel=tuple(chosen), novel_where={}), key)
        return found

    def new_categories(self, categories: Sequence[Category]) -> list[Category]:
        """Categories for the novel names that no category has, with ids behind the largest.

        Raises:
            UserError: the largest is so large that none are left.
        """
        known = {category.name for category in categories}
        first = max((category.id for category in categories), default=0) + 1
        new = [Category(first + n, name) for n, name in enumerate(name for name in self.novel if name not in known)]
        if new and new[-1].id > _LARGEST_ID:
            raise UserError(
                f"label.add_categories: the JSON has category id {first - 1}, and ids end at {_LARGEST_ID}; give that "
                "category a smaller one"
            )
        return new

    def category_ids(self, categories: Sequence[Category], key: str = "label.vocabulary") -> tuple[list[int], set[int]]:
        """(ids of the novel names in their order, ids of the base categories).

        Raises:
            UserError: a name that no category has, with the nearest that one has.
        """
        assert not self.novel_where, "`of_json` comes first"
        id_of = {category.name: category.id for category in categories}
        aliased = [name for name in self.aliases if name not in set(self.distractors)]
        named = dict.fromkeys((*self.novel, *(self.base or ()), *self.supers, *self.subs, *aliased))
        absent = [name for name in named if name not in id_of]
        if absent:
            hints = ", ".join(f"{name!r}{suggestion(name, id_of)}" for name in absent[:5])
            raise UserError(f"{key}: {len(absent)} of its names are not categories of the JSON: {hints}")
        novel = [id_of[name] for name in self.novel]
        base = set(id_of.values()) - set(novel) if self.base is None else {id_of[name] for name in self.base}
        return novel, base


def read_vocabulary(config: object, key: str = "label.vocabulary") -> Vocabulary:
    """The vocabulary that option `key` names or lists.

    Raises:
        UserError: unreadable, an unknown key, no novel name, a name twice, or super and sub words that are repeated,
            are names themselves or belong to no name.
    """
    given = option_value(config, key)
    if isinstance(given, str):
        given = read_yaml(Path(given), key)
    if isinstance(given, (list, tuple)):
        given = {"novel": given}
    if not isinstance(given, dict):
        raise UserError(f"{key}: expected a file, a list of names, or a mapping with `novel` or `novel_where`")
    known = ("novel", "novel_where", "base", "distractors", "aliases", "supers", "subs")
    for name in given:
        if name not in known:
            raise UserError(f"{key}: unknown key {name!r}{suggestion(str(name), known)}")
    aliases = given.get("aliases") or {}
    if not isinstance(aliases, dict):
        raise UserError(f"{key}: `aliases` maps a name to a word or a list of words")
    vocabulary = Vocabulary(
        novel=_names(given.get("novel") or (), "novel", key),
        base=None if given.get("base") is None else _names(given["base"], "base", key),
        distractors=_names(given.get("distractors") or (), "distractors", key),
        aliases={
            str(name): _names([words] if isinstance(words, str) else words, f"aliases of {name}", key)
            for name, words in aliases.items()
        },
        novel_where=_conditions(given.get("novel_where") or {}, key),
        supers=_level(given, "supers", key),
        subs=_level(given, "subs", key),
    )
    if vocabulary.novel and vocabulary.novel_where:
        raise UserError(f"{key}: it has `novel` and `novel_where`; keep one")
    if not vocabulary.novel and not vocabulary.novel_where:
        raise UserError(f"{key}: it has no novel name")
    _check_names(vocabulary, key)
    return vocabulary


def read_templates(config: Config) -> tuple[str, ...]:
    """The prompt templates that `label.templates` names or lists.

    Raises:
        UserError: unreadable, or a template without a place for the name.
    """
    given = config.label.templates
    if isinstance(given, str):
        path = Path(given)
        try:
            given = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"label.templates: cannot read {path}: {one_line(error)}") from None
    if not isinstance(given, (list, tuple)):
        raise UserError("label.templates: expected a text file or a list of templates")
    templates = tuple(map(str, given))
    if not templates:
        raise UserError("label.templates: it has no template")
    for template in templates:
        if not _is_template(template):
            raise UserError(
                f"label.templates: {template!r} must hold {{}} for the name and may hold {{article}}, no other"
            )
    return templates


def _conditions(given: Any, key: str) -> dict[str, tuple[Any, ...]]:
    """`novel_where`: the wanted values of each key, one or a list of them."""
    found = {}
    for name, values in given.items() if isinstance(given, dict) else [("", None)]:
        values = values if isinstance(values, (list, tuple)) else [values]
        if not values or not all(isinstance(value, (str, int, float)) for value in values):
            raise UserError(f"{key}: `novel_where` maps a key of the JSON's categories to a value or a list of values")
        found[str(name)] = tuple(values)
    return found


def _is_template(text: str) -> bool:
    """Whether the text has one place for the name and none but that and the article's.

    A width in a place, such as {:>1000000000}, would make a prompt of that length.
    """
    try:
        places = [place[1:] for place in string.Formatter().parse(text) if place[1] is not None]
    except ValueError:
        return False
    plain = all(name in ("", "article") and not width and not conversion for name, width, conversion in places)
    return plain and sum(name == "" for name, *_ in places) == 1


def _identities(values: Iterable[Any]) -> set[tuple[bool, Any]]:
    """The values as keys that compare as in JSON: true is not 1. Lists and objects are never a wanted value."""
    return {(isinstance(value, bool), value) for value in values if isinstance(value, (str, int, float))}


def _level(given: dict[Any, Any], level: str, key: str) -> dict[str, tuple[str, ...]]:
    """The words of each name at one level of the hierarchy, `supers` or `subs`."""
    words = given.get(level) or {}
    if not isinstance(words, dict):
        raise UserError(f"{key}: `{level}` maps a name to a list of words")
    return {str(name): _names(own, f"{level} of {name}", key) for name, own in words.items()}


def _check_names(vocabulary: Vocabulary, key: str) -> None:
    """Names given twice, aliases of no name, and mistakes in a hierarchy."""
    scored = [*vocabulary.novel, *vocabulary.distractors]
    for kind, names in (("", [*vocabulary.novel, *(vocabulary.base or ())]), ("scored ", scored)):
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise UserError(f"{key}: {kind}name given twice: {', '.join(twice)}")
    if vocabulary.base is not None and not vocabulary.novel_where:
        known = dict.fromkeys([*scored, *vocabulary.base])
        for name in vocabulary.aliases:
            if name not in known:
                what = f"{key}: aliases for {name!r}, which is no novel, base or distractor name"
                raise UserError(what + suggestion(name, known))
    _check_hierarchy(vocabulary, key)


def _check_hierarchy(vocabulary: Vocabulary, key: str) -> None:
    names = dict.fromkeys((*vocabulary.novel, *(vocabulary.base or ())))
    for level, words_of in (("supers", vocabulary.supers), ("subs", vocabulary.subs)):
        others = {*names, *words_of, *vocabulary.distractors}
        for name, words in words_of.items():
            what = f"{key}: {level} of {name!r}"
            # Without `base`, any other category of the JSON may be meant; `category_ids` checks that it is one.
            if vocabulary.base is not None and not vocabulary.novel_where and name not in names:
                raise UserError(f"{what}, which is no novel or base name{suggestion(name, names)}")
            twice = sorted(word for word, count in Counter(words).items() if count > 1)
            if twice:
                raise UserError(f"{what} repeat {', '.join(twice)}")
            taken = sorted(others.intersection(words) - {name})
            if taken:
                raise UserError(f"{what} contain {', '.join(taken)}, itself a name; remove it there")
    owner: dict[str, str] = {}
    for name, words in vocabulary.subs.items():
        for word in words:
            if owner.setdefault(word, name) != name:
                raise UserError(f"{key}: {word!r} is in the subs of {owner[word]!r} and {name!r}; keep one")


def _names(given: Any, what: str, key: str) -> tuple[str, ...]:
    if not isinstance(given, (list, tuple)) or not all(isinstance(name, str) and name.strip() for name in given):
        raise UserError(f"{key}: {what} must be a list of names (quote a name such as 'no' or '1')")
    return tuple(given)


def read_yaml(path: Path, key: str) -> Any:
    """The content of a YAML file that option `key` names, as plain values.

    Raises:
        UserError: it is not valid YAML.
    """
    try:
        return load_yaml(path)
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{key}: {path} is not valid YAML: {reason(error)}") from None
