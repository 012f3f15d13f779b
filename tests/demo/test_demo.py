"""The demo as a user runs it: learned models, real commands, and labels that are right."""

import json
import re

import pytest
from commands import REPOSITORY, call, refused
from PIL import Image

from plgen_ddp.demo.scenes import NOVEL
from plgen_ddp.report.comparison import default_presets


@pytest.fixture
def demo(demo_run):
    """Output folder of the demo, and what it printed."""
    return demo_run.output, demo_run.stdout


@pytest.fixture
def rules(demo):
    return json.loads((demo[0] / "rules.json").read_text())["rules"]


def test_every_rule_labels_objects_and_the_best_one_the_most_rightly(rules):
    assert list(rules) == default_presets("demo")
    for preset, row in rules.items():
        assert row["images"] == 48 and row["AP50"] > 0.05 and row["pseudo_labels"] > 10, preset
    best, *recipes = (rules[f"demo_{rule}"]["quality"] for rule in ("best", "marvelovd", "vlplm"))
    for recipe in recipes:
        assert best["f1"] > recipe["f1"] and best["on_nothing"] < recipe["on_nothing"]


def test_labels_are_of_novel_names_and_beside_base_annotations(demo, rules):
    for path in (demo[0] / "labels.json", *(demo[0] / "comparison" / f"{preset}.json" for preset in rules)):
        written = json.loads(path.read_text())
        names = {category["id"]: category["name"] for category in written["categories"]}
        pseudo = [row for row in written["annotations"] if "confidence" in row]
        kept = [row for row in written["annotations"] if "confidence" not in row]
        assert pseudo and {names[row["category_id"]] for row in pseudo} <= set(NOVEL)
        assert kept and {names[row["category_id"]] for row in kept}.isdisjoint(NOVEL)


def test_the_best_rule_labels_the_same_while_scoring_and_in_the_comparison(demo):
    scored, compared = (demo[0] / name for name in ("labels.json", "comparison/demo_best.json"))
    assert scored.read_bytes() == compared.read_bytes()


def test_the_same_store_takes_other_names_and_prompts(demo):
    other = json.loads((demo[0] / "labels_other_words.json").read_text())
    settings = other["info"]["plgen_ddp"]["label"]
    assert settings["novel"] == ["heart", "fish", "key"] and len(settings["templates"]) == 2
    names = {category["id"]: category["name"] for category in other["categories"]}
    pseudo = {names[row["category_id"]] for row in other["annotations"] if "confidence" in row}
    assert pseudo and pseudo <= {"heart", "fish", "key"}


def test_it_ends_with_the_table_and_the_picture(demo, rules):
    output, printed = demo
    lines = printed.splitlines()
    heading = next(number for number, line in enumerate(lines) if "precision" in line and "F1" in line)
    table = lines[heading + 1 : heading + 1 + len(rules)]
    assert [f"demo_{line.split()[0]}" for line in table] == list(rules)
    assert all(len(line) <= 120 for line in table)
    assert "The world is drawn" in printed
    assert [line.partition(":")[0] for line in lines[-3:]] == ["made", "where", "next"]
    for path in (output / "labels.json", output / "rules.json", output / "rules.png"):
        assert str(path) in printed and path.is_file()
    with Image.open(output / "rules.png") as picture:
        assert 1000 <= picture.width <= 1600
    assert (output / "rules.png").stat().st_size < 300_000


def test_its_report_says_what_made_the_labels_and_how_fast(demo):
    page, printed = (demo[0] / "report.html").read_text(), demo[1]
    labels = json.loads((demo[0] / "labels.json").read_text())
    count = sum("confidence" in row for row in labels["annotations"])
    assert f"<h1>{count} labels on 48 images</h1>" in page
    assert "the threshold with the best F-beta on base names" in page
    assert re.search(r"[0-9.]+ images a second \(48 images on 2 ranks\)", page)
    assert all("report" in line for line in printed.splitlines()[-3:])


def test_a_labelling_ends_with_a_report_where_it_is_asked_for(demo_run, tmp_path, capsys):
    output = demo_run.copy(tmp_path / "out")
    words = ["--config", "demo_best", f"run.output={output}", f"label.output={tmp_path / 'labels.json'}"]
    truth = REPOSITORY / "plgen_ddp/demo/data/annotations/instances_demo.json"
    call("label", *words, "report.write=true", f"report.ground_truth={truth}")
    assert (tmp_path / "report.html").read_bytes() == (output / "report.html").read_bytes()
    assert f"wrote {tmp_path / 'report.html'}: 48 images shown" in capsys.readouterr().out
    (tmp_path / "report.html").unlink()
    wrong = ["report.write=true", f"report.output={tmp_path / 'labels.json'}"]
    assert "is label.output" in refused(capsys, "label", [*words, *wrong])
    wrong[1] = f"report.output={output / 'store' / 'manifest.json'}"
    assert "lies in the region store" in refused(capsys, "label", [*words, *wrong])
    boxes = tmp_path / "boxes.json"
    boxes.write_text("[]")
    wrong = [f"proposals.source={boxes}", f"label.output={boxes}"]
    assert "is proposals.source" in refused(capsys, "label", [*words, *wrong])
    call("label", *words)
    assert not (tmp_path / "report.html").exists()


def test_scenes_and_weights_are_small():
    scenes = sum(path.stat().st_size for path in (REPOSITORY / "plgen_ddp/demo/data").rglob("*") if path.is_file())
    weights = sum(path.stat().st_size for path in (REPOSITORY / "plgen_ddp/demo/weights").iterdir())
    assert scenes < 1_000_000 and weights < 4_000_000
