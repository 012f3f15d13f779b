"""A sweep's rows are what single labellings with these settings give, and its files say so."""

import csv
import json

import pytest
from commands import call, launcher
from small_datasets import SCENES_JSON

from plgen_ddp.errors import UserError
from plgen_ddp.evaluation import evaluate
from plgen_ddp.label.settings import read_settings

GROUND_TRUTH = ["--ground-truth", str(SCENES_JSON)]


@pytest.fixture(scope="module")
def demo_words(demo_run, tmp_path_factory):
    """The words that label a copy of the demo's store."""
    return [*demo_run.words, f"run.output={demo_run.copy(tmp_path_factory.mktemp('sweep') / 'out')}"]


def swept(words, folder, *more):
    """The rows of sweep.json."""
    call("sweep", *words, "--output", folder, *more)
    return json.loads((folder / "sweep.json").read_text())["rows"]


def single(words, output, values):
    """(threshold, number of labels, number by name) of a single labelling, and its file."""
    call("label", *words, f"label.output={output}", *(f"{key}={text}" for key, text in values.items()))
    written = json.loads(output.read_text())
    names = {category["id"]: category["name"] for category in written["categories"]}
    found = [names[row["category_id"]] for row in written["annotations"] if "confidence" in row]
    settings = written["info"]["plgen_ddp"]["label"]
    return settings["score_threshold"], len(found), {name: found.count(name) for name in settings["novel"]}


@pytest.mark.parametrize(
    "options",
    [
        ["label.score_threshold=0.1,0.6,{default: 0.3}", "label.objectness_weight=0,0.5"],
        ["label.suppress=[],[inside, base_iou]", "label.score_threshold=0.5", "label.nms_iou=0.3:0.7:0.4"],
        ["label.threshold=f_beta_base,density", "label.per_image=1.5", "label.box_score=verified,objectness"],
        ["label.class_score=retrieved,all", "label.score_threshold=0.7"],
    ],
    ids=["thresholds", "suppression", "chosen", "retrieved"],
)
def test_rows_are_single_labellings(demo_words, tmp_path, options):
    rows = swept(demo_words, tmp_path, *options, *GROUND_TRUTH)
    fixed = [word for word in options if word.partition("=")[0] not in rows[0]["values"]]
    assert len(rows) in (2, 4, 6)
    for row in rows:
        dense = row["values"].get("label.threshold") in (None, "density")
        taken = [word for word in fixed if dense or "per_image" not in word]  # others are refused in a labelling alone
        alone = single([*demo_words, *taken], tmp_path / "labels.json", row["values"])
        assert (row["threshold"], row["labels"]) == alone[:2]
        assert {name: own["labels"] for name, own in row["names"].items()} == alone[2]
        judged = evaluate(tmp_path / "labels.json", SCENES_JSON)
        assert row["labels_per_image"] == judged.pls_per_image
        figures = row["figures"]
        assert (figures["AP"], figures["AP50"]) == pytest.approx((judged.AP, judged.AP50), abs=1e-12)
        assert judged.quality is not None
        expected = (judged.quality.precision, judged.quality.recall, judged.quality.f1)
        assert (figures["precision"], figures["recall"], figures["f1"]) == pytest.approx(expected)
        own = {name: own["figures"]["AP50"] for name, own in row["names"].items()}
        assert own == pytest.approx(judged.AP50_by_name, abs=1e-12)


def test_several_vocabularies_are_each_judged_by_their_own_names(demo_words, tmp_path):
    config = read_settings(demo_words[1], [*demo_words[2:], "label.score_threshold=0.1,0.2"])[0].config
    call("label", *demo_words, f"label.output={tmp_path / 'all.json'}")
    names = json.loads((tmp_path / "all.json").read_text())["info"]["plgen_ddp"]["label"]["novel"]
    assert config.label.vocabulary is not None
    few = f"label.vocabulary=[{', '.join(names[:2])}]"
    # The templates of the store's names, so that nothing is embedded anew.
    rows = swept(demo_words, tmp_path, few, f"label.vocabulary={config.label.vocabulary}", *GROUND_TRUTH)
    assert [list(row["names"]) for row in rows] == [names[:2], names]
    for row in rows:
        alone = single(demo_words, tmp_path / "labels.json", row["values"])
        assert (row["labels"], row["figures"]["AP"]) == (
            alone[1],
            pytest.approx(evaluate(tmp_path / "labels.json", SCENES_JSON).AP, abs=1e-12),
        )


def test_the_table_suggests_the_best_f1_and_the_files_have_all_of_it(demo_words, tmp_path, capsys):
    words = ["label.score_threshold=0.1:0.9:0.2", "label.objectness_weight=0,0.5"]
    rows = swept(demo_words, tmp_path, *words, *GROUND_TRUTH)
    printed = capsys.readouterr().out
    best = max(rows, key=lambda row: row["figures"]["f1"])
    suggested = " ".join(f"{key}={text}" for key, text in best["values"].items())
    assert f"best F1: {suggested}\n" in printed and "AP cannot choose a threshold" in printed
    (marked,) = [line for line in printed.splitlines() if line.endswith("<- best F1")]
    assert marked.split()[:3] == [*best["values"].values(), str(best["labels"])]
    table = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert len(table) == len(rows) == 10
    for line, row in zip(table, rows, strict=True):
        assert line["label.score_threshold"] == row["values"]["label.score_threshold"]
        assert float(line["recall"]) == row["figures"]["recall"] and int(line["labels"]) == row["labels"]
        for name, own in row["names"].items():
            assert int(line[f"{name}: labels"]) == own["labels"]
            assert float(line[f"{name}: f1"]) == own["figures"]["f1"]
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    # AP never votes for fewer labels.
    for weight in ("0", "0.5"):
        found = [row["figures"]["AP"] for row in rows if row["values"]["label.objectness_weight"] == weight]
        assert found == sorted(found, reverse=True) and found[0] > found[-1]


def test_without_ground_truth_labels_are_counted(demo_words, tmp_path, capsys):
    rows = swept(demo_words, tmp_path, "label.score_threshold=0.5,0.9")
    assert rows[0]["labels"] > rows[1]["labels"] > 0 and rows[0]["figures"] is None
    assert "--ground-truth FILE adds" in capsys.readouterr().out
    assert [line["f1"] for line in csv.DictReader((tmp_path / "sweep.csv").open())] == ["", ""]
    assert not list(tmp_path.glob("*labels*"))


def values(*words):
    return [setting.values for setting in read_settings("coco_vlplm", ["run.output=out", *words])]


def test_ranges_and_lists_are_every_combination(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text("a {}\n")
    (tmp_path / "b.yaml").write_text("novel: [dog]\n")
    assert [row["label.score_threshold"] for row in values("label.score_threshold=0.1:0.35:0.05")] == [
        *("0.1", "0.15", "0.2", "0.25", "0.3", "0.35")
    ]
    assert values("label.nms_iou=0.5,0.6", "label.fusion=mean,geometric") == [
        {"label.nms_iou": iou, "label.fusion": fusion} for iou in ("0.5", "0.6") for fusion in ("mean", "geometric")
    ]
    assert [row["label.suppress"] for row in values("label.suppress=[],[inside,base_iou]")] == [
        "[]",
        "[inside,base_iou]",
    ]
    # A list without brackets is one value, as everywhere.
    assert values("label.suppress=inside,base_iou", "label.threshold=density", "label.per_image=1,2") == [
        {"label.per_image": "1"},
        {"label.per_image": "2"},
    ]
    assert [row["label.vocabulary"] for row in values("label.vocabulary=dog,cat", "label.vocabulary=b.yaml")] == [
        *("dog,cat", "b.yaml")
    ]
    assert [row["label.templates"] for row in values("label.templates=vild_63,one.txt")] == ["vild_63", "one.txt"]
    mapped = read_settings("coco_vlplm", ["run.output=out", "label.score_threshold={a: 0.5, default: 0.6},0.7"])
    assert [setting.config.label.score_threshold for setting in mapped] == [{"a": 0.5, "default": 0.6}, 0.7]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["label.threshold=f_beta_base", "label.score_threshold=0.5,0.6"],
            "label.score_threshold decides nothing in any of these settings; add label.threshold=fixed",
        ),
        (["label.score_threshold=0.5"], "no option of label has several values; give a range"),
        (["label.output=a.json,b.json"], "label.output decides no label"),
        (["label.score_threshold=0.9:0.1:0.1"], "label.score_threshold: 0.9:0.1:0.1 holds no value"),
        (["label.score_threshold=0:1:0"], "0:1:0 holds no value"),
        (["label.score_threshold=0:1:0.0001"], "holds 10001 values; at most 2000"),
        (["label.score_threshold=0:1:1e-999"], r"holds 1\.00000e\+999 values; at most 2000"),
        (["label.score_threshold=0:1:1e-9999999"], "label.score_threshold is '0:1:1e-9999999'; expected a number"),
        (["label.nms_iou=0:1:0.01", "label.base_iou=0:1:0.01"], "10201 settings; at most 2000"),
        (["label.nms_iou=0.5:1.5:0.5"], "label.nms_iou is 1.5; expected a number from 0 to 1"),
        (["label.fusion=mean,max"], "label.fusion is 'max'; expected one of"),
        (["label.score_treshold=0.1,0.2"], "did you mean 'label.score_threshold'"),
    ],
)
def test_a_mistake_in_the_settings_is_named(words, message):
    with pytest.raises(UserError, match=message):
        read_settings("coco_vlplm", ["run.output=out", *words])


def test_ground_truth_that_does_not_fit_is_named_before_the_work(demo_words, tmp_path, capsys):
    data = json.loads(SCENES_JSON.read_text())
    path = tmp_path / "truth.json"
    changes = {
        "has none of the images": {"images": [row | {"id": row["id"] + 10**6} for row in data["images"]]},
        "has another size": {"images": [row | {"width": row["width"] + 1} for row in data["images"]]},
        "has no category": {"categories": data["categories"][:1]},
        "has no object of": {"annotations": []},
    }
    for message, change in changes.items():
        path.write_text(json.dumps(data | change))
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            launcher("sweep").main(
                [*demo_words, "label.nms_iou=0.5,0.6", "--ground-truth", str(path), "--output", str(tmp_path / "out")]
            )
        line = capsys.readouterr().err
        assert stopped.value.code == 2 and line.count("\n") == 1
        assert line.startswith("error: ") and "truth.json" in line and message in line
    assert not (tmp_path / "out").exists()
