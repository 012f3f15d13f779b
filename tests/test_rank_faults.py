"""What happens to a rank from outside: killed and started again, signalled, left by its torchrun.

Real torchrun and Gloo with tiny models; each fault costs the seconds of one or two starts.
"""

import signal
import subprocess
import time

import psutil
import pytest
from commands import command, environment
from finished_runs import files_of, part_times

# What takes longer hangs, also on a machine that does other things beside.
_SECONDS = 180


def start(words, output, ranks=None, restarts=0):
    """The job in a process of its own; its screen goes into a file beside `output`."""
    arguments = command("score.py", *words, f"run.output={output}", ranks=ranks)
    if ranks is not None:
        arguments.insert(3, f"--max-restarts={restarts}")
    with output.with_suffix(".screen").open("wb") as screen:
        return subprocess.Popen(arguments, stdout=screen, stderr=screen, env=environment())


def wait_for_a_part(job, output):
    deadline = time.monotonic() + _SECONDS
    while not part_times(output):
        assert job.poll() is None and time.monotonic() < deadline, output.with_suffix(".screen").read_text()
        time.sleep(0.01)


def ranks_of(job):
    return [child for child in psutil.Process(job.pid).children() if "score.py" in " ".join(child.cmdline())]


@pytest.fixture
def slow_words(two_rank_run):
    """Batches of one image in parts of two: there is time between the first part and the last."""
    return [*two_rank_run.words, "run.workers=0", "run.images_per_batch=1"]


@pytest.mark.parametrize("ranks", [3, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_torchrun_starts_the_ranks_again_after_one_was_killed(ranks, two_rank_run, tmp_path):
    output = tmp_path / "out"
    job = start(two_rank_run.words, output, ranks, restarts=2)
    wait_for_a_part(job, output)
    ranks_of(job)[-1].kill()
    status = job.wait(timeout=_SECONDS)
    screen = output.with_suffix(".screen").read_text()
    assert status == 0 and "are in the store already" in screen, screen
    assert files_of(output) == files_of(two_rank_run.output)


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGUSR1", marks=pytest.mark.slow)])
def test_a_signal_lets_a_process_finish_its_batch(name, slow_words, two_rank_run, tmp_path):
    output = tmp_path / "out"
    job = start(slow_words, output)
    wait_for_a_part(job, output)
    job.send_signal(signal.Signals[name])
    status = job.wait(timeout=_SECONDS)
    last = output.with_suffix(".screen").read_text().splitlines()[-1]
    assert (status, last) == (75, f"stopped by {name}; the same command goes on from what is stored")
    assert 0 < len(part_times(output)) < two_rank_run.images
    assert not list((output / "store").rglob("*.tmp"))


def test_ranks_end_when_their_torchrun_is_killed(slow_words, tmp_path):
    output = tmp_path / "out"
    job = start(slow_words, output, 2)
    wait_for_a_part(job, output)
    orphans = ranks_of(job)
    job.kill()
    job.wait(timeout=_SECONDS)
    _, alive = psutil.wait_procs(orphans, timeout=_SECONDS)
    assert not alive
    logs = [(output / "log" / f"rank-{rank}.txt").read_text() for rank in range(2)]
    assert all("stopped" in log.splitlines()[-1] or "another rank has ended" in log for log in logs), logs


def test_a_rank_that_hangs_for_a_while_is_helped_and_nothing_is_done_twice(slow_words, two_rank_run, tmp_path):
    output, images = tmp_path / "out", two_rank_run.images
    job = start(slow_words, output, 2)
    wait_for_a_part(job, output)
    slow = next(rank for rank in ranks_of(job) if rank.environ()["RANK"] == "1")
    slow.suspend()
    deadline = time.monotonic() + _SECONDS
    held = 4  # the unit it works on, one ahead of it, two that its writer may have
    while len(part_times(output)) < images - held:
        assert job.poll() is None and time.monotonic() < deadline, output.with_suffix(".screen").read_text()
        time.sleep(0.05)
    slow.resume()
    assert job.wait(timeout=_SECONDS) == 0, output.with_suffix(".screen").read_text()
    logs = [(output / "log" / f"rank-{rank}.txt").read_text().count("scored a unit of") for rank in range(2)]
    assert sum(logs) == len(part_times(output)) == images and logs[1] < logs[0]
    assert files_of(output) == files_of(two_rank_run.output)
