"""The benchmark by its own command: what is run, what is reported. Nothing here asserts a time."""

import json

import pytest
import torch
from commands import command, launcher, run

from plgen_ddp.benchmark.measurement import STAGES
from plgen_ddp.benchmark.run import usable_precisions
from plgen_ddp.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(rows of the JSON, what was printed) of a run with tiny models, which starts three timed processes."""
    folder = tmp_path_factory.mktemp("benchmark")
    done = run(
        command(
            "benchmark.py",
            *("--tiny", "--num-images", "5", "--reference-images", "2", "--precisions", "fp32,fp16", "--ranks", "2"),
            *("--scaling", "2,64000", "--growth", "1,2", "--json", folder / "rows.json", "--work", folder / "work"),
            "run.device=cpu",
        )
    )
    return json.loads((folder / "rows.json").read_text()), done.stdout


def table(printed, number):
    """The rows of the table of this number: heading to cell."""
    lines = [line for line in printed.split("\n\n")[number].splitlines() if line.startswith("|")]
    heading, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(heading, row, strict=True)) for row in rows]


def test_every_run_is_measured_once_and_is_in_the_json(report):
    rows, _ = report
    assert [(row["name"], row["precision"], row["images"], row["ranks"]) for row in rows] == [
        ("reference", "fp32", 2, 1),
        ("job", "fp32", 5, 2),
        ("job", "fp32", 10, 2),
    ]
    for row in rows:
        assert row["images_per_second"] == pytest.approx(row["images"] / row["seconds"])
        assert set(row["stages_ms"]) == set(STAGES)
        inside = sum(row["stages_ms"][name] for name in ("detector", "refine", "crop", "CLIP"))
        # The stages do not overlap, and are not longer than the run.
        assert 0 < inside * row["images"] / 1000 <= row["seconds"] * row["ranks"]
        assert min(row["stages_ms"][name] for name in STAGES if name != "copy") > 0


def test_job_and_reference_do_the_same_work(report):
    (reference, job, *_), _ = report
    assert reference["boxes_per_image"] == pytest.approx(job["boxes_per_image"], abs=10)
    assert job["boxes_per_image"] > 80
    assert job["boxes_per_image"] < job["crops_per_image"] <= 2 * job["boxes_per_image"]


def test_the_tables_show_the_figures_of_the_json(report):
    (reference, job, larger), printed = report
    shown = table(printed, 1)
    assert [row["run"] for row in shown] == ["reference", "job"]
    for row, measured in zip(shown, (reference, job), strict=True):
        assert row["images/s"] == f"{measured['images_per_second']:.3g}"
        assert row["ratio"] == f"{measured['images_per_second'] / reference['images_per_second']:.2f}"
        assert row["CLIP ms"].split()[0] == f"{measured['stages_ms']['CLIP']:.1f}"
    assert shown[1]["CLIP ms"].endswith(f"({job['peak_shares']['CLIP']:.0%})")
    assert [row["ranks"] for row in table(printed, 2)] == ["2"]
    grown = table(printed, 3)
    assert [row["images"] for row in grown] == ["5", "10"]
    assert grown[1]["ratio"] == f"{larger['seconds'] / job['seconds']:.2f}"


def test_the_text_says_what_was_left_out(report):
    _, printed = report
    notes = printed.split("\n\n")[0]
    assert "fp16 left out" in notes and "64000 ranks left out" in notes
    assert "the first 2 of the 5 images" in notes and f"torch {torch.__version__}" in notes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "{folder}"], "--images: no *.jpg in {folder}"),
        (["--precisions", "fp8"], "--precisions: 'fp8' is not one of"),
        (["--precisions", "fp16"], "--precisions: fp16 left out"),
        (["--precisions", "fp32", "--agreement"], "--agreement compares precisions"),
        (["--work", "{folder}/file"], "--work: {folder}/file is a file"),
        (["--json", "{folder}"], "--json: {folder} is a folder"),
        (["run.worker=3"], "unknown key run.worker"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_measured(tmp_path, capsys, words, message):
    (tmp_path / "file").write_text("")
    words = [word.format(folder=tmp_path) for word in words]
    work = [] if "--work" in words else ["--work", str(tmp_path / "work")]
    with pytest.raises(SystemExit) as exit_info:
        launcher("benchmark").main(["--tiny", *work, *words, "run.device=cpu"])
    assert exit_info.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {message.format(folder=tmp_path)}") and printed.err.count("\n") == 1
    assert not printed.out and not (tmp_path / "work").exists()


def test_an_earlier_run_is_not_measured_over(tmp_path, capsys):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "clip.pt").write_text("models are there")
    (tmp_path / "reference-1-images").mkdir()
    with pytest.raises(SystemExit):
        launcher("benchmark").main(
            ["--tiny", "--work", str(tmp_path), "--num-images", "1", "--precisions", "fp32", "run.device=cpu"]
        )
    assert "holds an earlier run; choose another folder" in capsys.readouterr().err


def test_a_precision_may_be_two():
    assert usable_precisions(["fp32", "fp32+fp16", "fp32+fp32"], CPU)[0] == ["fp32", "fp32+fp32"]
    with pytest.raises(UserError, match=r"fp32\+fp32\+fp32"):
        usable_precisions(["fp32+fp32+fp32"], CPU)
