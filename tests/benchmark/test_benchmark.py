"""The benchmark by its own command, and what its figures are made of. Nothing here asserts a time."""

import json
import time

import numpy as np
import pytest
import torch
from conftest import command, run

from plgen_ddp.benchmark.run import STAGES, _count_flops, changed_labels, same_boxes, usable_precisions
from plgen_ddp.errors import UserError
from plgen_ddp.records import PseudoLabels
from plgen_ddp.score.timing import Awaited, StageClock, add_seconds, stage

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(rows of the JSON, what was printed) of a run with tiny models."""
    folder = tmp_path_factory.mktemp("benchmark")
    done = run(
        command(
            "benchmark.py",
            *("--tiny", "--num-images", "5", "--reference-images", "2", "--precisions", "fp32,fp16"),
            *("--scaling", "2", "--growth", "2", "--json", folder / "rows.json", "--work", folder / "work"),
            "run.device=cpu",
        )
    )
    return json.loads((folder / "rows.json").read_text()), done.stdout


def test_rows_hold_the_reference_and_the_job(report):
    rows, _ = report
    assert [(row["name"], row["precision"], row["images"]) for row in rows] == [
        ("reference", "fp32", 2),
        ("job", "fp32", 5),
        ("job", "fp32", 5),
        ("job", "fp32", 10),
    ]
    assert rows[2]["ranks"] == 2
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


def test_the_text_says_what_was_left_out(report):
    _, printed = report
    assert "fp16 left out" in printed and "the first 2 of the 5 images" in printed and "torch " in printed


def test_no_images_is_one_line(tmp_path):
    done = run(command("benchmark.py", "--tiny", "--images", tmp_path, "--work", tmp_path / "work"), status=2)
    assert done.stderr.splitlines()[-1].startswith("error: --images: no *.jpg in")


def test_unknown_precision_is_an_error():
    assert usable_precisions(["fp32"], CPU) == (["fp32"], [])
    with pytest.raises(UserError, match="fp8"):
        usable_precisions(["fp8"], CPU)


def test_flops_are_counted_by_stage():
    left, right = torch.ones(3, 5), torch.ones(5, 7)

    def work():
        with stage("detector"):
            left @ right
        with stage("CLIP"):
            left @ right
            left @ right

    assert _count_flops(work) == {"detector": 2 * 3 * 5 * 7, "CLIP": 4 * 3 * 5 * 7}


def test_a_clock_counts_its_stages_while_it_runs():
    clock = StageClock(CPU)
    with stage("before"):
        pass
    with clock.running():
        with stage("sleep"):
            time.sleep(0.02)
        add_seconds("elsewhere", 1.5)
        awaited = Awaited("wait", (time.sleep(0.01) or item for item in (1, 2)))
        assert list(awaited) == [1, 2]
    with stage("after"):
        pass
    seconds = clock.seconds()
    assert seconds.keys() == {"sleep", "elsewhere", "wait"}
    assert seconds["sleep"] >= 0.02 and seconds["elsewhere"] == 1.5
    assert seconds["wait"] == awaited.seconds >= 0.02


def test_an_error_inside_a_stage_is_not_swallowed():
    clock = StageClock(CPU)
    with clock.running(), pytest.raises(KeyError), stage("detector"):
        raise KeyError
    with clock.running() as other:
        assert other is clock


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def test_same_boxes_is_a_share_over_all_images():
    expected = {1: boxes([0, 0, 100, 100], [50, 50, 80, 80]), 2: boxes(), 3: boxes([0, 0, 10, 10])}
    found = {1: boxes([0, 0, 100, 98], [50, 50, 80, 75]), 2: boxes([0, 0, 9, 9]), 3: boxes([0, 0, 10, 10])}
    assert same_boxes(expected, expected) == 1
    assert same_boxes(found, expected) == 2 / 4


def labels(image_ids, category_ids, boxes_xywh):
    zeros = np.zeros(len(image_ids))
    columns = np.array(boxes_xywh, np.float64).reshape(-1, 4)
    return PseudoLabels(
        np.array(image_ids, np.int64), np.array(category_ids, np.int64), columns, zeros, zeros, zeros.copy()
    )


def test_changed_labels_counts_both_sides():
    one = labels([1, 1, 2], [7, 8, 7], [[0, 0, 10, 10], [5, 5, 10, 10], [0, 0, 10, 10]])
    renamed = labels([1, 1, 2], [7, 9, 7], [[0, 0, 10, 10], [5, 5, 10, 10], [0, 0, 10, 10]])
    nothing = labels([], [], [])
    assert changed_labels(one, one) == 0
    assert changed_labels(renamed, one) == pytest.approx(2 / 6)
    assert changed_labels(nothing, one) == 1 and changed_labels(nothing, nothing) == 0
