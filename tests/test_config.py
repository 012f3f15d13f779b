"""Options: known keys only, right types and ranges, one clear line for each mistake."""

import re
from pathlib import Path

import pytest

from plgen_ddp.config import load_config
from plgen_ddp.errors import UserError

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["coco_marvelovd", "coco_vlplm"])
def test_presets_load_and_find_what_lies_beside_them(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = load_config(REPOSITORY / "configs" / f"{name}.yaml")
    assert config.find(config.detector.config, "detector.config").is_file()
    assert config.find(config.label.vocabulary, "label.vocabulary").is_file()
    assert config.find(config.label.templates, "label.templates").is_file()


def test_presets_differ_in_stage_two_only():
    marvelovd, vlplm = (load_config(REPOSITORY / "configs" / f"coco_{name}.yaml") for name in ("marvelovd", "vlplm"))
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


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("label.score_treshold=1", "unknown key label.score_treshold .*did you mean 'label.score_threshold'"),
        ("lable.nms_iou=1", "unknown section 'lable' .*did you mean 'label'"),
        ("run.workers=many", "run.workers.*'many'"),
        ("run.workers=-1", "run.workers is -1; expected 0 or more"),
        ("label.nms_iou=1.5", "label.nms_iou is 1.5; expected a number from 0 to 1"),
        ("clip.precision=fp8", "clip.precision is 'fp8'; expected one of auto, fp32"),
        ("clip.crop_scales=[]", "clip.crop_scales"),
        ("data.limit=0", "data.limit is 0"),
        ("data=1", "write data.key=value"),
        ("workers", "not of the form section.key=value"),
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
        ("run: {workers: [}", "is not valid YAML"),
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


@pytest.mark.parametrize(
    "text", ["2024_05_01", "1e3", "010", "1:30", "on", "out/my run #2", "out/a: b", "out/[1]", "null.d"]
)
def test_a_path_on_the_command_line_is_meant_as_it_stands(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text("run: {output: before}")
    assert load_config(path, [f"run.output={text}"]).run.output == text
    assert load_config(path, [f"label.vocabulary={text}"]).label.vocabulary == text or text.startswith("[")
    assert load_config(path, [f"run.output='{text}'"]).run.output == text
    assert load_config(path, ["run.output=null"]).run.output is None
    assert load_config(path, ["label.vocabulary=[a cat, dog]"]).label.vocabulary == ["a cat", "dog"]


def test_a_missing_value_and_a_missing_file_are_named(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("{}")
    config = load_config(path)
    with pytest.raises(UserError, match=r"data\.annotations is not set"):
        config.require("data.annotations")
    with pytest.raises(UserError, match=r"detector\.config: no file at nowhere.yaml or .*nowhere.yaml"):
        config.find("nowhere.yaml", "detector.config")
    with pytest.raises(UserError, match="no config file at"):
        load_config(tmp_path / "b.yaml")
