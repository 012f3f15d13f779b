"""Files are complete or absent, and no result replaces its input."""

import hashlib
import os
import stat
import subprocess

import pytest

from plgen_ddp.errors import UserError
from plgen_ddp.files import check_output, file_sha256, remove_left_over, temporary_beside, write_atomically


def test_a_file_is_flushed_before_it_has_its_name_and_its_folder_after(tmp_path, monkeypatch):
    events = []
    path = tmp_path / "new" / "file"
    flush = os.fsync

    def recorded(descriptor):
        status = os.fstat(descriptor)
        events.append((stat.S_ISDIR(status.st_mode), path.exists(), status.st_size))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    write_atomically(path, [b"one ", b"two"])
    assert path.read_bytes() == b"one two"
    assert [(folder, named) for folder, named, _ in events] == [(False, False), (True, True)]
    assert events[0][2] == 7, "all of it is written when it is flushed"
    assert list(path.parent.iterdir()) == [path]


def test_what_goes_wrong_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, [b"old"])

    def full():
        yield b"new"
        raise OSError(28, "No space left on device")

    def interrupted():
        yield b"new"
        raise KeyboardInterrupt

    with pytest.raises(UserError, match=f"cannot write {path}: No space left on device"):
        write_atomically(path, full())
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted())
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        write_atomically(tmp_path / "folder", [b"x"])
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder"]


def test_what_killed_writers_left_is_removed_and_nothing_of_others(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    mine = temporary_beside(tmp_path / "labels.json")
    dead = mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{ended.pid}."))
    other = dead.with_name(dead.name.replace("labels.json", "more.json"))
    foreign = tmp_path / ".deadbeef.tmp"
    for path in (mine, dead, other, foreign):
        path.touch()
    os.utime(foreign, (0, 0))
    remove_left_over(tmp_path, "labels.json")
    assert sorted(tmp_path.iterdir()) == sorted([mine, other, foreign])
    remove_left_over(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, foreign])


def test_an_output_that_is_an_input_or_cannot_be_written_is_refused(tmp_path):
    source = tmp_path / "source.json"
    source.write_text("{}")
    (tmp_path / "link.json").symlink_to(source)
    for path in (source, tmp_path / "x" / ".." / "source.json", tmp_path / "link.json"):
        with pytest.raises(UserError, match=r"--json: .* is the labels; choose another name"):
            check_output(path, "--json", {"templates": ["a {}"], "the labels": str(source)})
    with pytest.raises(UserError, match="is a folder"):
        check_output(tmp_path, "--json", {})
    with pytest.raises(UserError, match="cannot write into"):
        check_output(source / "below", "--json", {})
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is a device or a pipe; name a file"):
        check_output(tmp_path / "pipe", "--json", {})
    photo = tmp_path / "0.JPG"
    photo.touch()
    with pytest.raises(UserError, match=r"0\.JPG is an image; choose another name"):
        check_output(photo, "--json", {})
    check_output(photo, "--picture", {}, picture=True)
    store = tmp_path / "run" / "store"
    (store / "parts").mkdir(parents=True)
    (store / "manifest.json").touch()
    for path in (store / "manifest.json", store / "parts" / "new.json"):
        with pytest.raises(UserError, match="lies in a region store"):
            check_output(path, "--json", {})
    check_output(tmp_path / "new" / "deep" / "labels.json", "--json", {"the labels": source, "nothing": None})
    assert not (tmp_path / "new").exists()


def test_a_digest_is_of_the_content(tmp_path):
    path = tmp_path / "large"
    content = os.urandom(5 << 20)
    path.write_bytes(content)
    assert file_sha256(path) == hashlib.sha256(content).hexdigest()
