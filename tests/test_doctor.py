"""The doctor finds everything that would stop a run, at once, and nothing where the run goes through."""

import hashlib
import json

import pytest
import torch
from commands import REPOSITORY, call, command, run

from plgen_ddp.doctor.settings import read_settings
from plgen_ddp.doctor.shared_output import SharedView, Token, shared_finding

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
    call("doctor", *words, status=1)
    assert "\n1 error, " in capsys.readouterr().out
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


def test_an_option_without_effect_is_found_and_one_that_a_later_word_gives_it_is_none():
    void, takes = "label.score_threshold=0.7", "label.threshold=fixed"
    for words, messages in (
        ([void], ["label.score_threshold decides nothing with label.threshold=f_beta_base"]),
        ([void, takes, "run.workers=-1"], ["run.workers is -1"]),
        ([void, "run.workers=-1"], ["run.workers is -1", "label.score_threshold decides nothing"]),
    ):
        config, _, findings = read_settings("coco_best", words)
        wrong = [finding.message for finding in findings if "correct it" in finding.remedy]
        assert config is not None and len(wrong) == len(messages), wrong
        assert all(message.startswith(start) for message, start in zip(wrong, messages, strict=True)), wrong


def test_each_missing_option_is_named(capsys):
    messages = "\n".join(row["message"] for row in found(capsys, [*CONFIG, "clip.model=nowhere.pt"], 1))
    for key in ("data.annotations", "data.image_root", "detector.weights", "run.output"):
        assert f"{key} is not set" in messages


def test_a_sample_may_miss_what_all_finds(words, dataset, capsys):
    for path in dataset.files():
        path.write_bytes(path.read_bytes()[:300])
    sampled = found(capsys, [*words, "--sample", "1"], 1)
    assert any("1 of 1 image cannot be read" in row["message"] for row in sampled)
    whole = found(capsys, [*words, "--all", "run.max_failures=3"], 0)
    assert [row["level"] for row in whole if "3 of 3 images cannot be read" in row["message"]] == ["warning"]


def test_annotations_that_other_programs_refuse_are_counted(words, dataset, capsys):
    data = dataset.read()
    first = data["annotations"][0]
    without = {key: value for key, value in first.items() if key != "bbox"}
    data["annotations"] += [without | {"id": 10**6}, first | {"image_id": 10**6, "id": 10**6 + 1}, first]
    data["annotations"].append(first | {"category_id": 10**6, "id": 10**6 + 2})
    dataset.write(data)
    (row,) = (row for row in found(capsys, words, 0) if row["subject"] == "annotations")
    said = ("1 have no box", "1 are of images that it lacks", "1 are of categories", "1 have the id of another")
    assert row["level"] == "warning" and all(text in row["message"] for text in said), row


def test_too_little_room_for_the_store_is_an_error(words, capsys):
    (disk,) = (
        row for row in found(capsys, [*words, "detector.max_boxes=1000000000000"], 1) if row["subject"] == "disk"
    )
    assert disk["level"] == "error" and disk["remedy"].startswith("make room")


def test_equal_images_and_changed_ones_are_found_by_their_digests(words, dataset, tmp_path, capsys):
    files = dataset.files()
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  some/where/{path.name}\n" for path in files]
    known = tmp_path / "sums.txt"
    known.write_text("".join(lines))
    checks = [*words, "--digests", "--known-digests", str(known)]
    digests = [row["message"] for row in found(capsys, checks, 0) if "digests" in row["subject"]]
    assert digests == ["3 images, no two of them equal", f"3 images as in {known}"]
    files[2].write_bytes(files[0].read_bytes())
    known.write_text("".join(lines[1:]))
    rows = {row["subject"]: row for row in found(capsys, [*checks, "run.max_failures=9"], 1)}
    assert rows["digests"]["level"] == "warning" and f"{files[0].name} = {files[2].name}" in rows["digests"]["message"]
    assert rows["known digests"]["level"] == "error" and files[2].name in rows["known digests"]["message"]
    copy = f"{hashlib.sha256(b'another').hexdigest()}  else/where/{files[1].name}\n"
    known.write_text("".join([*lines, copy]))
    files[2].write_bytes(files[1].read_bytes())
    message = {row["subject"]: row for row in found(capsys, [*checks, "run.max_failures=9"], 1)}["known digests"]
    assert "1 image differs" in message["message"], "a name may have several digests"
    known.write_text("nonsense\n")
    assert "no list of digests" in {row["subject"]: row for row in found(capsys, checks, 1)}["known digests"]["message"]


def test_under_torchrun_all_ranks_see_one_output(words, tmp_path):
    done = run(command("doctor.py", *words, ranks=2))
    (line,) = (line for line in done.stdout.splitlines() if "shared output" in line)
    assert line.startswith("ok") and "2 ranks on" in line and done.stdout.count("0 errors") == 1
    assert not (tmp_path / "out").exists(), "nothing is left"


def test_ranks_with_folders_of_their_own_are_found(tmp_path):
    """Two nodes that have the same path and not the same folder."""
    tokens = [Token(tmp_path / f"node{rank}" / "out", "check", rank) for rank in range(2)]
    views = [SharedView(f"n{rank}", token.error, token.unseen(2, patience=0.0)) for rank, token in enumerate(tokens)]
    finding = shared_finding(views, tmp_path / "out")
    assert (
        finding.level == "error"
        and "rank 0 on n0 does not see" in finding.message
        and "rank 1 on n1" in finding.message
    )
    for token in tokens:
        token.remove()
    assert not list(tmp_path.iterdir())
