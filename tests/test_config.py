"""Options: known keys only, right types and ranges, one clear line for each mistake."""

import re
from pathlib import Path

import pytest

from plgen_ddp.config import load_config
from plgen_ddp.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("name", ["coco_marvelovd", "coco_vlplm"])
def test_a_preset_loads_by_name_or_path_from_any_folder_and_holds_the_paths_of_its_files(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = load_config(name)
    assert config == load_config(CONFIGS / f"{name}.yaml")
    assert config.detector.config == str(CONFIGS / "detectors" / "mask_rcnn_R_50_FPN_1x_base_num1.yaml")
    assert config.label.vocabulary == str(CONFIGS / "vocabularies" / "coco_ovd.yaml")
    assert config.label.templates == str(CONFIGS / "templates" / "vild_63.txt")


def test_a_file_of_the_current_folder_wins_over_a_packaged_config(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coco_vlplm").write_text("run: {workers: 7}")
    assert load_config("coco_vlplm").run.workers == 7


def test_a_file_option_is_found_in_the_current_folder_then_beside_the_config_then_in_the_package(monkeypatch, tmp_path):
    (tmp_path / "beside").mkdir()
    config = tmp_path / "beside" / "mine.yaml"
    config.write_text("label: {templates: vild_63}")
    monkeypatch.chdir(tmp_path)

    def templates(value):
        return load_config("beside/mine.yaml", [f"label.templates={value}"]).label.templates

    assert load_config(config).label.templates == templates("vild_63") == str(CONFIGS / "templates" / "vild_63.txt")
    assert templates("templates/vild_63.txt") == str(CONFIGS / "templates" / "vild_63.txt")
    (tmp_path / "beside" / "vild_63").write_text("a {}")
    assert templates("vild_63") == str(Path("beside", "vild_63"))
    (tmp_path / "vild_63").write_text("a {}")
    assert templates("vild_63") == "vild_63"
    with pytest.raises(UserError, match=r"label\.templates: no file at vild_36 or .*did you mean 'vild_63'"):
        templates("vild_36")


def test_a_detector_file_that_is_not_there_is_a_mistake_of_the_commands_that_need_it(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("detector: {config: nowhere.yaml}")
    assert load_config(path).detector.config == "nowhere.yaml"
    with pytest.raises(UserError, match=r"detector\.config: no file at nowhere.yaml or .*nowhere.yaml"):
        load_config(path, required=["detector.config"])


def test_presets_differ_in_stage_two_only():
    marvelovd, vlplm = (load_config(f"coco_{name}") for name in ("marvelovd", "vlplm"))
    assert (marvelovd.detector, marvelovd.clip) == (vlplm.detector, vlplm.clip)
    assert (marvelovd.label.objectness_weight, marvelovd.label.score_threshold) == (0.0, 0.5)
    assert (vlplm.label.objectness_weight, vlplm.label.score_threshold) == (0.5, 0.8)
    assert marvelovd.label.nms_iou == vlplm.label.nms_iou == 0.6


def test_command_line_wins_over_file_and_file_over_default(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("run: {workers: 3, images_per_batch: 9}")
    config = load_config(path, ["run.workers=5", "label.vocabulary=[cat, dog]", "data.limit=null"])
    assert (config.run.workers, config.run.images_per_batch, config.run.max_failures) == (5, 9, 0)
    assert config.label.vocabulary == ["cat", "dog"]


def test_a_mapping_on_the_command_line_replaces_the_files(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("label: {vocabulary: {novel: [cat], distractors: [dog]}}")
    config = load_config(path, ["label.vocabulary={novel: [bus]}"])
    assert config.label.vocabulary == {"novel": ["bus"]}


def test_commas_make_a_list_unless_a_file_has_that_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("{}")

    def load(word):
        return load_config("a.yaml", [word])

    assert load("label.vocabulary=dog,traffic light, no").label.vocabulary == ["dog", "traffic light", "no"]
    assert load("clip.crop_scales=1,1.5").clip.crop_scales == [1.0, 1.5]
    assert load("clip.crop_scales=2").clip.crop_scales == [2.0]
    many = [f"name{number}" for number in range(100)]  # longer than a file's name can be
    assert load("label.vocabulary=" + ",".join(many)).label.vocabulary == many
    (tmp_path / "dog,cat").write_text("novel: [bus]")
    assert load("label.vocabulary=dog,cat").label.vocabulary == "dog,cat"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("label.score_treshold=1", "unknown key label.score_treshold .*did you mean 'label.score_threshold'"),
        ("lable.nms_iou=1", "unknown section 'lable' .*did you mean 'label'"),
        ("run.workers=many", "run.workers.*'many'"),
        ("run.workers=-1", "run.workers is -1; expected 0 or more"),
        ("label.nms_iou=1.5", "label.nms_iou is 1.5; expected a number from 0 to 1"),
        ("label.wanted_precision=0.5", "label.wanted_precision decides nothing with label.threshold=fixed; add label"),
        ("label.f_beta=1e200", r"label.f_beta is 1e\+200; expected a positive number up to 1000"),
        ("label.score_threshold=", "label.score_threshold is ''; expected a number from 0 to 1, a mapping"),
        ("clip.precision=fp8", "clip.precision is 'fp8'; expected one of auto, fp32"),
        ("run.workers=null", "run.workers is null; expected a whole number"),
        ("data.limit=1.5", "data.limit is 1.5; expected a whole number, or null"),
        ("label.allow_partial=maybe", "label.allow_partial is 'maybe'; expected true or false"),
        ("clip.crop_scales=[]", "clip.crop_scales is .*; expected one or more positive numbers"),
        ("clip.crop_scales=1,wide", r"clip.crop_scales is \[1, 'wide'\]; expected a list of numbers"),
        ("clip.crop_scales=[1, [2]]", r"clip.crop_scales is \[1, \[2\]\]; expected a list of numbers"),
        ("clip.crop_scales=null", "clip.crop_scales is null; expected a list of numbers"),
        ("run.output='out", """run.output: "'out" is not valid YAML: line 1: found unexpected end of stream"""),
        ("run.output='a' b", "run.output: .* is not valid YAML: line 1: "),
        ("run.output=${nowhere}", "run.output: .*'nowhere' not found"),
        ("data.limit=0", "data.limit is 0"),
        ("data=1", "write data.key=value"),
        ("run={workers: 1}", "'run' on the command line is a section"),
        ("workers", "not of the form section.key=value"),
        ("workers=3", "unknown key workers on the command line; did you mean 'run.workers'"),
        ("label.vocabulary.novel=[cat]", "unknown key label.vocabulary.novel .*did you mean 'label.vocabulary'"),
        ("label.vocabulary=nowhere.yaml", "label.vocabulary: no file at nowhere.yaml or .*nowhere.yaml"),
        ("label.vocabulary=[1", "label.vocabulary"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_that_names_it(tmp_path, word, message):
    path = tmp_path / "a.yaml"
    path.write_text("{}")
    with pytest.raises(UserError) as caught:
        load_config(path, [word])
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: {wrokers: 3}", "unknown key run.wrokers in .*did you mean 'run.workers'"),
        ("run: [1, 2]", "'run' in .* is a section"),
        ("run:\n  workers: [}", "is not valid YAML: line 2: "),
        ("- 1", "does not hold a mapping"),
        ("run: {output: !!python/object/apply:os.system ['true']}", "is not valid YAML"),
    ],
)
def test_a_mistake_in_the_file_names_the_file(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_config(path)
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_value_of_the_wrong_type_in_the_file_is_named_with_its_key(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("clip: {crop_scales: 1}")
    with pytest.raises(UserError, match=r"clip\.crop_scales is 1; expected a list of numbers"):
        load_config(path)
    assert load_config(path, ["clip.crop_scales=2"]).clip.crop_scales == [2.0], "the command line replaced it"


@pytest.mark.parametrize(
    "text",
    ["2024_05_01", "1e3", "010", "1:30", "on", "out/my run #2", "out/a: b", "out/[1]", "[1]", "null.d", "a,b"],
)
def test_a_path_on_the_command_line_is_meant_as_it_stands(monkeypatch, tmp_path, text):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("run: {output: before}")
    assert load_config("a.yaml", [f"run.output={text}"]).run.output == text
    assert load_config("a.yaml", [f"run.output='{text}'"]).run.output == text
    Path(text).parent.mkdir(exist_ok=True)
    Path(text).write_text("novel: [cat]")
    assert load_config("a.yaml", [f"detector.config={text}"]).detector.config == text
    # Where a list is possible, brackets are one, and quotes make them a path.
    assert load_config("a.yaml", [f"label.vocabulary={text}"]).label.vocabulary == ([1] if text == "[1]" else text)
    assert load_config("a.yaml", [f"label.vocabulary='{text}'"]).label.vocabulary == text


def test_null_and_a_list_in_brackets_are_yaml(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("run: {output: before}")
    assert load_config(path, ["run.output=null"]).run.output is None
    assert load_config(path, ["label.vocabulary=[a cat, dog]"]).label.vocabulary == ["a cat", "dog"]


def test_a_required_key_without_a_value_is_named(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("{}")
    message = "data.annotations is not set; add data.annotations=... to the command or set it in the config"
    for words in ([], ["data.annotations="]):
        with pytest.raises(UserError, match=re.escape(message)):
            load_config(path, words, ["data.annotations"])
    with pytest.raises(UserError, match=re.escape(message)):
        load_config(path, required=lambda config: ["data.annotations"] if config.run.workers else [])
    assert load_config(path, ["run.workers=0"], lambda config: ["data.annotations"] if config.run.workers else [])


def test_an_unknown_config_is_named_with_the_nearest_or_all():
    with pytest.raises(UserError, match=r"no config file at coco_vlpm, .*; did you mean 'coco_vlplm'"):
        load_config("coco_vlpm")
    with pytest.raises(UserError, match=r"no config file at x/b.yaml, .* the packaged configs are .*coco_marvelovd, "):
        load_config("x/b.yaml")


def test_a_config_can_start_from_others(tmp_path):
    (tmp_path / "rule").mkdir()
    (tmp_path / "rule" / "a {}.txt").write_text("a {}")
    (tmp_path / "rule" / "rule.yaml").write_text("label: {templates: 'a {}.txt', nms_iou: 0.1, temperature: 0.5}")
    (tmp_path / "data.yaml").write_text("run: {output: here}\nlabel: {nms_iou: 0.2, temperature: null}")
    (tmp_path / "mine.yaml").write_text("base: [rule/rule.yaml, data.yaml]\nrun: {workers: 7}")
    config = load_config(tmp_path / "mine.yaml")
    assert (config.run.output, config.run.workers) == ("here", 7)
    assert (config.label.nms_iou, config.label.temperature) == (0.2, None), "the later file wins, also with null"
    assert config.label.templates == str(tmp_path / "rule" / "a {}.txt"), "a file lies beside the config that names it"
    assert load_config(tmp_path / "mine.yaml", ["label.nms_iou=0.3"]).label.nms_iou == 0.3
    (tmp_path / "mine.yaml").write_text("base: coco_vlplm")
    assert load_config(tmp_path / "mine.yaml") == load_config("coco_vlplm")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: nowhere.yaml", r"^base in .*mine\.yaml: no config file at .*nowhere\.yaml or "),
        ("base: coco_vlpm.yaml", "did you mean 'coco_vlplm.yaml'"),
        ("base: [1]", r"base in .*mine\.yaml is \[1\]; expected a config file or a list"),
        ("base: {run: 1}", "expected a config file or a list"),
        ("base: mine.yaml", "leads back to itself"),
        ("base: other.yaml", r"base in .*other\.yaml: .*mine\.yaml leads back to itself"),
        ("base: wrong.yaml", "unknown key run.wrokers in .*wrong.yaml"),
    ],
)
def test_a_mistake_in_a_base_is_one_line(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text("base: mine.yaml")
    (tmp_path / "wrong.yaml").write_text("run: {wrokers: 3}")
    with pytest.raises(UserError, match=message) as caught:
        load_config(tmp_path / "mine.yaml")
    assert "\n" not in str(caught.value)
