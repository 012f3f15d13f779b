"""The command behind docs/scale.md, with few images."""

import re

import pytest

from plgen_ddp.benchmark.scale import main


def test_every_step_is_measured(tmp_path, capsys):
    assert main(["--images", "600", "--images-per-part", "2", "--work", str(tmp_path / "work")]) == 0
    printed = capsys.readouterr().out
    rows = re.findall(r"^\| ([a-z JSON]+) \| [\d.]+ \| [\d.]+ \| (.+) \|$", printed, re.MULTILINE)
    assert [step for step, _ in rows] == [
        *("draw the JSON", "start a new run", "write the parts", "go on for the first time", "go on")
    ]
    notes = dict(rows)
    assert "300 parts" in notes["write the parts"] and "index" in notes["go on"]
    assert len(list((tmp_path / "work" / "store" / "parts").iterdir())) == 300


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        main(["--work", str(tmp_path)])
    assert stopped.value.code == 2 and "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
