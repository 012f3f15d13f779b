"""Rules compared on the demo's store: figures against a plain count, stand-ins that the rules never see."""

import json

import pytest
import yaml
from commands import REPOSITORY, call, launcher
from small_datasets import SCENES_JSON

from plgen_ddp.config import load_config
from plgen_ddp.demo.scenes import BASE, NOVEL
from plgen_ddp.evaluation import evaluate
from plgen_ddp.report.comparison import compare, default_presets

CHEAP = ["demo_marvelovd", "demo_best"]


@pytest.fixture(scope="module")
def words(demo_run, tmp_path_factory):
    output = demo_run.copy(tmp_path_factory.mktemp("comparison") / "out")
    return ["--config", "demo", f"run.output={output}"]


def compared(words, folder, *more):
    """The figures that the command writes."""
    call("compare", *words, "--output", folder, "--json", folder / "rules.json", *more)
    return json.loads((folder / "rules.json").read_text())


def iou(one, other):
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    return both / (one[2] * one[3] + other[2] * other[3] - both)


def counted(labels, truth, names):
    """(labels, right ones, objects), one to one at IoU 0.5, by a loop over the two files."""
    made, real = json.loads(labels.read_text()), json.loads(truth.read_text())
    name_of = {category["id"]: category["name"] for category in real["categories"]}
    objects = [row for row in real["annotations"] if name_of[row["category_id"]] in names]
    rows = sorted((row for row in made["annotations"] if "confidence" in row), key=lambda row: -row["confidence"])
    right, found = 0, set()
    for row in rows:
        same = [
            (iou(row["bbox"], other["bbox"]), other["id"])
            for other in objects
            if (other["image_id"], other["category_id"]) == (row["image_id"], row["category_id"])
        ]
        overlap, nearest = max((pair for pair in same if pair[1] not in found), default=(0, None))
        if overlap >= 0.5:
            right += 1
            found.add(nearest)
    return len(rows), right, len(objects)


def test_the_figures_are_those_of_the_labelled_files(words, tmp_path, capsys):
    figures = compared(words, tmp_path, "--presets", ",".join(CHEAP))
    assert figures["names"] == list(NOVEL) and list(figures["rules"]) == CHEAP and not figures["left_out"]
    for preset, row in figures["rules"].items():
        labels, right, objects = counted(tmp_path / f"{preset}.json", SCENES_JSON, NOVEL)
        assert 0 < right < labels
        assert (row["pseudo_labels"], row["quality"]["objects"], row["images"]) == (labels, objects, 48)
        assert (row["quality"]["precision"], row["quality"]["recall"]) == (
            pytest.approx(right / labels),
            pytest.approx(right / objects),
        )
        assert row["AP50"] == evaluate(tmp_path / f"{preset}.json", SCENES_JSON).AP50
        info = json.loads((tmp_path / f"{preset}.json").read_text())["info"]["plgen_ddp"]["label"]
        assert row["score_threshold"] == info["score_threshold"]
        assert load_config(preset).label.class_score == info["class_score"]
    assert figures["rules"]["demo_best"]["score_threshold"] != 0.8, "the base names choose it"
    printed = capsys.readouterr().out
    assert "marvelovd" in printed and "48 images with" in printed


def test_labels_of_stand_ins_do_not_replace_those_of_the_novel_names(demo_run, tmp_path, capsys):
    output = demo_run.copy(tmp_path / "out")
    before = (output / "comparison" / "demo_vlplm.json").read_bytes()
    call("compare", "--config", "demo", f"run.output={output}", "--stand-ins", "--presets", "demo_vlplm")
    assert (output / "comparison" / "demo_vlplm.json").read_bytes() == before
    assert f"labels: {output / 'stand_ins'}" in capsys.readouterr().out
    assert (output / "stand_ins" / "demo_vlplm.json").is_file()


def test_stand_ins_are_hidden_from_the_rules_and_then_are_the_ground_truth(words, tmp_path):
    """Annotations of the stand-ins and of the true novel names may be absent: the labels are the same."""
    figures = compared(words, tmp_path, "--stand-ins", "--presets", ",".join(CHEAP))
    names = figures["names"]
    assert figures["stand_ins"] and len(names) == len(NOVEL) and set(names) < set(BASE)
    for preset, row in figures["rules"].items():
        labels, right, objects = counted(tmp_path / f"{preset}.json", SCENES_JSON, names)
        assert (row["pseudo_labels"], row["quality"]["objects"]) == (labels, objects)
        assert row["quality"]["precision"] == pytest.approx(right / labels) and right > 0
    data = json.loads(SCENES_JSON.read_text())
    kept = {category["id"] for category in data["categories"] if category["name"] in set(BASE) - set(names)}
    data["annotations"] = [row for row in data["annotations"] if row["category_id"] in kept]
    (tmp_path / "hidden.json").write_text(json.dumps(data))
    split = {"novel": names, "base": sorted(set(BASE) - set(names)), "distractors": list(NOVEL)}
    words_of = yaml.safe_load((REPOSITORY / "configs/vocabularies/demo.yaml").read_text())
    for level in ("supers", "subs"):
        split[level] = {name: own for name, own in words_of[level].items() if name in BASE}
    hidden = [f"label.vocabulary={json.dumps(split)}", f"label.annotations={tmp_path / 'hidden.json'}"]
    call("label", "--config", "demo_best", words[2], *hidden, f"label.output={tmp_path / 'alone.json'}")
    alone, beside = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("alone", "demo_best"))
    pick = ("image_id", "category_id", "bbox", "confidence")
    rows = [
        [{key: row[key] for key in pick} for row in made["annotations"] if "confidence" in row]
        for made in (alone, beside)
    ]
    assert rows[0] == rows[1] and rows[0]
    assert {row["category_id"] for row in beside["annotations"] if "confidence" not in row} <= kept


def test_a_vocabulary_of_ones_own_goes_to_every_preset_and_those_that_it_does_not_suit_are_left_out(words, tmp_path):
    presets = ["demo_hcc", "coco_marvelovd"]
    figures = compared(words, tmp_path, "--presets", ",".join(presets), "label.vocabulary=fish,key")
    assert figures["names"] == ["fish", "key"] and list(figures["rules"]) == ["coco_marvelovd"]
    assert "2 of 2 novel names have no super words" in figures["left_out"]["demo_hcc"]
    config = tmp_path / "mine.yaml"  # the names of a config of one's own count as much as the command line's
    config.write_text("base: demo.yaml\nlabel: {vocabulary: [fish, key]}")
    labels = compare(load_config(config, words[2:]), words[2:], ["coco_vlplm", "demo_dstdet"], folder=tmp_path)
    assert labels.objects.names == ("fish", "key") and len(labels.results) == 2


def mistake(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        launcher("compare").main(list(map(str, words)))
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_mistake_is_one_line_before_any_labelling(words, tmp_path, capsys):
    output = ["--output", tmp_path / "labels"]
    data = json.loads(SCENES_JSON.read_text())
    novel = {category["id"] for category in data["categories"] if category["name"] in NOVEL}
    data["annotations"] = [row for row in data["annotations"] if row["category_id"] not in novel]
    (tmp_path / "none.json").write_text(json.dumps(data))
    line = mistake([*words, *output, "--ground-truth", tmp_path / "none.json"], capsys)
    assert "has no annotation, or only crowds, of heart" in line and "--stand-ins" in line
    assert "no packaged config has that name; did you mean 'demo_vlplm'" in mistake(
        [*words, *output, "--presets", "demo_vlpm"], capsys
    )
    own = tmp_path / "demo_best.yaml"
    own.write_text("base: demo.yaml")
    assert "have the same name" in mistake([*words, *output, "--presets", f"demo_best,{own}"], capsys)
    line = mistake([*words, *output, "--picture", tmp_path], capsys)
    assert line.startswith("error: --picture: ")
    source = tmp_path / "source.json"
    source.write_bytes(SCENES_JSON.read_bytes())
    line = mistake([*words, *output, f"data.annotations={source}", "--json", source], capsys)
    assert "source.json is data.annotations; choose another name" in line
    assert not (tmp_path / "labels").exists()


def test_a_mistake_that_no_preset_survives_is_that_of_the_command(tmp_path, capsys):
    words = ["--config", "demo", f"run.output={tmp_path}", "--presets", ",".join(CHEAP)]
    assert "no region store at" in mistake(words, capsys)


def test_presets_that_belong_to_a_config_are_the_default():
    assert default_presets("demo")[0] == "demo_marvelovd" and default_presets("demo")[-1] == "demo_best"
    packaged = {path.stem for path in (REPOSITORY / "configs").glob("demo_*.yaml")}
    assert set(default_presets("configs/demo.yaml")) == packaged
    assert default_presets("out/mine.yaml") == default_presets("coco_vlplm") != default_presets("demo")
