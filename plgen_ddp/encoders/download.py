"""One file from the network into a cache: bounded in time and size, checked, and written by one process at a time."""

import contextlib
import hashlib
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError, one_line
from plgen_ddp.files import file_sha256, flush_folder, temporary_beside


@dataclass(frozen=True, slots=True)
class Limits:
    """When a download is given up.

    Attributes:
        silent: seconds without a byte; also how long another process's unfinished file is waited for while it does not
            grow.
        whole: seconds for the whole file.
        size: bytes.
    """

    silent: float = 30.0
    whole: float = 3600.0
    size: int = 4 << 30


def download(url: str, target: Path, sha256: str, option: str, limits: Limits = Limits()) -> Path:
    """The file at `target`, downloaded where it is not there or has another content.

    The file appears under its name only when it is complete. Of several processes, also on other nodes that share the
    folder, one downloads, and the others wait for it.

    Args:
        sha256: what the file must have, hexadecimal; its first digits suffice.
        option: the option that asks for it, for messages.

    Raises:
        UserError: no connection, a limit reached, another content, or a folder that cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while not _has_content(target, sha256):
            with _only_writer(target, limits.silent) as lock:
                if lock is not None and not _has_content(target, sha256):
                    print_line(f"downloading {url} into {target.parent}", error=True)
                    _fetch(url, target, sha256, lock, limits)
        return target
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise UserError(
            f"{option}: cannot download {url} to {target}: {one_line(error)}; download it elsewhere and put it there"
        ) from None


def cache_name(url: str) -> str:
    """A file name for a URL, without folders; of its whole text, so that two hosts with one path do not share it."""
    last = re.sub(r"[^A-Za-z0-9._-]", "_", url.rsplit("/", 1)[-1])[-80:].lstrip(".")
    return f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{last}"


def _has_content(path: Path, sha256: str) -> bool:
    return path.is_file() and file_sha256(path).startswith(sha256)


@contextlib.contextmanager
def _only_writer(target: Path, silent: float) -> Iterator[Path | None]:
    """The lock file that this process holds; None after another one has released it, or has ended without doing so.

    The holder touches it while bytes arrive. File systems without locks know exclusive creation too. Should two
    processes write nevertheless, each renames a whole file.
    """
    lock = target.with_name(f".{target.name}.lock")
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        _wait_for_release(lock, silent)
        yield None
        return
    try:
        yield lock
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()


def _wait_for_release(lock: Path, silent: float) -> None:
    """Returns when the lock is gone; removes one that nobody has touched for `silent` seconds."""
    touched, since = -1.0, time.monotonic()
    while True:
        try:
            now = lock.stat().st_mtime
        except FileNotFoundError:
            return
        if now != touched:
            touched, since = now, time.monotonic()
        elif time.monotonic() - since > 1.5 * silent:
            with contextlib.suppress(FileNotFoundError):
                lock.unlink()
            return
        time.sleep(0.2)


def _fetch(url: str, target: Path, sha256: str, lock: Path, limits: Limits) -> None:
    temporary = temporary_beside(target)
    digest, size, start = hashlib.sha256(), 0, time.monotonic()
    try:
        with urllib.request.urlopen(url, timeout=limits.silent) as source, temporary.open("xb") as file:
            # read1 returns what has arrived: a server that sends byte by byte does not stretch one call.
            while block := source.read1(1 << 20):
                size += len(block)
                if size > limits.size:
                    raise ValueError(f"it is larger than {limits.size} bytes")
                if time.monotonic() - start > limits.whole:
                    raise ValueError(f"it took longer than {limits.whole:g} s")
                digest.update(block)
                file.write(block)
                os.utime(lock)
            file.flush()
            os.fsync(file.fileno())
        if not digest.hexdigest().startswith(sha256):
            raise ValueError(f"its SHA-256 is {digest.hexdigest()}, expected is {sha256}")
        temporary.replace(target)
        flush_folder(target.parent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
