"""Base names in the place of novel ones: which ones, and what each rule sees of the others."""

import json

import pytest

from plgen_ddp.coco import CocoFile
from plgen_ddp.config import load_config
from plgen_ddp.errors import UserError
from plgen_ddp.label.vocabulary import Vocabulary, read_vocabulary
from plgen_ddp.report.stand_ins import choose_stand_ins, with_stand_ins


def coco_of(path, counts):
    """A JSON with this number of annotations of each category."""
    categories = [{"id": number, "name": name} for number, name in enumerate(counts, 1)]
    ids = [category["id"] for category in categories for _ in range(counts[category["name"]])]
    annotations = [{"id": number, "image_id": 1, "category_id": id} for number, id in enumerate(ids, 1)]
    path.write_text(json.dumps({"images": [], "categories": categories, "annotations": annotations}))
    return CocoFile(path, "label.annotations")


COUNTS = {"person": 90, "rare": 1, "cup": 5, "car": 40, "bus": 7, "unseen": 0, "dog": 12, "hat": 3}


@pytest.mark.parametrize(
    ("novel", "chosen"),
    [
        # By frequency: person, car, dog, bus, hat, rare; cup is novel and nobody annotated the unseen.
        (("cup",), ("bus",)),
        (("cup", "x"), ("car", "hat")),
        (("cup", "x", "y", "z", "w"), ("car", "bus", "rare")),
    ],
)
def test_they_are_spread_over_frequencies_and_at_most_half(tmp_path, novel, chosen):
    coco = coco_of(tmp_path / "a.json", COUNTS | dict.fromkeys("xyzw", 0))
    assert choose_stand_ins(coco, Vocabulary(novel=novel)) == chosen


def test_too_few_base_names_are_one_line(tmp_path):
    coco = coco_of(tmp_path / "a.json", {"cup": 5, "car": 40, "unseen": 0})
    with pytest.raises(UserError, match=r"^--stand-ins: .*a\.json has annotations of 1 base names"):
        choose_stand_ins(coco, Vocabulary(novel=("cup",)))


@pytest.mark.parametrize(
    ("words", "sees"),
    [
        (["label.class_score=novel"], ["sky"]),
        (["label.class_score=hierarchy"], ["sky"]),
        (["label.class_score=all"], ["sky", "cup"]),
        (["label.box_score=verified"], ["sky", "cup"]),
    ],
)
def test_the_true_novel_names_are_rivals_for_rules_that_look_at_all_names(tmp_path, words, sees):
    given = Vocabulary(
        novel=("cup",),
        distractors=("sky",),
        aliases={"cup": ("mug",), "sky": ("air",)},
        supers={"cup": ("vessel",), "car": ("vehicle",)},
        subs={"cup": ("teacup",), "dog": ("corgi",)},
    )
    coco = coco_of(tmp_path / "a.json", COUNTS)
    config = with_stand_ins(load_config("demo", words), coco, given, ("car", "hat"))
    split = read_vocabulary(config)
    assert split.novel == ("car", "hat") and list(split.distractors) == sees
    assert split.base == ("person", "rare", "bus", "unseen", "dog")
    assert (split.supers, split.subs) == ({"car": ("vehicle",)}, {"dog": ("corgi",)})
    assert split.aliases == {name: words for name, words in given.aliases.items() if name in sees}
