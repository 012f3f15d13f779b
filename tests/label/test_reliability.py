"""What the output says of its confidence: the same rule on base names, whose objects are known."""

import json

import pytest
from commands import call
from small_datasets import SCENES_JSON

from plgen_ddp.demo.scenes import BASE

CHOOSES = "label.threshold=f_beta_base"


@pytest.fixture(scope="module")
def settings_of(demo_run, tmp_path_factory):
    """The `label` part of `info` after a labelling of the demo's store."""
    output = demo_run.copy(tmp_path_factory.mktemp("reliability") / "out")

    def label(*rule):
        path = output / "labels.json"
        call("label", *demo_run.words, f"run.output={output}", *rule, f"label.output={path}")
        return json.loads(path.read_text())["info"]["plgen_ddp"]["label"]

    return label


def off_by(rows):
    return sum(abs(row["confidence"] - row["right"]) for row in rows) / len(rows)


def test_verified_says_what_it_is_and_a_recipes_score_does_not(settings_of):
    verified = settings_of("label.box_score=verified")
    assert "on_base_names" not in verified, "a fixed threshold chooses nothing"
    rows = verified["reliability_on_base_names"]
    assert [int(row["confidence"] * 10) for row in rows] == sorted({int(row["confidence"] * 10) for row in rows})
    data = json.loads(SCENES_JSON.read_text())
    base = {category["id"] for category in data["categories"] if category["name"] in BASE}
    objects = sum(row["category_id"] in base for row in data["annotations"])
    assert 0.3 * objects < sum(row["labels"] * row["right"] for row in rows) <= objects
    recipe = settings_of("label.objectness_weight=0", CHOOSES)
    assert off_by(rows) < off_by(recipe["reliability_on_base_names"])


def test_the_chosen_thresholds_precision_is_that_of_the_same_labels(settings_of):
    """Above the threshold of a wanted precision of nearly 0 are all labels."""
    every = settings_of("label.box_score=verified", "label.threshold=precision", "label.wanted_precision=0.001")
    rows = every["reliability_on_base_names"]
    right = sum(row["labels"] * row["right"] for row in rows) / sum(row["labels"] for row in rows)
    assert every["on_base_names"]["precision"] == pytest.approx(right, abs=1e-4)


@pytest.mark.parametrize(
    "rule",
    [
        ["label.class_score=all"],
        ["label.box_score=learned"],
        ["label.class_score=retrieved", "label.box_score=learned"],
        ["label.class_score=hierarchy", "label.box_score=learned"],
    ],
)
def test_a_rule_that_asks_no_base_name_says_nothing_of_them(settings_of, rule):
    assert "reliability_on_base_names" not in settings_of(*rule)
