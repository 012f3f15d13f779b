"""Files that are complete or absent: atomic writes, checks of output paths, digests."""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from plgen_ddp.errors import UserError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Of the files that are taken for images, in lower case."""

# A temporary file of another machine, or of a process that lives, is left over when nobody wrote to it for so long.
_ABANDONED = 24 * 3600.0
# The names that `temporary_beside` gives.
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<host>[A-Za-z0-9-]+)\.(?P<pid>\d+)\.[0-9a-f]{8}\.tmp")
_IRREGULAR = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def write_atomically(path: Path, chunks: Iterable[bytes], *, make_folder: bool = True) -> None:
    """Writes a file under a temporary name beside `path`, flushes it to disk, and renames it.

    A file that exists under `path` is therefore complete. The folder is flushed too, so that the name survives a
    power failure.

    Args:
        make_folder: makes the folder of `path` where there is none.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    temporary = temporary_beside(path)
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        flush_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path}: {error.strerror}") from None
        raise


def temporary_beside(path: Path) -> Path:
    """A name beside `path` that no other process has, on any host that shares the folder: .NAME.HOST.PID.RANDOM.tmp."""
    return path.with_name(f".{path.name}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def remove_left_over(folder: Path, name: str | None = None) -> None:
    """Removes the temporary files in a folder whose writers were killed; those of writers at work stay.

    A file of this host is left over when its writer's process has ended, any other a day after its last change.

    Args:
        name: only those that were to become the file of this name; None: all.
    """
    for path in folder.glob(".*.tmp"):
        writer = _TEMPORARY.fullmatch(path.name)
        with contextlib.suppress(OSError):  # its writer has just given it its name
            if writer and name in (None, writer["name"]) and _is_left_over(path, writer):
                path.unlink()


def flush_folder(folder: Path) -> None:
    """Some file systems cannot flush a folder; the file itself is safe there too."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_output(path: Path, option: str, inputs: Mapping[str, object], *, picture: bool = False) -> None:
    """Checks, before the work starts, that its result can be written to `path` and replaces none of the inputs.

    Args:
        option: the option that named `path`, for messages.
        inputs: a description and the path of each input, a file or a folder. Values that are not paths are ignored.
        picture: whether the result is a picture: nothing else replaces an image.

    Raises:
        UserError: `path` is an input or lies in one or in a store, is an image, a folder or a device, or its folder
            cannot be written.
    """
    for name, used in inputs.items():
        if not isinstance(used, (str, Path)):
            continue
        if path.resolve() == Path(used).resolve():
            raise UserError(f"{option}: {path} is {name}; choose another name")
        if not Path(used).is_file() and path.resolve().is_relative_to(Path(used).resolve()):
            raise UserError(f"{option}: {path} lies in {name}; choose another name")
    if any((folder / "manifest.json").is_file() and (folder / "parts").is_dir() for folder in path.resolve().parents):
        raise UserError(f"{option}: {path} lies in a region store; choose another name")
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES and not picture:
        raise UserError(f"{option}: {path} is an image; choose another name")
    if path.is_dir():
        raise UserError(f"{option}: {path} is a folder")
    if path.exists() and not path.is_file():  # a device such as /dev/stdout: the new file would take its place
        raise UserError(f"{option}: {path} is a device or a pipe; name a file")
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{option}: cannot write into {folder}")


def open_regular(path: Path) -> BinaryIO:
    """Opens a file to be read, without waiting for a pipe's writer or waking a device.

    Raises:
        OSError: no such file, a folder, or not a regular file; its `strerror` is the reason.
    """
    _check_regular(path.stat())  # opening a device can have effects of its own
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check_regular(os.fstat(descriptor))  # it may have been replaced
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def url_scheme(text: str) -> re.Match[str] | None:
    """The beginning of a URL, also of detectron2's own `detectron2://`, its scheme as group 1; None for a path."""
    return re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*):/{1,2}", text)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return digest_of(file)


def digest_of(file: BinaryIO) -> str:
    """The SHA-256 of what is left to read of an open file, hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(1 << 22):
        digest.update(block)
    return digest.hexdigest()


def _check_regular(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        kind = _IRREGULAR.get(stat.S_IFMT(found.st_mode), "something else")
        raise OSError(errno.EPERM, f"{kind}, not a regular file")


def _is_left_over(path: Path, writer: re.Match[str]) -> bool:
    if writer["host"] == _host() and not process_exists(int(writer["pid"])):
        return True
    return path.stat().st_mtime < time.time() - _ABANDONED


def process_exists(pid: int) -> bool:
    """Whether a process of this machine has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # it belongs to somebody else
        return True
    return True


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40]
