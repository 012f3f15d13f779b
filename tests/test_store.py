"""The region store: what is written is read, a part that exists is complete, nothing is mixed."""

import json

import numpy as np
import pytest

from plgen_ddp.errors import UserError
from plgen_ddp.records import Regions
from plgen_ddp.store import PartWriter, RegionStore

DIM = 8
IDENTITY = {"dataset": {"digest": "a" * 64, "images": 3}, "clip": {"precision": "fp32", "crop_scales": [1.0, 1.5]}}


def image(image_id, boxes):
    generator = np.random.default_rng(image_id)
    return Regions(
        image_id,
        generator.random((boxes, 4), np.float32) * 640,
        np.sort(generator.random(boxes, np.float32))[::-1].copy(),
        generator.standard_normal((boxes, DIM)).astype(np.float16),
    )


@pytest.fixture
def store(tmp_path):
    store = RegionStore(tmp_path / "store")
    store.open_for_scoring(IDENTITY, DIM, {"torch": "2"})
    return store


def test_every_kind_of_image_comes_back_as_it_was(store):
    images = [image(3, 5), image(4, 0), Regions.failed(5, "decode", "empty file"), image(6, 1)]
    path = store.write_part(images)
    for given, found in zip(images, store.read_part(path), strict=True):
        assert (given.image_id, given.stage, given.reason) == (found.image_id, found.stage, found.reason)
        np.testing.assert_array_equal(given.boxes_xyxy, found.boxes_xyxy)
        np.testing.assert_array_equal(given.objectness, found.objectness)
        if given.reason is None:
            np.testing.assert_array_equal(given.embeddings, found.embeddings)
        assert found.boxes_xyxy.dtype == np.float32 and found.embeddings.dtype == np.float16
    assert store.failures() == [(5, "decode", "empty file")]
    assert store.part_of_images() == dict.fromkeys((3, 4, 5, 6), path)


def test_a_part_of_nothing_but_failures_is_a_part(store):
    path = store.write_part([Regions.failed(1, "read", "no such file")])
    assert [found.reason for found in store.read_part(path)] == ["no such file"]


def test_a_parts_name_and_bytes_come_from_its_images_alone(store, tmp_path):
    other = RegionStore(tmp_path / "other")
    first, second = store.write_part([image(1, 3), image(2, 0)]), other.write_part([image(1, 3), image(2, 0)])
    assert first.name == second.name and first.read_bytes() == second.read_bytes()
    assert store.write_part([image(1, 3)]).name != first.name


def test_an_image_in_two_parts_is_an_error_that_names_both(store):
    paths = [store.write_part([image(1, 3), image(2, 0)]), store.write_part([image(2, 0)])]
    with pytest.raises(UserError, match="image 2 is in two parts") as caught:
        store.part_of_images()
    assert all(path.name in str(caught.value) for path in paths)


def test_what_a_killed_writer_left_is_ignored_and_swept(store):
    path = store.write_part([image(1, 3)])
    rest = path.with_name(f".{path.name}.123.tmp")
    rest.write_bytes(path.read_bytes()[:100])
    assert store.part_paths() == [path]
    store.sweep()
    assert list(path.parent.iterdir()) == [path]


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


def test_the_same_identity_opens_again_and_another_is_refused_with_each_difference(store):
    before = (store.folder / "manifest.json").read_bytes()
    store.open_for_scoring(IDENTITY, DIM, {"torch": "2"})
    assert (store.folder / "manifest.json").read_bytes() == before
    other = {"dataset": {"digest": "b" * 64, "images": 4}, "clip": {"precision": "fp32", "crop_scales": [1.0]}}
    with pytest.raises(UserError) as caught:
        store.open_for_scoring(other, DIM, {"torch": "2"})
    message = str(caught.value)
    for part in (
        "dataset.digest: aaaaaaaaaaaa..., now bbbbbbbbbbbb...",
        "dataset.images: 3, now 4",
        "clip.crop_scales",
    ):
        assert part in message
    assert "precision" not in message


def test_other_library_versions_are_told_and_not_refused(store, capsys):
    store.open_for_scoring(IDENTITY, DIM, {"torch": "3"})
    assert "torch: 2, now 3" in capsys.readouterr().err


def test_no_store_a_foreign_format_and_parts_without_a_manifest_are_refused(tmp_path, store):
    with pytest.raises(UserError, match="no region store at"):
        RegionStore(tmp_path / "nowhere").manifest()
    store.write_part([image(1, 1)])
    path = store.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"format": 999}))
    with pytest.raises(UserError, match="format 999"):
        store.manifest()
    for text in ("[]", '{"format": 1}'):
        path.write_text(text)
        with pytest.raises(UserError, match="not the manifest"):
            store.manifest()
    path.unlink()
    with pytest.raises(UserError, match="parts but no manifest"):
        store.open_for_scoring(IDENTITY, DIM, {})


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
    assert len(list(moved.iterdir())) == 6


def test_parts_with_failures_are_dropped_to_be_scored_again(store):
    good = store.write_part([image(1, 2)])
    store.write_part([image(2, 2), Regions.failed(3, "read", "no such file")])
    store.drop_parts_with_failures([1, 3])
    assert len(store.part_paths()) == 2, "image 2 is not to be scored now, so its part stays"
    store.drop_parts_with_failures([1, 2, 3])
    assert store.part_paths() == [good]
