"""The doctor finds everything that would stop a run, at once, and nothing where the run goes through."""

import json

import pytest
import torch
from commands import REPOSITORY, call

CONFIG = ["--config", str(REPOSITORY / "configs" / "coco_vlplm.yaml")]


@pytest.fixture
def dataset(small_dataset):
    return small_dataset(3)


@pytest.fixture
def words(tiny_models, dataset, tmp_path):
    return [*CONFIG, *tiny_models.words(), *dataset.words(), f"run.output={tmp_path}/out", "run.device=cpu"]


def found(capsys, words, status):
    """The findings by subject, and whether each is an error."""
    capsys.readouterr()
    call("doctor", *words, "--json", status=status)
    return json.loads(capsys.readouterr().out)


def test_a_run_that_goes_through_has_no_error_and_writes_nothing(words, tmp_path, capsys):
    call("doctor", *words)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("0 errors")
    assert all(line.startswith(("ok ", "warning ")) for line in lines[:-1])
    text = "\n".join(lines)
    assert "3 images" in text and "3 of 3 images looked at" in text and "novel and" in text and "torch 2" in text
    for subject in ("detector", "encoder", "names", "templates", "versions", "GPUs", "CPUs", "/dev/shm", "disk"):
        assert f" {subject}: " in text
    assert not (tmp_path / "out").exists()


def test_all_problems_are_found_at_once(words, dataset, tmp_path, capsys):
    dataset.files()[1].write_bytes(b"")
    torch.save({"model": {"proposal_generator.x": torch.zeros(2)}}, tmp_path / "other.pth")
    wrong = [
        "label.score_treshold=1",
        "run.workers=-1",
        f"detector.weights={tmp_path}/other.pth",
        "clip.model=ViT-B/23",
        "label.vocabulary=[fish, fish]",
        "label.templates=['no place']",
        "run.output=/dev/null/out",
    ]
    errors = [row for row in found(capsys, [*words, *wrong], 1) if row["level"] == "error"]
    assert all(row["message"] and row["remedy"] for row in errors)
    messages = "\n".join(row["message"] for row in errors)
    for part in (
        "did you mean 'label.score_threshold'",
        "run.workers is -1",
        "image 2: empty file",
        "lacks",
        "did you mean 'ViT-B/",
        "given twice: fish",
        "'no place' must hold",
        "cannot write into /dev/null",
    ):
        assert part in messages, part


def test_each_missing_option_is_named(capsys):
    messages = "\n".join(row["message"] for row in found(capsys, [*CONFIG, "clip.model=nowhere.pt"], 1))
    for key in ("data.annotations", "data.image_root", "detector.weights", "run.output"):
        assert f"{key} is not set" in messages


def test_a_sample_may_miss_what_all_finds(words, dataset, capsys):
    for path in dataset.files():
        path.write_bytes(path.read_bytes()[:300])
    sampled = found(capsys, [*words, "--sample", "1"], 1)
    assert any("1 of 1 images cannot be read" in row["message"] for row in sampled)
    whole = found(capsys, [*words, "--all", "run.max_failures=3"], 0)
    assert [row["level"] for row in whole if "3 of 3 images cannot be read" in row["message"]] == ["warning"]


def test_too_little_room_for_the_store_is_an_error(words, capsys):
    (disk,) = (
        row for row in found(capsys, [*words, "detector.max_boxes=1000000000000"], 1) if row["subject"] == "disk"
    )
    assert disk["level"] == "error" and disk["remedy"].startswith("make room")
