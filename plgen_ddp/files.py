"""Files that are complete or absent: atomic writes, checks of output paths, digests."""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from plgen_ddp.errors import UserError


def write_atomically(path: Path, chunks: Iterable[bytes]) -> None:
    """Writes a file under a temporary name beside `path`, flushes it to disk, and renames it.

    A file that exists under `path` is therefore complete. The folder is flushed too, so that the name survives a
    power failure.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def check_output(path: Path, option: str, inputs: Mapping[str, object]) -> None:
    """Checks, before the work starts, that its result can be written to `path` and replaces none of the inputs.

    Args:
        option: the option that named `path`, for messages.
        inputs: a description and the path of each input, a file or a folder. Values that are not paths are ignored.

    Raises:
        UserError: `path` is an input or lies in one, is a folder or a device, or its folder cannot be written.
    """
    for name, used in inputs.items():
        if not isinstance(used, (str, Path)):
            continue
        if path.resolve() == Path(used).resolve():
            raise UserError(f"{option}: {path} is {name}; choose another name")
        if not Path(used).is_file() and path.resolve().is_relative_to(Path(used).resolve()):
            raise UserError(f"{option}: {path} lies in {name}; choose another name")
    if path.is_dir():
        raise UserError(f"{option}: {path} is a folder")
    if path.exists() and not path.is_file():  # a device such as /dev/stdout: the new file would take its place
        raise UserError(f"{option}: {path} is a device or a pipe; name a file")
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{option}: cannot write into {folder}")


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


def _flush_folder(folder: Path) -> None:
    """Some file systems cannot flush a folder; the file itself is safe there too."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
