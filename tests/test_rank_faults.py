"""What happens to a rank from outside: killed and started again, signalled, left by its torchrun.

Real torchrun and Gloo with tiny models; each fault costs the seconds of one or two starts.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from commands import REPOSITORY, command, environment, run
from finished_runs import files_of, part_times

from plgen_ddp.demo.scenes import write_scenes

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


def test_a_second_signal_ends_a_process_in_the_middle_of_its_batch(slow_words, tmp_path):
    output = tmp_path / "out"
    job = start([*slow_words, "detector.refine_steps=1000000"], output)  # no batch ends in the test's time
    deadline = time.monotonic() + _SECONDS
    while not (output / "store" / "manifest.json").exists():
        assert job.poll() is None and time.monotonic() < deadline, output.with_suffix(".screen").read_text()
        time.sleep(0.05)
    time.sleep(3)  # from the manifest to the first batch
    job.terminate()
    time.sleep(3)  # within two seconds it would be the same request
    assert job.poll() is None, "it finishes its batch"
    job.terminate()
    assert job.wait(timeout=_SECONDS) == 75
    last = output.with_suffix(".screen").read_text().splitlines()[-1]
    assert last == "stopped at once by a second signal; the same command goes on from what is stored"


# Two ranks, one of which does not come to an exchange.
_LATE = """
import time
from datetime import timedelta
from plgen_ddp.console import end_with, one_line_errors
from plgen_ddp.world import World

def main():
    with one_line_errors(), World.from_env(limit=timedelta(seconds=3)) as world:
        time.sleep(600 * world.rank)
        world.gather(None)

if __name__ == "__main__":
    end_with(main)
"""


def test_a_rank_that_waits_beyond_the_limit_says_so(tmp_path):
    script = tmp_path / "late.py"
    script.write_text(_LATE)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(
        torchrun, env=environment(), capture_output=True, text=True, timeout=_SECONDS, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if "error: " in line)
    assert "error: another rank did not come within 0:00:03" in line and line.endswith("run again")


@pytest.mark.parametrize("ranks", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_while_importing_is_one_line(ranks, two_rank_run, tmp_path):
    output = tmp_path / "out"
    job = start(two_rank_run.words, output, ranks)
    deadline = time.monotonic() + _SECONDS

    def importing():
        processes = [psutil.Process(job.pid)] if ranks is None else ranks_of(job)
        maps = [Path(f"/proc/{process.pid}/maps").read_text() for process in processes]
        return len(maps) == (ranks or 1) and all("libtorch" in text for text in maps)

    while not importing():
        assert job.poll() is None and time.monotonic() < deadline, output.with_suffix(".screen").read_text()
        time.sleep(0.005)
    os.kill(job.pid, signal.SIGINT)  # torchrun hands it on
    status = job.wait(timeout=_SECONDS)
    lines = output.with_suffix(".screen").read_text().splitlines()
    assert not output.exists(), "later than meant: the imports were over"
    assert lines.count("interrupted") == 1 and "KeyboardInterrupt" not in "".join(lines)
    if ranks is None:
        assert (status, lines) == (130, ["interrupted"])


@pytest.mark.slow
@pytest.mark.skipif("PLGEN_TEST_LONG" not in os.environ, reason="a quarter of an hour: PLGEN_TEST_LONG=1 runs it")
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ten_restarts_in_a_row_end_with_the_same_bytes(ranks, slow_words, tmp_path):
    scenes = tmp_path / "scenes"  # more than the packaged ones, which last four ranks for seven starts
    write_scenes(scenes, 120, 900_000)
    words = [*slow_words, f"data.annotations={scenes}/annotations/instances_demo.json", f"data.image_root={scenes}"]
    words.append("data.limit=null")
    output, plain = tmp_path / "out", tmp_path / "plain"
    run(command("score.py", *words, f"run.output={plain}"))
    job = start(words, output, ranks, restarts=10)
    before = 0
    for _ in range(10):
        deadline = time.monotonic() + _SECONDS
        while len(part_times(output)) == before:
            assert job.poll() is None and time.monotonic() < deadline, output.with_suffix(".screen").read_text()
            time.sleep(0.01)
        killed = ranks_of(job)
        killed[-1].kill()
        psutil.wait_procs(killed, timeout=_SECONDS)  # torchrun ends the others before it starts all again
        before = len(part_times(output))
    assert job.wait(timeout=_SECONDS) == 0, output.with_suffix(".screen").read_text()
    assert files_of(output) == files_of(plain)
