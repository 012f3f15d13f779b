"""The index beside the parts: it spares reading them, and never says what is no longer so."""

import os
import shutil
import time

import numpy as np
import pytest

from plgen_ddp.errors import UserError
from plgen_ddp.records import Failure, Regions, Similarity
from plgen_ddp.store import Manifest, RegionStore

PARTS = 260  # more than a store without an index has


def image(image_id):
    return Regions(image_id, np.ones((1, 4), np.float32), np.ones(1, np.float32), np.ones((1, 2), np.float16))


def settle(path, seconds=60):
    """Lets a part have been written some time ago."""
    then = time.time_ns() - seconds * 10**9
    os.utime(path, ns=(then, then))


@pytest.fixture(scope="module")
def many_parts(tmp_path_factory):
    """A store of many parts of two images each, one of them failed in every tenth part. No index yet."""
    store = RegionStore(tmp_path_factory.mktemp("many") / "store")
    store.open_for_scoring(Manifest(2, Similarity("softmax", 0.01), {"dataset": {"digest": "none"}}, {}))
    for part in range(PARTS):
        second = Regions.failed(2 * part + 1, "decode", "empty file") if part % 10 == 0 else image(2 * part + 1)
        settle(store.write_part([image(2 * part), second]))
    return store


@pytest.fixture
def store(many_parts, tmp_path):
    """A copy with its index."""
    shutil.copytree(many_parts.folder, tmp_path / "store")  # with their times
    store = RegionStore(tmp_path / "store")
    assert store.part_of_images() == expected(store)
    assert (store.folder / "index.parquet").is_file()
    return store


def expected(store):
    """What the parts themselves say."""
    return {row.image_id: path for path in store.part_paths() for row in store.read_part(path)}


def damage(path):
    """Other bytes under the same name, size and time: only who reads the part notices."""
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_parts_that_the_index_knows_are_not_read(store):
    before, failures = store.part_of_images(), store.failures()
    assert len(failures) == PARTS / 10 and failures[1] == (21, "decode", "empty file")
    for path in store.part_paths():
        damage(path)
    assert RegionStore(store.folder).part_of_images() == before
    assert RegionStore(store.folder).failures() == failures
    (store.folder / "index.parquet").unlink()
    with pytest.raises(UserError, match="is damaged"):
        store.part_of_images()


def test_a_part_that_is_added_removed_or_replaced_is_noticed(store):
    settle(store.write_part([image(5000), image(5001)]))
    assert store.part_of_images()[5001].name.startswith("000000005000")
    removed, replaced = store.part_paths()[3], store.part_paths()[10]
    removed.unlink()
    assert 6 not in store.part_of_images() and 7 not in store.part_of_images()
    failed = Regions.failed(20, "read", "no such file")
    assert store.write_part([failed, image(21)]) == replaced, "of the same images"
    settle(replaced, seconds=30)
    assert (20, "read", "no such file") in store.failures() and (21, "decode", "empty file") not in store.failures()
    assert store.part_of_images() == expected(store)


def test_a_part_written_a_moment_ago_may_be_replaced_under_the_same_time(store):
    """Its size is the same too: a clock that moves in steps would not show it."""
    path = store.write_part([Regions.failed(9000, "read", "first"), image(9001)])
    assert (9000, "read", "first") in store.failures()
    status = path.stat()
    store.write_part([Regions.failed(9000, "read", "other"), image(9001)])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert (9000, "read", "other") in store.failures()


@pytest.mark.parametrize(
    "content", [b"", b"no index", None], ids=["empty", "something else", "cut short, as a full disk leaves it"]
)
def test_an_index_that_cannot_be_read_is_made_again(store, content):
    index = store.folder / "index.parquet"
    good = index.read_bytes()
    index.write_bytes(good[:-100] if content is None else content)
    assert store.part_of_images() == expected(store)
    assert index.read_bytes() == good


def test_an_index_whose_bytes_changed_is_made_again(store):
    index = store.folder / "index.parquet"
    good = index.read_bytes()
    for place in (10, len(good) // 3, len(good) // 2):
        index.write_bytes(good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :])
        assert store.part_of_images() == expected(store)
    name = good.rindex(b"image_ids")  # of the footer, which has no checksum; no longer UTF-8
    index.write_bytes(good[:name] + b"\xff" + good[name + 1 :])
    assert store.part_of_images() == expected(store)


def test_the_index_of_another_store_says_nothing_about_this_one(store, tmp_path):
    other = RegionStore(tmp_path / "other")
    other.open_for_scoring(store.manifest())
    shutil.copy(store.folder / "index.parquet", other.folder / "index.parquet")
    for part in range(PARTS):
        other.write_part([image(2 * part), image(2 * part + 1)])
    assert other.failures() == []
    assert other.part_of_images() == expected(other)


def test_a_store_without_a_place_for_an_index_is_read_part_by_part(store):
    """As one that belongs to somebody else."""
    index = store.folder / "index.parquet"
    index.unlink()
    index.mkdir()
    (index / "in the way").touch()
    assert store.part_of_images() == expected(store)


def test_an_image_in_two_parts_is_noticed_with_an_index_too(store):
    path = store.write_part([Regions.failed(40, "read", "no such file")])
    for _ in range(2):  # read, and then from the index
        with pytest.raises(UserError, match="image 40 is in two parts") as caught:
            store.part_of_images()
        assert path.name in str(caught.value)
        settle(path)


def test_a_small_store_has_no_index(tmp_path):
    store = RegionStore(tmp_path / "store")
    store.open_for_scoring(Manifest(2, Similarity("softmax", 0.01), {"dataset": {"digest": "none"}}, {}))
    settle(path := store.write_part([image(1), Regions.failed(2, "read", "no such file")]))
    assert store.part_of_images() == {1: path, 2: path} and store.failures() == [(2, "read", "no such file")]
    assert not (store.folder / "index.parquet").exists()
    assert Failure("read", "no such file") in [row.failure for row in store.read_part(path)]
