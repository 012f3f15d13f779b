"""The packaged hierarchies: enough words for each name, and no word that could mean another name."""

import re
from collections import Counter
from pathlib import Path

import pytest

from plgen_ddp.config import load_config
from plgen_ddp.label.vocabulary import read_vocabulary

VOCABULARIES = Path(__file__).parents[2] / "configs" / "vocabularies"

# (super, sub) words that each name has at least; of the super words, those that at most one other name may have.
FEWEST = {"coco_ovd_hierarchy": (10, 30, 3)}
FEWEST_ELSEWHERE = (1, 3, 0)

# The COCO categories that the OVD split leaves out. Photos show them too, so no word may mean them.
LEFT_OUT_OF_COCO_OVD = {
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "baseball bat",
    "baseball glove",
    "tennis racket",
    "wine glass",
    "hot dog",
    "potted plant",
    "dining table",
    "cell phone",
    "hair drier",
    "sports ball",
    "teddy bear",
}


def read(path):
    return read_vocabulary(load_config("coco_vlplm", [f"label.vocabulary={path}"]))


def spelling(word):
    """What two spellings of one word have in common: no case, spaces, hyphens or apostrophes."""
    return re.sub(r"[\s'-]", "", word.lower())


HIERARCHIES = {
    path.stem: vocabulary
    for path in sorted(VOCABULARIES.glob("*.yaml"))
    if (vocabulary := read(path)).supers or vocabulary.subs
}


@pytest.fixture(params=HIERARCHIES)
def stem(request):
    return request.param


@pytest.fixture
def hierarchy(stem):
    return HIERARCHIES[stem]


def names_of(hierarchy):
    return (*hierarchy.novel, *(hierarchy.base or ()))


def all_words(hierarchy):
    return [(name, word) for level in (hierarchy.supers, hierarchy.subs) for name in level for word in level[name]]


def test_coco_has_a_hierarchy_of_the_same_names_as_the_plain_split():
    plain, hierarchy = read(VOCABULARIES / "coco_ovd.yaml"), HIERARCHIES["coco_ovd_hierarchy"]
    assert (hierarchy.novel, hierarchy.base) == (plain.novel, plain.base)


def test_every_name_has_enough_words_and_as_many_as_the_others(stem, hierarchy):
    supers, subs, _ = FEWEST.get(stem, FEWEST_ELSEWHERE)
    for level, fewest in ((hierarchy.supers, supers), (hierarchy.subs, subs)):
        assert sorted(level) == sorted(names_of(hierarchy))
        few = {name: len(words) for name, words in level.items() if len(words) < fewest}
        assert not few
        # The largest of more probabilities is larger, so a longer list would be an advantage.
        if stem in FEWEST:
            assert len({len(words) for words in level.values()}) == 1


def test_words_are_lower_case_and_short(hierarchy):
    wrong = [word for _, word in all_words(hierarchy) if not re.fullmatch(r"[a-z0-9'-]+( [a-z0-9'-]+){0,3}", word)]
    assert not wrong


def test_a_name_has_no_word_twice_in_any_spelling(hierarchy):
    for name in names_of(hierarchy):
        spellings = Counter(spelling(word) for word in (*hierarchy.supers[name], *hierarchy.subs[name]))
        assert not [word for word, count in spellings.items() if count > 1], name


def test_a_sub_word_belongs_to_one_name_and_is_no_super_word(hierarchy):
    owners = Counter(spelling(word) for words in hierarchy.subs.values() for word in words)
    assert not [word for word, count in owners.items() if count > 1]
    assert not owners.keys() & {spelling(word) for words in hierarchy.supers.values() for word in words}


def test_no_word_is_a_name_or_contains_the_name_of_another(stem, hierarchy):
    names = {*names_of(hierarchy), *hierarchy.distractors}
    if stem.startswith("coco"):
        names |= LEFT_OUT_OF_COCO_OVD
    aliases = {name: {name, *hierarchy.aliases.get(name, ())} for name in names}
    spellings = {spelling(word) for words in aliases.values() for word in words}
    assert not [word for _, word in all_words(hierarchy) if spelling(word) in spellings]
    for name, word in all_words(hierarchy):
        spoken = f" {word.replace('-', ' ')} "
        others = {alias for other, words in aliases.items() if other != name for alias in words}
        assert not [other for other in others if f" {other} " in spoken], (name, word)


def test_every_name_has_super_words_of_its_own(stem, hierarchy):
    fewest = FEWEST.get(stem, FEWEST_ELSEWHERE)[2]
    sharing = Counter(word for words in hierarchy.supers.values() for word in words)
    for name, words in hierarchy.supers.items():
        assert sum(sharing[word] <= 2 for word in words) >= fewest, name
