"""Thresholds for each name, and thresholds by the number of labels."""

import json

import numpy as np
import pytest
from commands import call
from hypothesis import given
from hypothesis import strategies as st

from plgen_ddp.config import LabelConfig, load_config
from plgen_ddp.errors import UserError
from plgen_ddp.label import density
from plgen_ddp.label.density import DensestLabels, names_of
from plgen_ddp.label.labels import kept_boxes
from plgen_ddp.label.rule import ScoredBoxes
from plgen_ddp.label.score_thresholds import read_score_thresholds
from plgen_ddp.label.thresholds import density_thresholds
from plgen_ddp.records import PseudoLabels

NOVEL = ("bus", "cup", "umbrella")
SUPPRESSIONS = st.lists(st.sampled_from(["inside", "base_iou", "base_inside"]), unique=True)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("0.7", [0.7, 0.7, 0.7]),
        ("1", [1.0, 1.0, 1.0]),
        ("{umbrella: 0.7, default: 0.8}", [0.8, 0.8, 0.7]),
        ("{bus: 0, cup: 1, umbrella: 0.5}", [0, 1, 0.5]),
        ("thresholds.yaml", [0.25, 0.5, 0.5]),
    ],
)
def test_a_threshold_for_all_names_or_for_each(tmp_path, monkeypatch, word, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thresholds.yaml").write_text("bus: 0.25\ndefault: 0.5\n")
    options = load_config("coco_vlplm", [f"label.score_threshold={word}"]).label
    found = read_score_thresholds(options, NOVEL)
    assert found.dtype == np.float64 and found.tolist() == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("{umbrela: 0.7, default: 0.8}", "'umbrela' is not a novel name; did you mean 'umbrella'"),
        ("{umbrella: 0.7}", "no number for 'bus', 'cup', and no `default`"),
        ("{umbrella: 7, default: 0.8}", "umbrella is 7; expected a number from 0 to 1"),
        ("{1: 0.7}", "the name is 1; expected a text"),
        ("1.5", "is 1.5; expected a number from 0 to 1, a mapping"),
        (".nan", "is nan; expected a number from 0 to 1"),
        ("null", "is null; expected a number"),
        ("[0.5]", r"is \[0.5\]; expected a number"),
        ("nowhere.yaml", "is 'nowhere.yaml'; expected a number, a mapping, or a file, and there is no file at nowhere"),
        ("wrong.yaml", r"wrong.yaml: cup is 'much'; expected a number from 0 to 1"),
        ("list.yaml", r"list.yaml is \[0.5\]; expected a number"),
    ],
)
def test_a_mistake_in_thresholds_is_one_line(tmp_path, monkeypatch, word, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.yaml").write_text("cup: much\n")
    (tmp_path / "list.yaml").write_text("[0.5]\n")
    with pytest.raises(UserError, match=f"^label.score_threshold.*{message}"):
        read_score_thresholds(load_config("coco_vlplm", [f"label.score_threshold={word}"]).label, NOVEL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": "density"}, "label.per_image is null; expected a positive number"),
        ({"threshold": "density", "per_image": 0.0}, "label.per_image is 0.0"),
        ({"per_name": True}, "label.per_name is True; expected false unless label.threshold is density"),
        ({"class_score": "retrieved", "threshold": "precision"}, "expected fixed or density"),
    ],
)
def test_density_needs_its_number(options, message):
    with pytest.raises(UserError, match=message):
        LabelConfig(**options)


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), SUPPRESSIONS)
def test_a_higher_threshold_keeps_the_better_ones_of_a_lower_ones_boxes(seed, count, suppress):
    """What lets a sweep suppress once for all thresholds, of all names or of each."""
    random = np.random.default_rng(seed)
    low = random.integers(0, 20, (count + 4, 2))
    boxes = np.concatenate([low, low + random.integers(1, 20, (count + 4, 2))], axis=1).astype(np.float32)
    own, base = boxes[:count], boxes[count:].astype(np.float64)
    score = random.integers(0, 11, count) / 10
    scored = ScoredBoxes(random.integers(0, 3, count), score, random.random(count), score)
    options = LabelConfig(suppress=tuple(suppress), nms_iou=0.4, box_threshold=0.3)
    lowest = random.random(3) / 2
    every = kept_boxes(own, scored, base, options, lowest)
    for least in (lowest, lowest + 0.3, np.full(3, 0.7)):
        expected = every[score[every] > least[scored.name[every]]]
        assert kept_boxes(own, scored, base, options, least).tolist() == expected.tolist()
    flat = kept_boxes(own, scored, base, options, np.full(3, 0.7))
    assert kept_boxes(own, scored, base, options, 0.7).tolist() == flat.tolist()


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 2)), max_size=40), st.integers(1, 15))
def test_a_threshold_by_density_keeps_the_number_or_all_but_a_tie(labels, wanted):
    scores, groups = np.array([score / 12 for score, _ in labels]), np.array([group for _, group in labels], int)
    found = density_thresholds(scores, groups, 3, wanted)
    for group, threshold in enumerate(found):
        own = np.sort(scores[groups == group])[::-1]
        kept = own[own > threshold]
        if len(own) <= wanted:
            assert threshold == 0 and len(kept) == len(own)
        else:
            assert len(kept) <= wanted
            # No lower threshold keeps at most the number.
            assert (own >= own[len(kept)]).sum() > wanted


@pytest.mark.parametrize("per_name", [False, True])
def test_labels_that_arrive_in_parts_keep_the_densest(monkeypatch, per_name):
    monkeypatch.setattr(density, "_SPARE", 10)
    random = np.random.default_rng(0)
    ids = np.array([7, 3, 5])
    parts = []
    for part in range(20):
        count = int(random.integers(0, 40))
        scores = random.integers(1, 200, count) / 200
        images = np.full(count, part)
        parts.append(
            PseudoLabels(images, random.choice(ids, count), np.zeros((count, 4)), scores, scores, scores, scores)
        )
    dense = DensestLabels(ids, 2.5, 20, per_name=per_name)
    for part in parts:
        dense.add(part)
    thresholds = dense.thresholds(16)
    every, held = PseudoLabels.concatenate(parts), PseudoLabels.concatenate(dense.labels())
    assert len(held) < len(every)
    names = names_of(every, ids) if per_name else np.zeros(len(every), int)
    np.testing.assert_array_equal(
        thresholds, np.broadcast_to(density_thresholds(every.scores, names, 3 if per_name else 1, 40), 3)
    )
    kept = held.chosen(held.scores > thresholds[names_of(held, ids)])
    expected = every.chosen(every.scores > thresholds[names_of(every, ids)])
    for name in ("image_ids", "category_ids", "scores"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(expected, name))


def test_more_labels_than_there_are_boxes_are_all_labels():
    scores = np.array([0.2, 0.1])
    labels = PseudoLabels(np.array([1, 2]), np.array([7, 7]), np.zeros((2, 4)), scores, scores, scores, scores)
    dense = DensestLabels(np.array([7]), 1e308, 20, per_name=False)
    dense.add(labels)
    assert dense.thresholds(20) == [0]


def labelled(words, output, *more):
    """(pseudo labels, what `info` says about the labelling) that launch/label.py writes."""
    call("label", *words, f"label.output={output}", *more)
    written = json.loads(output.read_bytes())
    names = {category["id"]: category["name"] for category in written["categories"]}
    rows = [row | {"name": names[row["category_id"]]} for row in written["annotations"] if "confidence" in row]
    return [{**row, "id": 0} for row in rows], written["info"]["plgen_ddp"]["label"]


@pytest.fixture(scope="module")
def demo_words(demo_run, tmp_path_factory):
    """The words that label a copy of the demo's store."""
    return [*demo_run.words, f"run.output={demo_run.copy(tmp_path_factory.mktemp('thresholds') / 'out')}"]


def test_each_name_is_cut_at_its_own_threshold(demo_words, tmp_path):
    every, settings = labelled(demo_words, tmp_path / "all.json", "label.score_threshold=0")
    assert settings["score_threshold"] == 0 and "per_image" not in settings
    first, second = settings["novel"][:2]
    mapping = {first: 0.75, second: 0.25, "default": 0.5}
    rows, settings = labelled(
        demo_words, tmp_path / "own.json", f"label.score_threshold={{{first}: 0.75, {second}: 0.25, default: 0.5}}"
    )
    assert settings["score_threshold"] == {name: mapping.get(name, 0.5) for name in settings["novel"]}
    assert rows == [row for row in every if row["confidence"] > mapping.get(row["name"], 0.5)] != every


def test_density_gives_the_labels_an_image_that_it_was_asked_for(demo_words, demo_run, tmp_path):
    every, _ = labelled(demo_words, tmp_path / "all.json", "label.score_threshold=0")
    dense = ["label.threshold=density"]
    rows, settings = labelled(demo_words, tmp_path / "dense.json", *dense, "label.per_image=1.25")
    assert len(rows) == 1.25 * demo_run.images and settings["per_image"] == 1.25
    assert rows == [row for row in every if row["confidence"] > settings["score_threshold"]]
    rows, settings = labelled(
        demo_words, tmp_path / "own.json", *dense, "label.per_name=true", f"label.per_image={5 / demo_run.images}"
    )
    for name, threshold in settings["score_threshold"].items():
        confidences = [row["confidence"] for row in every if row["name"] == name]
        assert sum(row["name"] == name for row in rows) == min(5, len(confidences))
        assert sum(confidence > threshold for confidence in confidences) == min(5, len(confidences))
