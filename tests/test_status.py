"""launch/status.py: what is done and left, what made it, who is at work."""

import json
import os
import time

import numpy as np
import pytest
from commands import call

from plgen_ddp.records import Regions, Similarity
from plgen_ddp.run_lock import RunLock
from plgen_ddp.store import Manifest, RegionStore


def image(image_id, boxes):
    return Regions(
        image_id, np.ones((boxes, 4), np.float32), np.ones(boxes, np.float32), np.ones((boxes, 2), np.float16)
    )


@pytest.fixture
def store(tmp_path):
    store = RegionStore(tmp_path / "store")
    identity = {"dataset": {"digest": "ab" * 32, "images": 20}, "clip": {"precision": "fp32"}}
    store.open_for_scoring(Manifest(2, Similarity("softmax", 0.01), identity, {}))
    store.write_part([image(1, 3), image(2, 4), Regions.failed(3, "read", "no such file")], {"run.threads": 1})
    store.write_part([image(4, 2)], {"run.threads": 2})
    return store


def lines(tmp_path, capsys):
    call("status", f"run.output={tmp_path}")
    return capsys.readouterr().out.splitlines()


def test_a_folder_that_nobody_scores_into(store, tmp_path, capsys):
    printed = lines(tmp_path, capsys)
    assert printed[0] == "done 3 images, failed 1, left 16"
    assert printed[1].startswith("9 boxes in 2 parts, 0.0 MB")
    assert printed[2:] == [
        "clip: precision fp32",
        "dataset: digest abababababab..., images 20",
        "1 part made under: run.threads 1",
        "1 part made under: run.threads 2",
        "no job is scoring into this folder",
    ]


def test_a_job_at_work_has_a_rate_and_an_end(store, tmp_path, capsys):
    with RunLock(tmp_path) as lock:
        lock.acquire(images=10)
        assert lines(tmp_path, capsys)[-1].startswith(f"locked by process {os.getpid()} on ")
        now = time.time()
        for number, seconds in ((5, 10), (6, 12), (7, 14)):
            os.utime(store.write_part([image(number, 1)]), (now + seconds, now + seconds))
        printed = lines(tmp_path, capsys)
        assert printed[0] == "done 6 images, failed 1, left 3" and printed[-1] == "0.50 images/s, 0:00:06 left"
        call("status", f"run.output={tmp_path}", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["holder"]["pid"] == os.getpid() and found["at_work"]
    assert found["images_per_second"] == pytest.approx(0.5) and found["seconds_left"] == pytest.approx(6)


def test_a_dead_jobs_lock_is_said_to_be_one(store, tmp_path, capsys):
    with RunLock(tmp_path) as lock:
        lock.acquire()
        path = tmp_path / "scoring.lock"
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"started": "1"}))
        assert lines(tmp_path, capsys)[-1].endswith(
            "it seems to be dead, and the same command goes on from what is stored"
        )


def test_a_folder_without_a_store_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        call("status", f"run.output={tmp_path}")
    assert stopped.value.code == 2 and "no region store at" in capsys.readouterr().err
