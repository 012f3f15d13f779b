"""The lock of a run's folder: a living job keeps others out, a dead one does not. Real processes, on one machine."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest
from commands import refused

from plgen_ddp.errors import UserError
from plgen_ddp.run_lock import LOCK_NAME, Holder, RunLock, holder_of

# What takes longer hangs, also on a busy machine.
_SECONDS = 120
HOLD = """
import sys, time
from pathlib import Path
from plgen_ddp.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]), beat=0.1)
lock.acquire(parent=len(sys.argv) > 2)
print("held", flush=True)
time.sleep(600)
"""
RACE = """
import sys, time
from pathlib import Path
from plgen_ddp.errors import UserError
from plgen_ddp.run_lock import RunLock
folder = Path(sys.argv[1])
lock = RunLock(folder, beat=0.1, stale=0.5)
print("ready", flush=True)
sys.stdin.readline()
try:
    lock.acquire()
    print("held", flush=True)
except UserError as error:
    print(error, flush=True)
sys.stdin.readline()
"""


def started(code, *words):
    arguments = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextmanager
def holding(folder, *words):
    """A process that holds the lock."""
    process = started(HOLD, folder, *words)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def elsewhere(folder, **changes):
    """Leaves the lock of a process of another machine, as it is on a shared file system."""
    holder = replace(Holder.here(0, parent=False), machine="another", host="node7", pid=77, **changes)
    (folder / LOCK_NAME).write_text(json.dumps(asdict(holder)))
    return holder


def test_a_second_job_is_refused_with_host_process_and_start_of_the_first(tmp_path, two_rank_run, capsys):
    with holding(tmp_path) as first:
        line = refused(capsys, "score", [*two_rank_run.words, f"run.output={tmp_path}"])
        holder, lives = holder_of(tmp_path)
        assert lives and holder.pid == first.pid and holder.described() in line
        assert f"process {first.pid} on {holder.host}, started 20" in line and "choose another run.output" in line
        assert not (tmp_path / "store").exists()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["log", LOCK_NAME]


@pytest.mark.parametrize("reaped", [True, False], ids=["gone", "zombie"])
def test_the_lock_of_a_killed_job_is_taken_at_once(tmp_path, reaped):
    with holding(tmp_path) as first:
        first.kill()
        if reaped:
            first.wait()
        else:
            while holder_of(tmp_path)[1]:
                time.sleep(0.01)
        with RunLock(tmp_path) as lock:
            lock.acquire()
            lock.check()
            assert holder_of(tmp_path)[0].pid != first.pid
    assert list(tmp_path.iterdir()) == []


def test_a_later_process_of_the_same_id_does_not_hold_a_dead_ones_lock(tmp_path):
    own = replace(Holder.here(0, parent=False), started="1")
    (tmp_path / LOCK_NAME).write_text(json.dumps(asdict(own)))
    with RunLock(tmp_path) as lock:
        lock.acquire()


@pytest.mark.parametrize("content", [None, b"", b"no lock"], ids=["of another machine", "empty", "something else"])
def test_a_lock_that_nobody_renews_is_taken_after_a_while(tmp_path, content):
    elsewhere(tmp_path)
    if content is not None:
        (tmp_path / LOCK_NAME).write_bytes(content)
    with RunLock(tmp_path, beat=0.05, stale=0.5) as lock:
        lock.acquire()
        assert holder_of(tmp_path)[0].host == Holder.here(0, parent=False).host


def test_a_lock_that_another_machine_renews_is_respected(tmp_path):
    """The holder is a process here that says it is elsewhere."""
    beats = HOLD.replace("lock = ", "import plgen_ddp.run_lock as it\nit._machine = lambda: 'another'\nlock = ")
    process = started(beats, tmp_path)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"another job is scoring .*process {process.pid} on"):
            RunLock(tmp_path, beat=0.05, stale=60).acquire()
    finally:
        process.kill()
        process.wait()


def test_of_many_jobs_that_find_a_dead_ones_lock_one_gets_it(tmp_path):
    with holding(tmp_path) as dead:
        pass
    assert holder_of(tmp_path)[0].pid == dead.pid
    racers = [started(RACE, tmp_path) for _ in range(4)]
    try:
        assert all(racer.stdout.readline() == "ready\n" for racer in racers)
        for racer in racers:
            racer.stdin.write("go\n")
            racer.stdin.flush()
        said = [racer.stdout.readline() for racer in racers]
        assert sum(line == "held\n" for line in said) == 1, said
        winner = racers[said.index("held\n")]
        assert all(f"process {winner.pid} on" in line for line in said if line != "held\n"), said
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME], "no temporary file is left"


def test_an_orphan_is_waited_for(tmp_path):
    """Its torchrun was killed and it ends soon: the same command, started again at once, goes on then."""
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}, sys.argv[1], 'parent'])"
    agent = started(launcher, tmp_path)
    deadline = time.monotonic() + _SECONDS
    while holder_of(tmp_path) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    orphan, lives = holder_of(tmp_path)
    assert lives and orphan.parent == agent.pid and not orphan.is_orphan
    agent.kill()
    agent.wait()
    assert orphan.is_orphan
    ends = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(1); os.kill({orphan.pid}, 9)"])
    with RunLock(tmp_path) as lock:
        lock.acquire()
        assert not orphan.lives
    ends.wait()


@pytest.mark.parametrize("fault", ["taken over", "removed"])
def test_a_job_that_has_lost_its_lock_or_folder_stops_with_the_reason(tmp_path, fault):
    folder = tmp_path / "out"
    with RunLock(folder, beat=0.02) as lock:
        lock.acquire()
        if fault == "removed":
            (folder / LOCK_NAME).unlink()
            folder.rename(tmp_path / "away")
        else:
            elsewhere(folder)
        deadline = time.monotonic() + _SECONDS
        with pytest.raises(UserError, match=f"run.output: .*{fault}"):
            while time.monotonic() < deadline:
                lock.check()
                time.sleep(0.01)
    assert (holder_of(folder) is None) == (fault == "removed"), "it does not take what is another's"


def test_a_lock_that_somebody_removed_is_set_again(tmp_path):
    with RunLock(tmp_path, beat=0.02) as lock:
        lock.acquire()
        own = holder_of(tmp_path)[0]
        (tmp_path / LOCK_NAME).unlink()
        deadline = time.monotonic() + _SECONDS
        while holder_of(tmp_path) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert holder_of(tmp_path)[0] == own
        lock.check()
