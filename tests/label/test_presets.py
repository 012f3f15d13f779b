"""The packaged COCO presets: each loads by name, and its files are there and can be read."""

from dataclasses import asdict
from pathlib import Path

import pytest

from plgen_ddp.config import load_config
from plgen_ddp.label.rule import name_table
from plgen_ddp.label.vocabulary import read_templates, read_vocabulary

CONFIGS = Path(__file__).parents[2] / "configs"
PRESETS = sorted(path.stem for path in CONFIGS.glob("coco_*.yaml") if path.stem != "coco_stage_one")


def test_every_family_has_its_preset():
    families = {"vlplm", "marvelovd", "sasdet", "dstdet", "hcc", "aggdet", "lpovod", "best"}
    assert {f"coco_{family}" for family in families} <= set(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_loads_by_name_in_any_folder_and_its_files_can_be_read(preset, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = load_config(preset)
    for file in (config.label.vocabulary, config.label.templates, config.detector.config):
        assert Path(file).is_relative_to(CONFIGS) and Path(file).is_file()
    assert len(read_templates(config)) == 63
    vocabulary, split = read_vocabulary(config), read_vocabulary(load_config("coco_vlplm"))
    assert (vocabulary.novel, vocabulary.base) == (split.novel, split.base)
    table = name_table(vocabulary, vocabulary.base, config.label)
    assert set(table.levels) >= ({"novel"} if config.label.class_score == "hierarchy" else set())
    assert table.others == len(vocabulary.distractors)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_labels_the_store_of_another(preset):
    config, recipe = load_config(preset), load_config("coco_vlplm")
    assert (asdict(config.detector), asdict(config.clip)) == (asdict(recipe.detector), asdict(recipe.clip))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_header_of_a_preset_has_its_command(preset):
    header = (CONFIGS / f"{preset}.yaml").read_text().partition("\nbase:")[0]
    assert f"--config configs/{preset}.yaml" in header


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("sasdet", {"box_score": "objectness", "fusion": "mean", "objectness_weight": 0.5, "score_threshold": 0.9}),
        ("dstdet", {"class_score": "all", "require_novel": True, "fusion": "class_only", "score_threshold": 0.8}),
        ("hcc", {"class_score": "hierarchy", "box_score": "learned", "score_threshold": 0.8, "box_threshold": 0.3}),
        (
            "lpovod",
            {"class_score": "retrieved", "fusion": "class_only", "box_score": "objectness", "box_threshold": 0.5},
        ),
        ("best", {"box_score": "verified", "threshold": "f_beta_base", "suppress": ["inside", "base_iou"]}),
        ("aggdet", {"box_score": "agreement", "fusion": "geometric", "threshold": "f_beta_base"}),
    ],
)
def test_a_preset_has_the_published_rule(preset, options):
    label = asdict(load_config(f"coco_{preset}").label)
    assert {name: label[name] for name in options} == options


DATA_SET = ("annotations", "vocabulary", "templates", "temperature", "allow_partial", "output")


@pytest.mark.parametrize("preset", sorted(path.stem for path in CONFIGS.glob("demo_*.yaml")))
def test_a_preset_of_the_demo_has_the_rule_of_cocos_and_the_rest_of_the_demo(preset):
    """Where COCO has one of that name."""
    config, demo = load_config(preset), load_config("demo")
    for section in ("data", "detector", "proposals", "clip", "run"):
        assert getattr(config, section) == getattr(demo, section), section
    assert all(getattr(config.label, name) == getattr(demo.label, name) for name in DATA_SET)
    family = preset.removeprefix("demo_")
    if f"coco_{family}" in PRESETS:
        expected = asdict(load_config(f"coco_{family}").label)
        assert {name: value for name, value in asdict(config.label).items() if name not in DATA_SET} == {
            name: value for name, value in expected.items() if name not in DATA_SET
        }
