"""Names: found in the JSON or named with what to write instead."""

import json
from pathlib import Path

import pytest

from plgen_ddp.coco import Category, CocoFile
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


def json_of(categories, tmp_path):
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"images": [], "categories": categories}))
    return CocoFile(path, "data.annotations")


def lvis_like(count=1203):
    """Categories with LVIS' keys: ids from 1 without gaps, names such as `car_(automobile)`, a frequency each."""
    return [
        {"id": number, "name": f"thing_{number}_(of_kind_{number % 7})", "frequency": "rcf"[number % 3]}
        for number in range(1, count + 1)
    ]


def chosen(vocabulary, coco):
    """The names that a vocabulary makes novel in a JSON, and the base ids."""
    found = read_vocabulary(load_config(CONFIG, [f"label.vocabulary={vocabulary}"])).of_json(coco)
    novel, base = found.category_ids(coco.categories())
    name_of = {category.id: category.name for category in coco.categories()}
    assert [name_of[one] for one in novel] == list(found.novel)
    return found.novel, base


def test_novel_where_takes_the_categories_with_a_value_and_base_is_the_rest(tmp_path):
    categories = lvis_like()
    coco = json_of(categories, tmp_path)
    novel, base = chosen("lvis_rare", coco)
    assert novel == tuple(row["name"] for row in categories if row["frequency"] == "r") and len(novel) == 401
    assert base == {row["id"] for row in categories if row["frequency"] != "r"}
    both, rest = chosen("{novel_where: {frequency: [c, r]}}", coco)
    assert len(both) == 802 and rest == {row["id"] for row in categories if row["frequency"] == "f"}
    assert chosen("{novel_where: {frequency: r, id: [3, 4, 6]}}", coco)[0] == (
        categories[2]["name"],
        categories[5]["name"],
    )


def test_every_key_of_the_json_can_be_asked_for_and_true_is_not_1(tmp_path):
    rows = [{"id": 1, "name": "cat", "k": True}, {"id": 2, "name": "dog", "k": 1}, {"id": 3, "name": "bus"}]
    coco = json_of(rows, tmp_path)
    assert chosen("{novel_where: {k: 1}}", coco) == (("dog",), {1, 3})
    assert chosen("{novel_where: {k: true}}", coco) == (("cat",), {2, 3})
    assert chosen("{novel_where: {k: true}, base: [bus], aliases: {cat: kitty}}", coco) == (("cat",), {3})


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ("{novel_where: {frequencies: r}}", "no category of .* has the key 'frequencies'"),
        ("{novel_where: {frequency: x}}", "no category has frequency 'x'; values there are 'c', 'f', 'r'"),
        ("{novel_where: {frequency: r, id: 4}}", "no category has all of"),
        ("{novel_where: {id: 4}, base: ['thing_4_(of_kind_4)']}", "given twice: thing_4"),
        ("{novel_where: {id: 4}, novel: [thing]}", "`novel` and `novel_where`; keep one"),
        ("{novel_where: r}", "`novel_where` maps a key"),
        ("{novel_where: {frequency: []}}", "`novel_where` maps a key"),
        ("{novel_where: {frequency: {a: r}}}", "`novel_where` maps a key"),
        (
            "{novel_where: {id: 4}, aliases: {thing_9: [word]}}",
            "1 of its names are not categories of the JSON: 'thing_9'",
        ),
    ],
)
def test_a_wrong_condition_says_what_is_wrong(tmp_path, vocabulary, message):
    with pytest.raises(UserError, match=message) as raised:
        chosen(vocabulary, json_of(lvis_like(9), tmp_path))
    assert "\n" not in str(raised.value)


def test_the_names_of_coco_in_its_json_and_in_the_splits_own(tmp_path):
    split, names = (
        read_vocabulary(load_config(CONFIG)),
        read_vocabulary(load_config(CONFIG, ["label.vocabulary=coco_80"])),
    )
    coco_80 = json_of([{"id": place, "name": name} for place, name in enumerate(names.novel, 1)], tmp_path)
    assert chosen("coco_80", coco_80) == (names.novel, set()) and len(set(names.novel)) == 80
    novel, base = chosen("coco_ovd", coco_80)
    assert (len(novel), len(base)) == (17, 48)
    _, others = chosen(f"[{', '.join(split.novel)}]", coco_80)
    assert len(others) == 63 and base < others
    own = [{"id": place, "name": name} for place, name in enumerate(names.novel, 1) if name in split.novel + split.base]
    coco_65 = json_of(own, tmp_path)
    assert len(own) == 65 and chosen("coco_ovd", coco_65) == (novel, base)
    assert chosen(f"[{', '.join(split.novel)}]", coco_65) == (novel, base)


def test_names_to_add_come_behind_the_largest_id(tmp_path):
    vocabulary = vocabulary_of("novel: [whale, cat, unicorn]\naliases: {whale: [blue whale]}", tmp_path)
    added = vocabulary.new_categories(CATEGORIES)
    assert added == [Category(10, "whale"), Category(11, "unicorn")]
    assert vocabulary.category_ids([*CATEGORIES, *added]) == ([10, 3, 11], {1, 7, 9})
    assert vocabulary.new_categories([]) == [Category(1, "whale"), Category(2, "cat"), Category(3, "unicorn")]
    with pytest.raises(UserError, match="'buss'; did you mean 'bus'"):
        misspelt = vocabulary_of("novel: [whale]\nbase: [buss]", tmp_path)
        misspelt.category_ids([*CATEGORIES, *misspelt.new_categories(CATEGORIES)])


def test_base_names_have_aliases_too(tmp_path):
    vocabulary = vocabulary_of("novel: [cat]\nbase: [dog]\naliases: {dog: hound}", tmp_path)
    assert vocabulary.words_of("dog") == ("hound",) and vocabulary.words_of("bus") == ("bus",)
