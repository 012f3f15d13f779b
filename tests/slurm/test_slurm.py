"""launch/score.sbatch under a real Slurm: nodes, ranks, requeueing, exit status."""

import os
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, command, run
from slurm.slurm_cluster import GPUS_PER_NODE, missing, slurm_cluster

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

IMAGES = 12
SECONDS = 300


@pytest.fixture(scope="module")
def cluster():
    with slurm_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def words(coco_mini, tiny_models):
    # Parts of one image, so that few images can be interrupted half way.
    return [
        *("--config", REPOSITORY / "configs" / "coco_vlplm.yaml"),
        *tiny_models.overrides(),
        *("run.device=cpu", "run.workers=0", "run.images_per_batch=1", "run.images_per_part=1"),
        *(f"data.limit={IMAGES}", f"data.image_root={coco_mini}"),
        f"data.annotations={coco_mini / 'annotations' / 'instances_val2017.json'}",
    ]


@pytest.fixture(scope="module")
def labels(words, tmp_path_factory):
    """labels.json of a plain run in one process."""
    output = tmp_path_factory.mktemp("plain")
    run(command("score.py", *words, f"run.output={output}"))
    return (output / "labels.json").read_bytes()


@pytest.fixture
def submit(cluster, tmp_path, monkeypatch):
    """Submits launch/score.sbatch from the repository's root; returns the job's id."""
    # The job inherits the environment: where there is no .venv, this Python's torchrun is the one on PATH.
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.chdir(REPOSITORY)

    def submit(sbatch, words, ranks=None):
        monkeypatch.delenv("RANKS_PER_NODE", raising=False)
        if ranks is not None:
            monkeypatch.setenv("RANKS_PER_NODE", str(ranks))
        script = REPOSITORY / "launch" / "score.sbatch"
        return cluster.call("sbatch", "--parsable", f"--output={tmp_path}/log", *sbatch, script, *words).strip()

    return submit


@pytest.mark.parametrize(
    ("sbatch", "ranks", "expected"),
    [
        (["--nodes=2"], 1, "2 ranks"),
        (["--nodes=1", "--cpus-per-task=4"], None, "2 ranks"),
    ],
    ids=["two_nodes", "a_rank_for_two_cpus"],
)
def test_a_batch_job_labels_as_a_plain_run_does(cluster, submit, words, labels, tmp_path, sbatch, ranks, expected):
    job = cluster.wait(submit(sbatch, [*words, f"run.output={tmp_path}/out"], ranks), SECONDS)
    log = (tmp_path / "log").read_text()
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), log
    assert f"scored {IMAGES} images" in log and expected in log
    assert (tmp_path / "out" / "labels.json").read_bytes() == labels


def test_a_job_near_its_time_limit_is_requeued_and_goes_on(cluster, submit, words, labels, tmp_path):
    output = tmp_path / "out"
    job_id = submit(["--nodes=1", f"--gpus-per-node={GPUS_PER_NODE}"], [*words, f"run.output={output}"])
    parts = output / "store" / "parts"
    deadline = time.monotonic() + SECONDS
    while not list(parts.glob("*.parquet")):
        assert time.monotonic() < deadline and cluster.job(job_id)["JobState"] in ("PENDING", "RUNNING")
        time.sleep(0.02)
    cluster.call("scancel", "--batch", "--signal=USR1", job_id)  # what --signal=B:USR1@120 sends
    while cluster.job(job_id)["Restarts"] == "0":
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.1)
    while cluster.job(job_id)["JobState"] != "PENDING":  # until the last process of the first run is gone
        assert time.monotonic() < deadline and cluster.job(job_id)["Restarts"] == "1"
        time.sleep(0.1)
    stamps = {path: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    assert 0 < len(stamps) < IMAGES, "stopped half way"

    job = cluster.wait(job_id, SECONDS)
    log = (tmp_path / "log").read_text()
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), log
    assert f"warning: 1 CPUs for {GPUS_PER_NODE} ranks" in log
    assert "time limit near: requeued" in log and f"{GPUS_PER_NODE} ranks" in log
    assert f"scored {IMAGES - len(stamps)} images" in log
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}, "what was there is not written again"
    assert (output / "labels.json").read_bytes() == labels


def test_a_failed_job_says_so(cluster, submit, words, tmp_path):
    wrong = [*words, f"run.output={tmp_path}/out", "data.image_root=nowhere"]
    job = cluster.wait(submit(["--nodes=2"], wrong, ranks=1), SECONDS)
    assert job["JobState"] == "FAILED" and job["ExitCode"] != "0:0"
    assert (tmp_path / "log").read_text().count("error: data.image_root: no folder at nowhere") == 1


def test_a_cancelled_job_stays_cancelled(cluster, submit, words, tmp_path):
    job_id = submit(["--nodes=2"], [*words, f"run.output={tmp_path}/out"], ranks=1)
    deadline = time.monotonic() + SECONDS
    while not (tmp_path / "out" / "store").exists():
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.1)
    cluster.call("scancel", job_id)
    job = cluster.wait(job_id, 60)
    assert (job["JobState"], job["Restarts"]) == ("CANCELLED", "0")


def test_a_submission_from_elsewhere_is_told(cluster, submit, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = cluster.wait(submit(["--nodes=1"], words), 60)
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "2:0")
    assert "call sbatch in the repository's root" in (tmp_path / "log").read_text()
