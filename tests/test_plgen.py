"""`plgen VERB` is the verb's script: the same words, the same end, and nothing heavy before it."""

import subprocess
import sys

import pytest
import yaml
from commands import REPOSITORY, launcher

from plgen_ddp import __version__


def plgen(*words):
    """The exit status of `plgen WORDS`."""
    before = list(sys.argv)
    try:
        with pytest.raises(SystemExit) as ended:
            launcher("__main__").main(list(map(str, words)))
    finally:
        sys.argv[:] = before
    return ended.value.code


def test_every_script_of_launch_is_a_verb_with_its_summary(capsys):
    assert plgen("--help") == 0
    printed = capsys.readouterr().out.partition("verbs:\n")[2].splitlines()
    verbs = dict(line.split(maxsplit=1) for line in printed)
    scripts = {path.stem for path in (REPOSITORY / "launch").glob("*.py") if not path.stem.startswith("_")}
    assert verbs.keys() == {name.replace("_", "-") for name in scripts}
    assert verbs["label"].startswith("Pseudo labels from a region store")


def test_a_verb_takes_the_words_of_its_script(tmp_path, capsys):
    assert plgen("label", "--config", "demo", "label.nms_iou=0.25", "--print-config") == 0
    assert yaml.safe_load(capsys.readouterr().out)["label"]["nms_iou"] == 0.25
    assert plgen("label", "--help") == 0
    assert capsys.readouterr().out.startswith("usage: label.py ")
    assert plgen("make-json", tmp_path, "--output", tmp_path / "made.json") == 2
    assert capsys.readouterr().err.startswith("error: no images in")


def test_a_verb_may_have_the_name_of_its_script(tmp_path, capsys):
    assert plgen("make_json", tmp_path, "--output", tmp_path / "made.json") == 2
    assert capsys.readouterr().err.startswith("error: no images in")
    assert plgen("text_embeddings", "--help") == 0
    assert plgen("make_jsno") == 2
    assert "plgen has no verb 'make_jsno'; did you mean 'make-json'?" in capsys.readouterr().err


def test_an_unknown_verb_is_one_line_with_the_nearest_one(capsys):
    assert plgen("lable") == 2
    assert capsys.readouterr().err == "error: plgen has no verb 'lable'; did you mean 'label'?\n"


def test_its_help_imports_nothing_heavy():
    code = """
import runpy, sys
sys.argv = ["plgen", "--help"]
try:
    runpy.run_module("launch", run_name="__main__")
except SystemExit:
    assert not {"torch", "omegaconf", "PIL", "pyarrow"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == __version__ and citation["cff-version"] == "1.2.0"
