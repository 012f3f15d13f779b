"""launch/verify.py: every bit that changes what a part says is seen, and --repair makes room for what must be done."""

import json

import numpy as np
import pytest
from commands import call

from plgen_ddp.errors import UserError
from plgen_ddp.part_seal import Seal
from plgen_ddp.records import EVIDENCE, Regions, Similarity
from plgen_ddp.store import Manifest, RegionStore
from plgen_ddp.store_check import check_store

DIM = 4
MANIFEST = Manifest(DIM, Similarity("softmax", 0.01), {"dataset": {"digest": "a", "images": 6}}, {"torch": "2"})


def image(image_id, boxes=3, seed=0):
    generator = np.random.default_rng([image_id, seed])
    return Regions(
        image_id,
        generator.random((boxes, 4), np.float32) * 640,
        np.sort(generator.random(boxes, np.float32))[::-1].copy(),
        generator.standard_normal((boxes, DIM)).astype(np.float16),
        **{name: generator.random(boxes, np.float32) for name in EVIDENCE},
    )


@pytest.fixture
def store(tmp_path):
    store = RegionStore(tmp_path / "out" / "store")
    store.open_for_scoring(MANIFEST)
    for first in (1, 3, 5):
        store.write_part([image(first), image(first + 1)], {"run.threads": 1})
    return store


def verify(store, *words, status=0):
    call("verify", f"run.output={store.folder.parent}", *words, status=status)


@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_every_flipped_bit_that_changes_what_a_part_says_is_seen(tmp_path, step):
    """A bit of every `step`-th byte of a part, and all bits of every 200th."""
    store = RegionStore(tmp_path)
    store.open_for_scoring(MANIFEST)
    path = store.write_part([image(1, 2), Regions.failed(2, "read", "no such file")])
    whole = path.read_bytes()

    def content():
        table, seal = store._read(path)
        return table.to_pydict(), seal

    expected = content()
    flips = [(place, place * 5 % 8) for place in range(0, len(whole), step)]
    flips += [(place, bit) for place in range(0, len(whole), 200) for bit in range(8)]
    seen = 0
    for place, bit in flips:
        changed = bytearray(whole)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        try:
            sealed = store.check_part(path)
        except UserError as error:
            seen += 1
            assert "\n" not in str(error) and path.name in str(error)
        else:
            table, seal = content()
            # A flip in the seal's key makes it a part without a seal: its content is what was written.
            assert table == expected[0] and (seal == expected[1] or not sealed), (place, bit)
    assert seen > len(flips) / 2
    path.write_bytes(whole)
    assert store.check_part(path)


def test_a_good_store_is_good(store, capsys):
    verify(store)
    assert capsys.readouterr().out.startswith("3 of 3 parts are good (6 images, 0.0 MB in all)\n")
    verify(store, "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["parts"], found["images"], found["bad"], found["again"], found["missing"]) == (3, 6, {}, 0, 0)


def test_images_that_are_in_no_part_are_counted(store, capsys):
    store.part_paths()[1].unlink()
    verify(store)
    printed = capsys.readouterr().out
    assert printed.startswith("2 of 2 parts are good (4 images, 0.0 MB in all); 2 of 6 images are in no part: run sc")
    store.part_paths()[0].write_bytes(b"no part")
    verify(store, status=1)
    printed = capsys.readouterr().out
    assert printed.endswith(
        "; 1 part must be made again, with 2 images that are in no good part; "
        "2 of 6 images are in no part: run scoring again\n"
    )


def test_bad_parts_are_named_and_removed_only_when_that_is_asked(store, tmp_path, capsys):
    paths = store.part_paths()
    data = bytearray(paths[0].read_bytes())
    data[data.index(image(1).embeddings.tobytes()) + 1] ^= 1
    paths[0].write_bytes(data)
    paths[1].write_bytes(b"no part")
    verify(store, status=1)
    printed = capsys.readouterr()
    assert (
        printed.out.startswith("1 of 3 parts is good (2 images, ")
        and "; 2 parts must be made again, with 4 images that are in no good part\n" in printed.out
    )
    lines = printed.err.splitlines()
    assert len(lines) == 2 and all(path.name in line for path, line in zip(paths, lines, strict=False))
    assert all("have launch/verify.py --repair find" in line for line in lines)
    assert store.part_paths() == paths
    (store.folder / "manifest.json").write_bytes(b"{")
    verify(store, "--repair")
    printed = capsys.readouterr()
    assert printed.out.endswith("; 2 parts were removed, with 4 images that are in no good part: run scoring again\n")
    *removed, wrote = printed.err.splitlines()[-3:]
    assert "wrote manifest.json again" in wrote
    assert all(line.startswith("removed part ") and "remove it" not in line for line in removed), removed
    assert store.part_paths() == [paths[2]] and store.manifest() == MANIFEST
    assert not (tmp_path / "out" / "scoring.lock").exists()


def test_parts_that_disagree_leave_one_and_equal_copies_stay(store, capsys):
    store.write_part([image(1), image(2), image(3)])
    assert check_store(store).bad == {} and check_store(store).copies == 3
    other = store.write_part([image(5, seed=1)])
    found = check_store(store)
    assert list(found.bad) == [other] and found.again == 0, "the part with more images stays"
    verify(store, "--repair")
    assert store.part_of_images().keys() == {1, 2, 3, 4, 5, 6}


def test_a_part_under_anothers_name_is_bad(store):
    first, second, _ = store.part_paths()
    second.write_bytes(first.read_bytes())
    assert "other images than its name says" in check_store(store).bad[second]


def test_there_must_be_a_store(tmp_path, capsys):
    with pytest.raises(SystemExit):
        call("verify", f"run.output={tmp_path}/none", "--repair")
    assert "no region store at" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_a_seal_is_of_the_content_whatever_its_slices(store):
    path = store.part_paths()[0]
    table, seal = store._read(path)
    again = Seal.of(table, MANIFEST, {"run.threads": 1})
    assert again == seal and seal.boxes == 6 and seal.conditions == {"run.threads": 1}
    assert seal.broken_by(table.slice(0, 1)) == "image_id"
