"""launch/score.sbatch under a real Slurm: nodes, ranks, requeueing, exit status.

A requeued job waits before it starts again. The other tests run in that time, so its second half is the last test.
"""

import functools
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from commands import REPOSITORY
from finished_runs import part_times
from slurm.slurm_cluster import GPUS_PER_NODE, missing, slurm_cluster

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

SECONDS = 300


@pytest.fixture(scope="module")
def cluster():
    with slurm_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def words(two_rank_run):
    """Words of the job that two ranks have done without Slurm. A requeued job needs batches of one image: it stops
    between two of them."""
    return [*two_rank_run.words, "run.device=cpu", "run.workers=0", "run.images_per_batch=1"]


@pytest.fixture(scope="module")
def labels(two_rank_run):
    """labels.json of the run without Slurm."""
    return (two_rank_run.output / "labels.json").read_bytes()


@pytest.fixture(scope="module")
def submit_from(cluster):
    """Submits launch/score.sbatch from a folder, its log into another; returns the job's id."""

    def submit(folder, log, sbatch, words, ranks=None):
        with pytest.MonkeyPatch.context() as patch:
            # The job inherits the environment: where there is no .venv, this Python's torchrun is the one on PATH.
            patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
            patch.chdir(folder)
            patch.delenv("RANKS_PER_NODE", raising=False)
            if ranks is not None:
                patch.setenv("RANKS_PER_NODE", str(ranks))
            script = REPOSITORY / "launch" / "score.sbatch"
            return cluster.call("sbatch", "--parsable", f"--output={log}/log", *sbatch, script, *words).strip()

    return submit


@pytest.fixture
def submit(submit_from, tmp_path):
    """Submits launch/score.sbatch from the repository's root."""
    return functools.partial(submit_from, REPOSITORY, tmp_path)


def wait_for_a_part(cluster, job_id, output):
    deadline = time.monotonic() + SECONDS
    while not part_times(output):
        assert time.monotonic() < deadline and cluster.job(job_id)["JobState"] in ("PENDING", "RUNNING")
        time.sleep(0.02)


@dataclass(frozen=True)
class Interrupted:
    """A job that was requeued near its time limit: it has left some parts, and waits to start again."""

    job_id: str
    folder: Path
    parts: dict[str, int]


@pytest.fixture(scope="module")
def interrupted(cluster, submit_from, words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted")
    output = folder / "out"
    sbatch = ["--nodes=1", f"--gpus-per-node={GPUS_PER_NODE}"]
    job_id = submit_from(REPOSITORY, folder, sbatch, [*words, f"run.output={output}"])
    deadline = time.monotonic() + SECONDS
    wait_for_a_part(cluster, job_id, output)
    cluster.call("scancel", "--batch", "--signal=USR1", job_id)  # what --signal=B:USR1@120 sends
    while cluster.job(job_id)["Restarts"] == "0":
        assert time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.1)
    while cluster.job(job_id)["JobState"] != "PENDING":  # until the last process of the first run is gone
        assert time.monotonic() < deadline and cluster.job(job_id)["Restarts"] == "1"
        time.sleep(0.1)
    return Interrupted(job_id, folder, part_times(output))


def test_a_job_near_its_time_limit_is_requeued(interrupted, two_rank_run):
    assert 0 < len(interrupted.parts) < two_rank_run.images, "stopped half way"
    log = (interrupted.folder / "log").read_text()
    assert (
        f"warning: 1 CPUs for {GPUS_PER_NODE} ranks" in log and "time limit near: the ranks finish their batches" in log
    )
    assert "requeued; it goes on from what is stored" in log


def test_two_nodes_label_as_a_plain_run_does(cluster, submit, words, two_rank_run, labels, tmp_path):
    job = cluster.wait(submit(["--nodes=2"], [*words, f"run.output={tmp_path}/out"], ranks=1), SECONDS)
    log = (tmp_path / "log").read_text()
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), log
    assert f"scored {two_rank_run.images} images" in log and "on 2 ranks;" in log
    assert (tmp_path / "out" / "labels.json").read_bytes() == labels


def test_a_failed_job_says_so(cluster, submit, words, tmp_path):
    wrong = [*words, f"run.output={tmp_path}/out", "data.image_root=nowhere"]
    job = cluster.wait(submit(["--nodes=2"], wrong, ranks=1), SECONDS)
    assert job["JobState"] == "FAILED" and job["ExitCode"] != "0:0"
    assert (tmp_path / "log").read_text().count("error: data.image_root: no folder at nowhere") == 1


def test_a_cancelled_job_stays_cancelled(cluster, submit, words, tmp_path):
    """It has a rank for two CPUs, where nobody says how many ranks."""
    output = f"run.output={tmp_path}/out"
    job_id = submit(["--nodes=1", "--cpus-per-task=4"], [*words, output])
    deadline = time.monotonic() + SECONDS
    while not (tmp_path / "out" / "store").exists():
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.1)
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    ranks = [words for words in commands if output in words and words[1:3] == ["-u", "launch/score.py"]]
    assert len(ranks) == 2
    cluster.call("scancel", job_id)
    job = cluster.wait(job_id, 60)
    assert (job["JobState"], job["Restarts"]) == ("CANCELLED", "0")


def test_a_preempted_job_stores_what_is_whole_in_its_grace_time_and_is_requeued(
    cluster, submit, words, two_rank_run, tmp_path
):
    long = "detector.refine_steps=2000"  # the scheduler needs seconds to preempt a job
    job_id = submit(["--nodes=1", "--exclusive"], [*words, long, f"run.output={tmp_path}/out"], ranks=1)
    wait_for_a_part(cluster, job_id, tmp_path / "out")
    urgent = ["--parsable", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    cluster.wait(cluster.call("sbatch", *urgent).strip(), SECONDS)
    job = cluster.job(job_id)
    log = (tmp_path / "log").read_text()
    assert job["Restarts"] == "1" and "requeued; it goes on from what is stored" in log, log
    assert "stopped by SIGTERM" in log and 0 < len(part_times(tmp_path / "out")) < two_rank_run.images
    cluster.call("scancel", job_id)


def test_a_job_is_not_requeued_for_ever(cluster, submit, words, tmp_path, monkeypatch):
    monkeypatch.setenv("MAX_REQUEUES", "0")
    job_id = submit(["--nodes=1"], [*words, "detector.refine_steps=500", f"run.output={tmp_path}/out"], ranks=1)
    wait_for_a_part(cluster, job_id, tmp_path / "out")
    cluster.call("scancel", "--batch", "--signal=USR1", job_id)
    job = cluster.wait(job_id, SECONDS)
    assert (job["JobState"], job["Restarts"]) == ("FAILED", "0")
    assert "requeued 0 times already (MAX_REQUEUES)" in (tmp_path / "log").read_text()


def test_a_job_that_stored_nothing_is_not_requeued(cluster, submit, words, tmp_path):
    endless = "detector.refine_steps=1000000"
    # The script looks for parts where the config says.
    config = tmp_path / "mine.yaml"
    config.write_text(f"base: {words[words.index('--config') + 1]}\nrun:\n  output: {tmp_path}/out\n")
    others = [word for place, word in enumerate(words) if "--config" not in words[max(0, place - 1) : place + 1]]
    job_id = submit(["--nodes=1"], ["--config", config, *others, endless], ranks=1)
    deadline = time.monotonic() + SECONDS
    while not (tmp_path / "out" / "log").exists():
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.1)
    cluster.call("scancel", "--batch", "--signal=USR1", job_id)  # ranks that still load their models end at once
    job = cluster.wait(job_id, SECONDS)
    assert (job["JobState"], job["Restarts"]) == ("FAILED", "0")
    assert "nothing was stored since the last start" in (tmp_path / "log").read_text()


def test_a_submission_from_elsewhere_is_refused(cluster, submit_from, words, tmp_path):
    job = cluster.wait(submit_from(tmp_path, tmp_path, ["--nodes=1"], words), 60)
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "2:0")
    assert "call sbatch in the repository's root" in (tmp_path / "log").read_text()


def test_a_requeued_job_goes_on_where_it_was_stopped(cluster, interrupted, two_rank_run, labels):
    job = cluster.wait(interrupted.job_id, SECONDS)
    log = (interrupted.folder / "log").read_text()
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), log
    assert f"scored {two_rank_run.images - len(interrupted.parts)} images" in log and f"{GPUS_PER_NODE} ranks" in log
    after = part_times(interrupted.folder / "out")
    assert interrupted.parts.items() <= after.items(), "what was there is not written again"
    assert (interrupted.folder / "out" / "labels.json").read_bytes() == labels
