"""Faults of a store, one table: one line each, and the store is whole after what the line says.

Rows work on a copy of a finished run; `call` runs the user's command in this process.
"""

import json
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import call
from finished_runs import files_of

from plgen_ddp.config import load_config
from plgen_ddp.part_seal import Seal
from plgen_ddp.score.job import check_coverage, read_dataset, scoring_requires
from plgen_ddp.store import RegionStore


@dataclass
class Run:
    """A copy of a finished run, which a fault may change."""

    words: list[str]
    output: Path

    @property
    def store(self) -> RegionStore:
        return RegionStore(self.output / "store")

    @property
    def manifest(self) -> Path:
        return self.output / "store" / "manifest.json"

    @property
    def first(self) -> Path:
        return self.store.part_paths()[0]


def without_manifest(run: Run) -> None:
    run.manifest.unlink()


def damaged_manifest(run: Run) -> None:
    run.manifest.write_bytes(run.manifest.read_bytes()[:100])


def another_manifest(run: Run) -> None:
    run.manifest.write_text("[]")


def part_of_another_store(run: Run) -> None:
    """The first part, by other settings."""
    store = run.store
    rows, path = list(store.read_part(run.first)), run.first
    content = json.loads(run.manifest.read_text())
    content["identity"]["clip"]["crop_scales"] = [1.0]
    other = RegionStore(run.output / "other")
    other.folder.mkdir()
    (other.folder / "manifest.json").write_text(json.dumps(content))
    (other.folder / "parts").mkdir()
    other.write_part(rows).replace(path)
    shutil.rmtree(other.folder)


def flipped_bit(run: Run) -> None:
    data = bytearray(run.first.read_bytes())
    data[len(data) // 2] ^= 1
    run.first.write_bytes(data)


def cut_part(run: Run) -> None:
    run.first.write_bytes(run.first.read_bytes()[:-9])


def two_jobs(run: Run) -> None:
    """What two jobs with different run.images_per_part left: every image twice, some of them not alike."""
    store = run.store
    rows = [row for path in store.part_paths() for row in store.read_part(path)]
    for start in range(0, len(rows), 3):
        parts = [row if row.image_id % 2 else changed(row) for row in rows[start : start + 3]]
        store.write_part(parts)


def changed(row):
    return replace(row, objectness=row.objectness * 0.5)


# Fault; the one line of labelling, None: it labels; the line of scoring with run.repair=true, None: of scoring alone.
MADE_AGAIN = "manifest.json is (missing|damaged); written again from what the parts carry"
ROWS: dict[str, tuple[Callable[[Run], None], str | None, str | None]] = {
    "manifest lost": (without_manifest, None, None),
    "manifest cut short": (damaged_manifest, None, None),
    "manifest of something else": (another_manifest, None, None),
    "part of another store": (
        part_of_another_store,
        r"error: .*parquet is of another store, made from something else \(clip.crop_scales: .1.0., now .1.0, 1.5.\)",
        "removed part .*: .*is of another store",
    ),
    "bit flipped": (flipped_bit, "error: .*parquet is damaged .*launch/verify.py --repair", "removed part .*damaged"),
    "part cut short": (cut_part, "error: .*parquet is damaged .*launch/verify.py --repair", "removed part .*damaged"),
    "two jobs": (
        two_jobs,
        "error: .*image [0-9]+ is in two parts .* that do not agree.*run.repair=true",
        "removed part .*: image [0-9]+ is in .*parquet too, and they do not agree",
    ),
}


@pytest.fixture
def faulty(two_rank_run, tmp_path):
    output = two_rank_run.copy(tmp_path / "out")
    return Run([*two_rank_run.words, f"run.output={output}"], output)


def printed_by(capfd, name, *words):
    """What a command prints on stderr, and its status."""
    capfd.readouterr()
    try:
        call(name, *words)
        status = 0
    except SystemExit as stopped:
        status = stopped.code
    return capfd.readouterr().err, status


@pytest.mark.parametrize("name", ROWS)
def test_a_fault_is_one_line_and_repair_makes_the_store_whole(name, faulty, two_rank_run, capfd):
    spoil, message, repaired = ROWS[name]
    spoil(faulty)
    printed, status = printed_by(capfd, "label", *faulty.words)
    if message is None:
        assert status == 0, printed
    else:
        assert status == 2 and printed.count("\n") == 1, printed
        assert re.search(message, printed), printed
    words = [*faulty.words, *([] if repaired is None else ["run.repair=true"])]
    printed, status = printed_by(capfd, "score", *words)
    assert status == 0 and re.search(repaired or MADE_AGAIN, printed), printed
    if name == "two jobs":
        assert len(faulty.store.part_of_images()) == two_rank_run.images
        call("verify", f"run.output={faulty.output}")
    else:
        assert files_of(faulty.output) == files_of(two_rank_run.output)


def test_equal_copies_of_every_image_are_labelled_once(faulty, two_rank_run):
    store = faulty.store
    rows = [row for path in store.part_paths() for row in store.read_part(path)]
    for start in range(0, len(rows), 3):
        store.write_part(rows[start : start + 3])
    assert len(store.part_paths()) > two_rank_run.images // 3
    call("label", *faulty.words)
    assert (faulty.output / "labels.json").read_bytes() == (two_rank_run.output / "labels.json").read_bytes()


def test_other_conditions_are_recorded_and_told(faulty, two_rank_run, capfd):
    faulty.first.unlink()
    printed, status = printed_by(capfd, "score", *faulty.words, "clip.batch_size=7", "--no-label")
    others = len(two_rank_run.store.part_paths()) - 1
    told = f"note: {others} of {others} parts were made with another clip.batch_size: 32, now 7; last digits"
    assert status == 0 and told in printed, printed
    conditions = [Seal.read(pq.read_metadata(path).metadata).conditions for path in faulty.store.part_paths()]
    assert [one["clip.batch_size"] for one in conditions] == [7] + [32] * others
    assert all(one["run.threads"] == 1 and one["CPU's instructions"] and one["versions"]["torch"] for one in conditions)


def test_parts_that_appear_late_are_waited_for(faulty):
    """As NFS shows other nodes' files."""
    config = load_config(faulty.words[1], faulty.words[2:], scoring_requires)
    dataset = read_dataset(config)
    late = faulty.first
    away = late.rename(faulty.output / "late.parquet")

    def arrive():
        time.sleep(0.5)
        away.rename(late)

    arrival = threading.Thread(target=arrive)
    arrival.start()
    assert check_coverage(config, dataset) == []
    arrival.join()


def test_an_output_removed_while_running_is_one_line_and_the_next_run_is_whole(two_rank_run, tmp_path, capfd):
    """A thread removes it as soon as there is a part."""
    output = tmp_path / "out"
    words = [*two_rank_run.words, f"run.output={output}", "run.workers=0"]

    def remove():
        while not RegionStore(output / "store").part_paths():
            time.sleep(0.005)
        shutil.rmtree(output)

    remover = threading.Thread(target=remove, daemon=True)
    remover.start()
    printed, status = printed_by(capfd, "score", *words)
    remover.join()
    line = printed.splitlines()[-1]
    assert status == 2 and line.startswith("error: ") and "was removed while a job writes there" in line, printed
    assert not (output / "store").exists(), "no parts without a manifest"
    call("score", *words)
    assert files_of(output) == files_of(two_rank_run.output)
