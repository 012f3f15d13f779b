"""Names: found in the JSON or named with what to write instead."""

from pathlib import Path

import pytest

from plgen_ddp.coco import Category
from plgen_ddp.config import load_config
from plgen_ddp.errors import UserError
from plgen_ddp.label.vocabulary import read_templates, read_vocabulary

CONFIG = Path(__file__).parents[2] / "configs" / "coco_vlplm.yaml"
CATEGORIES = [Category(3, "cat"), Category(1, "dog"), Category(7, "dining table"), Category(9, "bus")]


def vocabulary_of(text, tmp_path):
    path = tmp_path / "names.yaml"
    path.write_text(text)
    return read_vocabulary(load_config(CONFIG, [f"label.vocabulary={path}"]))


def test_the_coco_split_is_48_base_and_17_novel_names():
    vocabulary = read_vocabulary(load_config(CONFIG))
    assert (len(vocabulary.base), len(vocabulary.novel)) == (48, 17)
    assert vocabulary.novel[0] == "umbrella" and vocabulary.novel[-1] == "knife"


def test_novel_ids_follow_the_names_and_not_the_json(tmp_path):
    novel, base = vocabulary_of("novel: [bus, cat]\nbase: [dog]", tmp_path).category_ids(CATEGORIES)
    assert (novel, base) == ([9, 3], {1})


def test_without_base_every_other_category_is_base(tmp_path):
    config = load_config(CONFIG, ["label.vocabulary=[bus]"])
    assert read_vocabulary(config).category_ids(CATEGORIES) == ([9], {1, 3, 7})
    assert vocabulary_of("novel: [bus]\nbase: []", tmp_path).category_ids(CATEGORIES) == ([9], set())


@pytest.mark.parametrize("text", ["novel: [buss, cat]", "novel: [cat]\nbase: [buss]"])
def test_a_name_that_the_json_lacks_comes_with_the_nearest_one(tmp_path, text):
    with pytest.raises(UserError, match="'buss'; did you mean 'bus'"):
        vocabulary_of(text, tmp_path).category_ids(CATEGORIES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("novel: [cat, dog, cat]", "given twice: cat"),
        ("novel: [cat]\nbase: [cat]", "given twice: cat"),
        ("novel: [cat]\ndistractors: [cat]", "given twice: cat"),
        ("novel: []", "no novel name"),
        ("base: [cat]", "no novel name"),
        ("novell: [cat]", "unknown key 'novell'; did you mean 'novel'"),
        ("novel: cat", "novel must be a list"),
        ("novel: [cat, no]", "quote a name"),
        ("novel: [cat]\nbase: []\naliases: {dog: [hound]}", "aliases for 'dog', which is no novel, base or distractor"),
        ("3", "not valid YAML|expected a file"),
    ],
)
def test_a_wrong_vocabulary_says_what_is_wrong(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        vocabulary_of(text, tmp_path)


def test_super_and_sub_words_are_read_for_novel_and_base_names(tmp_path):
    hierarchy = "supers: {cat: [pet, animal], dog: [animal]}\nsubs: {cat: [kitten], dog: [hound, pug]}"
    vocabulary = vocabulary_of(f"novel: [cat]\nbase: [dog]\n{hierarchy}", tmp_path)
    assert vocabulary.supers == {"cat": ("pet", "animal"), "dog": ("animal",)}
    assert vocabulary.subs == {"cat": ("kitten",), "dog": ("hound", "pug")}
    plain = vocabulary_of("novel: [cat]\nsubs:", tmp_path)
    assert (plain.supers, plain.subs) == ({}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("supers: [animal]", "`supers` maps a name to a list of words"),
        ("subs: {cat: kitten}", "subs of cat must be a list"),
        ("subs: {cta: [kitten]}", "subs of 'cta', which is no novel or base name; did you mean 'cat'"),
        ("supers: {cat: [pet, animal, pet]}", "supers of 'cat' repeat pet"),
        ("subs: {dog: [puppy, puppy]}", "subs of 'dog' repeat puppy"),
        ("subs: {cat: [kitten], dog: [puppy, kitten]}", "'kitten' is in the subs of 'cat' and 'dog'"),
        ("supers: {cat: [dog]}", "supers of 'cat' contain dog, itself a name"),
        ("subs: {dog: [cat]}", "subs of 'dog' contain cat, itself a name"),
        ("subs: {cat: [grass]}", "subs of 'cat' contain grass, itself a name"),
    ],
)
def test_a_wrong_hierarchy_says_what_is_wrong(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as raised:
        vocabulary_of(f"novel: [cat]\nbase: [dog]\ndistractors: [grass]\n{text}", tmp_path)
    assert "\n" not in str(raised.value)


def test_without_base_the_names_of_a_hierarchy_are_categories_of_the_json(tmp_path):
    hierarchy = "novel: [cat]\nsupers: {{cat: [animal], {0}: [vehicle]}}\nsubs: {{cat: [kitten], {0}: [minibus]}}"
    assert vocabulary_of(hierarchy.format("bus"), tmp_path).category_ids(CATEGORIES) == ([3], {1, 7, 9})
    with pytest.raises(UserError, match=r"1 of its names .* 'buss'; did you mean 'bus'"):
        vocabulary_of(hierarchy.format("buss"), tmp_path).category_ids(CATEGORIES)


def test_the_published_templates_are_63():
    templates = read_templates(load_config(CONFIG))
    assert len(templates) == 63
    assert templates[0] == "There is {article} {} in the scene."


@pytest.mark.parametrize("template", ["a photo.", "a photo of {name}.", "a photo of {", "{} and {}"])
def test_a_template_without_exactly_a_place_for_the_name_is_refused(template):
    with pytest.raises(UserError, match="must hold"):
        read_templates(load_config(CONFIG, [f"label.templates=['{template}']"]))
