"""The region store: what is written is read, a part that exists is complete, nothing is mixed."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from plgen_ddp.errors import UserError
from plgen_ddp.part_writer import PartWriter
from plgen_ddp.records import EVIDENCE, Failure, Regions, Similarity
from plgen_ddp.store import Manifest, RegionStore

DIM = 8
MANIFEST = Manifest(
    dim=DIM,
    similarity=Similarity("sigmoid", 0.1, -10.0),
    identity={"dataset": {"digest": "a" * 64, "images": 3}, "clip": {"precision": "fp32", "crop_scales": [1.0, 1.5]}},
    versions={"torch": "2"},
    annotations="coco/instances.json",
)


def image(image_id, boxes, evidence=()):
    generator = np.random.default_rng(image_id)
    return Regions(
        image_id,
        generator.random((boxes, 4), np.float32) * 640,
        np.sort(generator.random(boxes, np.float32))[::-1].copy(),
        generator.standard_normal((boxes, DIM)).astype(np.float16),
        **{name: generator.random(boxes, np.float32) for name in evidence},
    )


def without_seal(path):
    """The content of a part as it was written before parts had seals."""
    return pq.read_table(path).replace_schema_metadata(None)


@pytest.fixture
def store(tmp_path):
    store = RegionStore(tmp_path / "store")
    store.open_for_scoring(MANIFEST)
    return store


def test_every_kind_of_image_comes_back_as_it_was(store):
    images = [image(3, 5), image(4, 0), Regions.failed(5, "decode", "empty file"), image(6, 1)]
    path = store.write_part(images)
    for given, found in zip(images, store.read_part(path), strict=True):
        assert (given.image_id, given.failure) == (found.image_id, found.failure)
        np.testing.assert_array_equal(given.boxes_xyxy, found.boxes_xyxy)
        np.testing.assert_array_equal(given.objectness, found.objectness)
        if given.failure is None:
            np.testing.assert_array_equal(given.embeddings, found.embeddings)
        assert found.boxes_xyxy.dtype == np.float32 and found.embeddings.dtype == np.float16
    assert store.failures() == [(5, "decode", "empty file")]
    assert store.part_of_images() == dict.fromkeys((3, 4, 5, 6), path)


@pytest.mark.parametrize("evidence", [EVIDENCE, ("agreement",), ("foreground", "scale_cosine"), ()])
def test_evidence_comes_back_and_none_stays_none(store, evidence):
    """Also in a part whose images have other evidence, and where there is no box at all."""
    images = [image(1, 3, evidence), image(2, 0, evidence), image(3, 2), Regions.failed(4, "read", "no such file")]
    path = store.write_part(images)
    for given, found in zip(images, store.read_part(path), strict=True):
        for name in EVIDENCE:
            before, after = getattr(given, name), getattr(found, name)
            assert (before is None) == (after is None)
            if before is not None:
                np.testing.assert_array_equal(before, after)
                assert after.dtype == np.float32
    for name in EVIDENCE:
        expected = [None if getattr(one, name) is None else len(one.objectness) for one in images]
        column = pq.read_table(path).column(name).to_pylist()
        assert [None if values is None else len(values) for values in column] == expected, "as null on disk"


def test_a_part_of_nothing_but_failures_is_a_part(store):
    path = store.write_part([Regions.failed(1, "read", "no such file")])
    assert [found.failure for found in store.read_part(path)] == [Failure("read", "no such file")]


def test_a_parts_name_and_bytes_come_from_its_images_alone(store, tmp_path):
    other = RegionStore(tmp_path / "other")
    other.open_for_scoring(replace(MANIFEST, annotations="elsewhere/instances.json"))
    first, second = store.write_part([image(1, 3), image(2, 0)]), other.write_part([image(1, 3), image(2, 0)])
    assert first.name == second.name and first.read_bytes() == second.read_bytes()
    assert store.write_part([image(1, 3)]).name != first.name


def test_an_image_in_two_parts_that_do_not_agree_is_an_error_that_names_both(store):
    paths = [store.write_part([image(1, 3), image(2, 4)]), store.write_part([image(2, 3)])]
    with pytest.raises(UserError, match=r"image 2 is in two parts .*run\.repair=true") as caught:
        store.part_of_images()
    assert all(path.name in str(caught.value) for path in paths)


def test_equal_copies_of_an_image_are_no_error_and_the_first_part_counts(store):
    first, other = store.write_part([image(1, 3), image(2, 4)]), store.write_part([image(2, 4), image(3, 1)])
    assert store.part_of_images() == {1: first, 2: first, 3: other}


WRITER = """
import sys, time
from pathlib import Path
from plgen_ddp.files import write_atomically
def chunks():
    yield b"half"
    time.sleep(600)
write_atomically(Path(sys.argv[1]), chunks())
"""


def test_what_a_killed_writer_left_is_ignored_and_swept(store):
    path = store.write_part([image(1, 3)])
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
    while not list(path.parent.glob(".*.tmp")):
        time.sleep(0.01)
    store.sweep()
    assert len(list(path.parent.iterdir())) == 2, "its writer is at work"
    writer.kill()
    writer.wait()
    assert store.part_paths() == [path]
    store.sweep()
    assert list(path.parent.iterdir()) == [path]


def test_a_part_of_other_columns_is_damaged(store):
    path = store.write_part([image(1, 3)])
    pq.write_table(without_seal(path).drop_columns(["agreement"]), path)
    with pytest.raises(UserError, match="other columns than a part"):
        list(store.read_part(path))


def test_a_damaged_part_is_named(store):
    path = store.write_part([image(1, 30)])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UserError, match="is damaged") as caught:
        list(store.read_part(path))
    assert path.name in str(caught.value)
    path.write_bytes(data[:200])
    with pytest.raises(UserError, match="is damaged"):
        store.part_of_images()


def test_the_manifest_comes_back_as_it_was(store):
    assert store.manifest() == MANIFEST
    assert RegionStore(store.folder).manifest().fingerprint() == MANIFEST.fingerprint()


def test_the_fingerprint_is_of_what_decides_the_content(store):
    identity = MANIFEST.identity | {"clip": {"precision": "bf16", "crop_scales": [1.0, 1.5]}}
    assert replace(MANIFEST, identity=identity).fingerprint() != MANIFEST.fingerprint()
    elsewhere = replace(MANIFEST, versions={"torch": "3"}, annotations=None)
    assert elsewhere.fingerprint() == MANIFEST.fingerprint()


def test_the_same_identity_opens_again_and_another_is_refused_with_each_difference(store):
    before = (store.folder / "manifest.json").read_bytes()
    store.open_for_scoring(MANIFEST)
    assert (store.folder / "manifest.json").read_bytes() == before
    other = {"dataset": {"digest": "b" * 64, "images": 4}, "clip": {"precision": "fp32", "crop_scales": [1.0]}}
    with pytest.raises(UserError) as caught:
        store.open_for_scoring(replace(MANIFEST, identity=other))
    message = str(caught.value)
    for part in (
        "dataset.digest: aaaaaaaaaaaa..., now bbbbbbbbbbbb...",
        "dataset.images: 3, now 4",
        "clip.crop_scales: [1.0, 1.5], now [1.0]",
    ):
        assert part in message
    assert "precision" not in message


def test_other_library_versions_are_a_note_and_not_refused(store, capsys):
    store.open_for_scoring(replace(MANIFEST, versions={"torch": "3"}))
    assert "torch: 2, now 3" in capsys.readouterr().err


def test_a_store_of_format_1_is_refused_with_what_to_do(store):
    """Its manifest had no similarity, its parts no evidence."""
    path = store.folder / "manifest.json"
    old = {"format": 1, "dim": DIM, "identity": dict(MANIFEST.identity), "versions": {"torch": "2"}}
    path.write_text(json.dumps(old))
    message = "has format 1, and this version reads 2; score into a new run.output"
    for use in (store.manifest, lambda: store.open_for_scoring(MANIFEST)):
        with pytest.raises(UserError, match=message):
            use()
    assert json.loads(path.read_text()) == old


def test_no_store_a_foreign_format_and_parts_without_a_manifest_are_refused(tmp_path, store):
    with pytest.raises(UserError, match="no region store at"):
        RegionStore(tmp_path / "nowhere").manifest()
    part = store.write_part([image(1, 1)])
    pq.write_table(without_seal(part), part)
    path = store.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"format": 999}))
    with pytest.raises(UserError, match="format 999"):
        store.manifest()
    broken = [manifest | {"similarity": None}, {**manifest, "identity": {}}, {**manifest, "more": 1}]
    for content in ([], {"format": 2}, 7, *broken):
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match="not the manifest"):
            store.manifest()
    path.unlink()
    with pytest.raises(UserError, match=r"has parts and its manifest\.json is missing"):
        store.open_for_scoring(MANIFEST)


def test_the_writer_thread_writes_all_and_raises_what_went_wrong(store):
    with PartWriter(store) as writer:
        for number in range(6):
            writer.write(lambda number=number: [image(number, 2)])
    assert len(store.part_paths()) == 6
    parts = store.folder / "parts"
    moved = parts.rename(store.folder / "moved")
    parts.write_text("a file where the folder was")
    with pytest.raises(UserError, match="cannot write"), PartWriter(store) as writer:
        for number in range(20):
            writer.write(lambda number=number: [image(number, 2)])
    parts.unlink()
    with pytest.raises(UserError, match="parts was removed while a job writes there; run again"):
        store.write_part([image(1, 2)])
    assert len(list(moved.iterdir())) == 6 and not parts.exists()


def test_parts_with_failures_are_dropped_to_be_scored_again(store):
    good = store.write_part([image(1, 2)])
    store.write_part([image(2, 2), Regions.failed(3, "read", "no such file")])
    store.drop_parts_with_failures([1, 3])
    assert len(store.part_paths()) == 2, "image 2 is not to be scored now, so its part stays"
    store.drop_parts_with_failures([1, 2, 3])
    assert store.part_paths() == [good]
