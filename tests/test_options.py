"""--version, --options and --print-config of every command, and docs/options.md."""

import re
from dataclasses import fields

import pytest
from commands import REPOSITORY, launcher

from plgen_ddp import __version__
from plgen_ddp.command_line import command_line, meanings_of
from plgen_ddp.config import Config, load_config
from plgen_ddp.options import expected_value, options_of

COMMANDS = sorted(path.stem for path in (REPOSITORY / "launch").glob("*.py") if path.stem[0] != "_")
HOW = "run the command in plgen_ddp/command_line.py again"


@pytest.fixture(scope="module")
def launchers():
    return {name: launcher(name) for name in COMMANDS}


def printed(main, words, capsys):
    """What a command prints on stdout before it exits with status 0."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert not stopped.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_its_version_and_its_options(launchers, name, capsys):
    assert printed(launchers[name].main, ["--version"], capsys) == f"plgen_ddp {__version__}\n"
    options = printed(launchers[name].main, ["--options"], capsys)
    own = {
        "audit": "LABELS SOURCE",
        "convert_clip": "--output FILE",
        "evaluate": "--ground-truth FILE",
        "export": "--output PATH",
        "make_json": "--output FILE",
        "report": "--ground-truth FILE",
        "train_proposals": "`train.steps` (a whole number; default 90000). ",
    }
    assert own.get(name, "`run.workers` (a whole number; default 2). ") in options


def test_docs_options_md_is_what_the_commands_print(launchers, capsys):
    expected = "\n".join(printed(launchers[name].main, ["--options"], capsys) for name in ("score", "train_proposals"))
    assert (REPOSITORY / "docs" / "options.md").read_text() == expected, HOW


def test_every_option_says_what_it_means_and_what_null_means(launchers):
    for schema in (Config, launchers["train_proposals"].ProposalTrainingConfig):
        for section in fields(schema):
            meanings = meanings_of(section.type)
            for option in fields(section.type):
                meaning = meanings.get(option.name, "")
                assert len(meaning) > 15 and meaning.endswith("."), f"{section.name}.{option.name}: {meaning!r}"
                if option.default is None:
                    assert re.search("null|needs? it", meaning), f"{section.name}.{option.name}: what is null?"


def test_the_printed_configuration_is_a_config_that_gives_the_same(launchers, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = ["label.vocabulary={novel: [no, '1'], aliases: {no: [nay]}}", "clip.crop_scales=1,2", "run.output=010"]
    config = load_config("coco_vlplm", words)
    text = printed(launchers["label"].main, ["--config", "coco_vlplm", *words, "--print-config"], capsys)
    (tmp_path / "printed.yaml").write_text(text)
    assert load_config("printed.yaml") == config
    assert config.label.templates in text
    text = printed(launchers["benchmark"].main, ["run.workers=7", "--print-config"], capsys)
    (tmp_path / "printed.yaml").write_text(text)
    assert load_config("printed.yaml") == load_config("coco_vlplm", ["run.workers=7"])


def test_the_printed_configuration_of_a_command_without_a_config_is_its_arguments(launchers, capsys):
    words = ["--labels", "a.json", "--ground-truth", "b.json", "--novel", "cat", "--print-config"]
    lines = printed(launchers["evaluate"].main, words, capsys).splitlines()
    assert {"labels: a.json", "ground_truth: b.json", "- cat", "only_images_with_novel: false"} <= set(lines)


def test_a_mistake_is_one_line_also_when_the_configuration_is_only_printed(launchers, capsys):
    with pytest.raises(SystemExit) as stopped:
        launchers["label"].main(["--config", "coco_vlplm", "run.workers=x", "--print-config"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: run.workers is 'x'; expected a whole number\n"


def test_words_may_stand_before_and_after_switches():
    arguments = command_line("manual").parse_intermixed_args(["run.workers=1", "--config", "demo", "run.threads=2"])
    assert (arguments.config, arguments.overrides) == ("demo", ["run.workers=1", "run.threads=2"])


def test_every_kind_of_value_has_words():
    kinds = {expected_value(option) for option in options_of(Config).values()}
    assert {"a whole number", "a number, or null", "true or false", "a list of numbers", "a file, or null"} <= kinds
    assert len(options_of(Config)) == sum(len(fields(section.type)) for section in fields(Config))
