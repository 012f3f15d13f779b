"""What base names teach: features, the cross-fitted classifier, and whole labellings of the demo's store."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from commands import REPOSITORY, call
from hypothesis import given
from hypothesis import strategies as st
from small_datasets import SCENES_JSON

from plgen_ddp.config import load_config
from plgen_ddp.errors import UserError
from plgen_ddp.label import job, passes
from plgen_ddp.label.stacked import StackedBoxes
from plgen_ddp.label.verified import (
    FOLDS,
    NamedBoxes,
    box_features,
    fewest_to_learn_from,
    folds_of,
    pair_features,
    train,
)
from plgen_ddp.records import EVIDENCE, Regions
from plgen_ddp.store import RegionStore

EXTENT = (100, 80)


def fold_of(image_id):
    return int(folds_of(np.array([image_id]))[0])


def image_of(seed, count):
    """Clustered boxes with evidence, and names for them."""
    random = np.random.default_rng(seed)
    low = random.integers(0, 12, (count, 2))
    boxes = np.concatenate([low, low + random.integers(2, 20, (count, 2))], axis=1).astype(np.float32)
    objectness, *evidence = random.random((5, count)).astype(np.float32)
    probability = random.uniform(0.3, 1, count)
    named = NamedBoxes(
        name=random.integers(0, 3, count),
        probability=probability,
        share=probability,
        runner_up=(1 - probability) * 0.9,
        of_group=random.uniform(probability, 1),
        typical=random.standard_normal(count),
        levels=tuple(random.random((2, count))),
    )
    return Regions(1, boxes, objectness, np.empty((count, 0), np.float16), *evidence), named


def overlap(one, other):
    return max(min(one[2], other[2]) - max(one[0], other[0]), 0) * max(min(one[3], other[3]) - max(one[1], other[1]), 0)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


@given(st.integers(0, 2**32 - 1), st.integers(0, 8))
def test_what_the_neighbours_say_is_what_a_loop_over_pairs_finds(seed, count):
    regions, named = image_of(seed, count)
    found = pair_features(StackedBoxes.of_image(regions, EXTENT), named)
    assert all(column.shape == (count,) and np.isfinite(column).all() for column in found.values())
    boxes, foreground = regions.boxes_xyxy.astype(float).tolist(), regions.foreground.astype(float)
    strength = named.probability * foreground
    for one, box in enumerate(boxes):
        others = [place for place in range(count) if place != one]
        shared = {other: overlap(box, boxes[other]) for other in others}
        near = {o for o in others if shared[o] > 0.5 * (area(box) + area(boxes[o]) - shared[o])}
        containers = {o for o in others if shared[o] / area(box) > 0.8}
        parts = {o for o in others if shared[o] / area(boxes[o]) > 0.8}
        same = {o for o in others if named.name[o] == named.name[one]}
        groups = {"neighbours": near, "containing": containers, "contained": parts}
        groups |= {
            f"same_name_{title}": which & same
            for title, which in (("near", near), ("containing", containers), ("contained", parts))
        }
        for title, which in groups.items():
            assert found[title][one] == pytest.approx(np.log1p(len(which)))
            if title.startswith("same"):
                best = max((strength[o] for o in which), default=0)
                assert found[f"{title}_better"][one] == pytest.approx(best - strength[one])
        for title, which in (("", near), ("_by_container", containers), ("_by_part", parts)):
            best = max((foreground[o] for o in which), default=0)
            assert found[f"outdone{title}"][one] == pytest.approx(foreground[one] - best)
        elsewhere = max((named.probability[o] for o in near - same), default=0)
        assert found["other_name_near"][one] == pytest.approx(elsewhere)
        weights = {one: strength[one]} | {
            o: strength[o] * shared[o] / (area(box) + area(boxes[o]) - shared[o]) for o in near & same
        }
        total = sum(weights.values())
        assert found["same_name_weight"][one] == pytest.approx(np.log(max(total, 1e-9)))
        if total > 1e-6:
            mean = [sum(weight * boxes[o][side] for o, weight in weights.items()) / total for side in range(4)]
            union = area(box) + area(mean) - overlap(box, mean)
            assert found["same_name_fit"][one] == pytest.approx(overlap(box, mean) / union)


@given(st.integers(0, 2**32 - 1), st.integers(0, 8))
def test_the_boxes_that_are_asked_about_have_the_features_that_they_have_among_all(seed, count):
    regions, named = image_of(seed, count)
    rows = np.flatnonzero(np.random.default_rng(seed).random(count) < 0.5)
    every, some = (
        pair_features(StackedBoxes.of_image(regions, EXTENT), named),
        pair_features(StackedBoxes.of_image(regions, EXTENT), named, rows),
    )
    for title, column in every.items():
        np.testing.assert_allclose(some[title], column[rows], rtol=1e-12, atol=1e-12)


def test_a_box_whose_name_is_unlikely_is_not_asked_about():
    _, named = image_of(5, 4)
    unsure = replace(named, share=np.array([0.5, 0.0999, 0.1, 0.0]))
    assert unsure.likely().tolist() == [0, 2]


def test_features_know_no_name_and_leave_out_evidence_that_is_not_there():
    regions, named = image_of(5, 30)
    renamed = replace(named, name=(named.name + 1) % 3)
    one, other = (pair_features(StackedBoxes.of_image(regions, EXTENT), names) for names in (named, renamed))
    for title in one:
        np.testing.assert_array_equal(one[title], other[title])
    assert set(one) - set(pair_features(StackedBoxes.of_image(regions, EXTENT), replace(named, levels=()))) == {
        "name_of_super",
        "name_of_sub",
    }
    bare = replace(regions, **dict.fromkeys(EVIDENCE))
    assert set(box_features(StackedBoxes.of_image(regions, EXTENT))) - set(
        box_features(StackedBoxes.of_image(bare, EXTENT))
    ) == set(EVIDENCE)


def lessons(seed=0, images=400, each=25):
    """Boxes that are right with a known probability: sigmoid(2 x - 1)."""
    random = np.random.default_rng(seed)
    image_ids = np.repeat(np.arange(images), each)
    x, noise = random.standard_normal((2, images * each))
    truth = 1 / (1 + np.exp(1 - 2 * x))
    return {"x": x, "noise": noise}, random.random(len(x)) < truth, image_ids, truth


def test_what_a_classifier_says_is_how_often_it_is_right():
    columns, right, image_ids, truth = lessons()
    classifier = train(columns, right, image_ids)
    said = classifier(columns, image_ids)
    assert np.abs(said - truth).mean() < 0.02
    described = classifier.described()
    assert described["pairs"] == len(right) and described["right"] == right.sum()
    assert described["coefficients"]["x"] == pytest.approx(2, abs=0.15)
    assert abs(described["coefficients"]["noise"]) < 0.1


def test_an_images_answers_decide_nothing_about_its_own_fold():
    columns, right, image_ids, _ = lessons(images=50)
    changed = right.copy()
    changed[image_ids == 7] ^= True
    one, other = train(columns, right, image_ids), train(columns, changed, image_ids)
    for fold in range(FOLDS):
        same = np.array_equal(one.coefficients[fold], other.coefficients[fold])
        assert same == (fold == fold_of(7))


def test_folds_are_of_the_image_id_alone_and_of_about_one_size():
    counts = np.bincount([fold_of(image_id) for image_id in range(1, 5001)], minlength=FOLDS)
    assert len(counts) == FOLDS and counts.min() > 900
    assert fold_of(2**40 + 3) in range(FOLDS) and fold_of(-1) in range(FOLDS)


def test_the_fewest_are_those_of_the_fold_that_has_most():
    image_ids = np.arange(200)
    folds = np.array([fold_of(image) for image in image_ids])
    right = (folds == 2) & (image_ids % 2 == 0)
    assert fewest_to_learn_from(right, image_ids) == 0
    right[folds == 3] = image_ids[folds == 3] % 4 == 0
    expected = min(right[folds == 3].sum(), right[folds == 2].sum())
    assert fewest_to_learn_from(right, image_ids) == expected > 0
    assert fewest_to_learn_from(np.empty(0, bool), np.empty(0, np.int64)) == 0


# Whole labellings of the demo's store, by the user's command.

VERIFIED = ["label.box_score=verified", "label.score_threshold=0.05"]
WEIGHT = "label.objectness_weight=0.5"  # the demo's own is MarvelOVD's 0
LEARNED = ["label.box_score=learned", "label.fusion=geometric", WEIGHT, "label.score_threshold=0.3"]
AUTOMATIC = ["label.box_score=verified", "label.threshold=f_beta_base"]
PRECISE = ["label.box_score=learned", WEIGHT, "label.threshold=precision", "label.wanted_precision=0.5"]


@pytest.fixture(scope="module")
def demo_words(demo_run, tmp_path_factory):
    """The words that label a copy of the demo's store, which keeps new text embeddings."""
    output = demo_run.copy(tmp_path_factory.mktemp("verified") / "out")
    return [*demo_run.words, f"run.output={output}"]


def labelled(words, output, *more):
    """(annotations, what `info` says about the labelling, bytes) that launch/label.py writes."""
    call("label", *words, f"label.output={output}", *more)
    written = json.loads(output.read_bytes())
    return written["annotations"], written["info"]["plgen_ddp"]["label"], output.read_bytes()


def mistake(words, capsys, *more):
    """The one line that the user reads."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        call("label", *words, *more)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert stopped.value.code
    return line


def pseudo(annotations):
    return [row for row in annotations if "confidence" in row]


def changed_scenes(path, change):
    """The scenes' JSON with other annotations."""
    data = json.loads(SCENES_JSON.read_text())
    data["annotations"] = change(data["annotations"])
    path.write_text(json.dumps(data))
    return f"label.annotations={path}"


def novel_ids():
    data = json.loads(SCENES_JSON.read_text())
    names = {"heart", "fish", "mushroom", "umbrella", "key", "cup"}
    return {category["id"] for category in data["categories"] if category["name"] in names}


@pytest.mark.parametrize("rule", [VERIFIED, LEARNED, AUTOMATIC, PRECISE, ["label.class_score=retrieved"]])
def test_labels_are_the_same_bytes_on_any_number_of_cores(demo_words, tmp_path, monkeypatch, rule):
    found = []
    for cores in (1, 2, 5):
        monkeypatch.setattr(passes, "available_cores", lambda cores=cores: cores)
        annotations, settings, content = labelled(demo_words, tmp_path / f"{cores}.json", *rule)
        found.append(content)
    assert len(set(found)) == 1 and len(pseudo(annotations)) > 10
    learns = "class_score=retrieved" not in rule[0]
    assert ("classifier" in settings) == learns
    if learns:
        assert settings["classifier"]["right"] > 50 and "foreground" in settings["classifier"]["coefficients"]
        assert all("box_score" in row for row in pseudo(annotations))
    if "on_base_names" in settings:
        assert settings["score_threshold"] == settings["on_base_names"]["threshold"]
        assert 0.3 < settings["on_base_names"]["precision"] <= 1


@pytest.mark.parametrize("rule", [AUTOMATIC, PRECISE], ids=["verified", "learned"])
def test_novel_annotations_are_never_looked_at(demo_words, tmp_path, rule):
    novel = novel_ids()
    rows = json.loads(SCENES_JSON.read_text())["annotations"]
    more = [{**row, "id": 10**6 + row["id"], "category_id": min(novel)} for row in rows]
    variants = {
        "as_it_is": lambda annotations: annotations,
        "removed": lambda annotations: [row for row in annotations if row["category_id"] not in novel],
        "added": lambda annotations: annotations + more,
    }
    found = []
    for name, change in variants.items():
        file = changed_scenes(tmp_path / f"{name}.json", change)
        annotations, settings, _ = labelled(demo_words, tmp_path / f"{name}_labels.json", *rule, file)
        found.append((annotations, settings))
    assert found[0] == found[1] == found[2] and len(pseudo(found[0][0])) > 10


@pytest.mark.parametrize("rule", [VERIFIED, LEARNED], ids=["verified", "learned"])
def test_an_images_own_base_annotations_do_not_decide_its_scores(demo_words, tmp_path, rule):
    novel = novel_ids()

    counts = {True: Counter(), False: Counter()}
    for row in json.loads(SCENES_JSON.read_text())["annotations"]:
        counts[row["category_id"] in novel][row["image_id"]] += 1
    image_id = max(counts[True], key=lambda image: min(counts[True][image], counts[False][image]))

    def moved(annotations):
        """The image's base annotations, all where no object is."""
        own = [row["image_id"] == image_id and row["category_id"] not in novel for row in annotations]
        return [{**row, "bbox": [0, 0, 7, 7]} if its else row for row, its in zip(annotations, own, strict=True)]

    before, _, _ = labelled(demo_words, tmp_path / "before.json", *rule)
    file = changed_scenes(tmp_path / "moved.json", moved)
    after, _, _ = labelled(demo_words, tmp_path / "after.json", *rule, file)

    def scores(rows, own):
        return [
            (row["image_id"], *row["bbox"], row["confidence"])
            for row in pseudo(rows)
            if (fold_of(row["image_id"]) == fold_of(image_id)) == own
        ]

    assert scores(before, own=True) == scores(after, own=True)
    assert any(row[0] == image_id for row in scores(before, own=True))
    assert scores(before, own=False) != scores(after, own=False), "the others learn from it"


@pytest.fixture(scope="module")
def without_evidence(demo_words, tmp_path_factory):
    """The words for the demo's store as it would be with boxes from a file."""
    output = tmp_path_factory.mktemp("bare") / "out"
    source = next(word for word in demo_words if word.startswith("run.output=")).partition("=")[2]
    shutil.copytree(f"{source}/store", output / "store")
    store = RegionStore(output / "store")
    for path in store.part_paths():
        images = [replace(image, **dict.fromkeys(EVIDENCE)) for image in store.read_part(path)]
        path.unlink()
        store.write_part(images)
    return [*demo_words, f"run.output={output}"]


@pytest.mark.parametrize("rule", [VERIFIED, LEARNED], ids=["verified", "learned"])
def test_boxes_without_evidence_are_judged_by_what_there_is(without_evidence, tmp_path, rule):
    annotations, settings, _ = labelled(without_evidence, tmp_path / "labels.json", *rule)
    assert len(pseudo(annotations)) > 10
    assert not set(EVIDENCE) & set(settings["classifier"]["coefficients"])


@pytest.mark.parametrize("column", ["foreground", "agreement"])
def test_a_box_score_that_the_store_lacks_is_one_line(without_evidence, tmp_path, capsys, column):
    words = (f"label.output={tmp_path / 'labels.json'}", f"label.box_score={column}")
    assert f"label.box_score is {column}, and the boxes of this store have no such" in mistake(
        without_evidence, capsys, *words
    )


def test_evidence_that_a_file_of_boxes_lacks_is_named_before_it_is_scored(tmp_path):
    boxes = tmp_path / "boxes.json"
    boxes.write_text("[]")
    words = [f"proposals.source={boxes}", f"run.output={tmp_path}", "label.box_score=foreground"]
    with pytest.raises(UserError, match=r"^label.box_score is foreground, and the boxes of this store have no such"):
        job.check_before_scoring(load_config("demo", words), np.arange(1, 49))


@pytest.mark.parametrize("rule", [VERIFIED, LEARNED], ids=["verified", "learned"])
def test_too_few_base_annotations_are_one_line(demo_words, tmp_path, capsys, rule):
    output = f"label.output={tmp_path / 'labels.json'}"
    kind = rule[0].partition("=")[2]
    assert f"label.box_score is {kind}, which learns from base" in mistake(
        demo_words, capsys, output, *rule, "data.limit=1"
    )
    none = changed_scenes(tmp_path / "none.json", lambda annotations: [])
    assert "of the 0 boxes on images that have some, 0 fit one" in mistake(demo_words, capsys, output, *rule, none)


@pytest.mark.parametrize("threshold", ["f_beta_base", "precision"])
def test_a_threshold_from_base_names_needs_base_annotations(demo_words, tmp_path, capsys, threshold):
    none = changed_scenes(tmp_path / "none.json", lambda annotations: [])
    line = mistake(demo_words, capsys, f"label.output={tmp_path / 'x.json'}", f"label.threshold={threshold}", none)
    assert f"label.threshold is {threshold}" in line and "set label.threshold=fixed" in line


def test_a_hierarchy_is_recorded_and_a_vocabulary_without_one_is_refused(demo_words, tmp_path, capsys):
    hierarchy = "label.class_score=hierarchy"
    plain_names = "label.vocabulary=[heart, fish, mushroom, umbrella, key, cup]"
    line = mistake(demo_words, capsys, f"label.output={tmp_path / 'x.json'}", hierarchy, plain_names)
    assert "6 of 6 novel names have no super words" in line
    words = "novel: [heart, fish], supers: {heart: [figure], fish: [animal]}, subs: {heart: [love], fish: [carp, eel]}"
    annotations, settings, _ = labelled(
        demo_words,
        tmp_path / "labels.json",
        hierarchy,
        f"label.vocabulary={{{words}}}",
        "label.score_threshold=0.1",
        "label.templates=['a {}']",
    )
    assert settings["supers"] == {"heart": ["figure"], "fish": ["animal"]}
    assert settings["subs"] == {"heart": ["love"], "fish": ["carp", "eel"]}
    assert len({row["category_id"] for row in pseudo(annotations)}) == 2
    plain = labelled(demo_words, tmp_path / "plain.json")[1]
    assert not {"supers", "subs", "classifier", "on_base_names"} & set(plain)


def test_verified_looks_at_the_hierarchy_of_a_vocabulary_that_has_one_for_every_name(demo_words, tmp_path):
    base = "[circle, square, triangle, star, cross, hexagon, ring, arrow, house, tree, flag, moon]"
    novel = "[heart, fish, mushroom, umbrella, key, cup]"
    for vocabulary, levels in (("vocabularies/demo.yaml", True), (f"{{base: {base}, novel: {novel}}}", False)):
        words = [f"label.vocabulary={vocabulary}", "label.templates=['a photo of {article} {}.']"]
        _, settings, _ = labelled(demo_words, tmp_path / f"{levels}.json", *VERIFIED, *words)
        features = set(settings["classifier"]["coefficients"])
        assert ({"name_of_super", "name_of_sub"} <= features) == levels == ("subs" in settings)


def test_presets_of_the_repository_label_the_demos_store(demo_words, tmp_path):
    """Each family's section `label` over one store, with the demo's names."""
    rules = {
        "sasdet": ["label.objectness_weight=0.5", "label.score_threshold=0.9"],
        "dstdet": ["label.class_score=all", "label.require_novel=true", "label.fusion=class_only"],
        "aggdet": ["label.box_score=agreement", "label.fusion=geometric", WEIGHT, "label.threshold=f_beta_base"],
    }
    for family, rule in rules.items():
        assert (REPOSITORY / "configs" / f"coco_{family}.yaml").is_file()
        annotations, _, _ = labelled(demo_words, tmp_path / f"{family}.json", *rule)
        found = pseudo(annotations)
        assert found and all(0 <= row["confidence"] <= 1 for row in found), family
        assert ("box_score" in found[0]) == (family == "aggdet")
