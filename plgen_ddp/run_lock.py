"""One job at a time writes into a run's folder: `<run.output>/scoring.lock`. A dead job's lock does not block.

The lock is a file that appears whole (a hard link to a temporary one, as NFS does it atomically too) and says who holds
it. Its holder renews the file's time every few seconds. Another job that finds it looks, on the same machine, whether
the holder's process lives; a holder on another machine is dead when the file's time does not move for three quarters of
a minute. Times are compared with each other, all of the file system's clock. `holder_of`, which only informs, compares
with this machine's.

The ranks that torchrun starts again, and those of a requeued job, find the lock of their dead predecessors.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError
from plgen_ddp.files import flush_folder, process_exists, temporary_beside

LOCK_NAME = "scoring.lock"

# Seconds between two renewals, and without one until a holder on another machine counts as dead.
_BEAT = 5.0
_STALE = 45.0
# An orphan, whose torchrun was killed, ends by itself within this time; see `plgen_ddp.stopping`.
_ORPHANS_GRACE = 60.0
_LOOK_EVERY = 0.5


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock.

    Attributes:
        token: random; no other holder has it.
        host: for messages. machine: which running system it is, process ids included.
        pid, started: the process, and when the system started it, so that a later process of this id is another.
        parent, parent_started: the same of the torchrun that started it; 0 and empty without one.
        since: seconds since 1970, of the host's clock.
        images: how many the job is to have in the store when it ends.
    """

    token: str
    host: str
    machine: str
    pid: int
    started: str
    parent: int
    parent_started: str
    since: float
    images: int

    @classmethod
    def here(cls, images: int, *, parent: bool) -> "Holder":
        """This process; the arguments are those of `RunLock.acquire`."""
        agent = os.getppid() if parent else 0
        return cls(
            token=secrets.token_hex(8),
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            started=_start_of(os.getpid()),
            parent=agent,
            parent_started=_start_of(agent) if agent else "",
            since=time.time(),
            images=images,
        )

    @property
    def is_local(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        return self.machine == _machine()

    @property
    def lives(self) -> bool:
        """Whether its process exists; for a local one."""
        return process_exists(self.pid) and _start_of(self.pid) == self.started

    @property
    def is_orphan(self) -> bool:
        """Whether the torchrun that started it has ended; for a local one."""
        return self.parent > 0 and not (process_exists(self.parent) and _start_of(self.parent) == self.parent_started)

    def described(self) -> str:
        """Host, process and start, in words."""
        start = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, started {start}"


# Of a lock that does not say it: of another form, or still being written where there are no links.
_UNKNOWN = Holder("", "an unknown host", "", 0, "", 0, "", 0.0, 0)


class RunLock:
    """The lock of a run's folder, as one rank of a job holds it. Use it as a context manager, or call `release`."""

    def __init__(self, folder: Path, *, beat: float = _BEAT, stale: float = _STALE) -> None:
        """
        Args:
            folder: `run.output`.
            beat, stale: seconds between two renewals, and without one until a holder elsewhere is dead.
        """
        self._path = folder / LOCK_NAME
        self._beat, self._stale = beat, stale
        self._own: Holder | None = None
        self._lost: str | None = None
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, images: int = 0, *, parent: bool = False) -> None:
        """Takes the lock, which another job may have left behind.

        Args:
            images: how many the job is to have in the store when it ends.
            parent: whether torchrun started this process, which stops when torchrun has ended.

        Raises:
            UserError: another job is at work there, or the folder cannot be written.
        """
        own = Holder.here(images, parent=parent)
        own_file = temporary_beside(self._path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            own_file.write_text(json.dumps(asdict(own)))
            try:
                self._take(own, own_file)
            finally:
                own_file.unlink(missing_ok=True)
            flush_folder(self._path.parent)
        except OSError as error:
            raise UserError(f"run.output: cannot write {self._path}: {error.strerror}") from None
        self._own = own
        self._thread = threading.Thread(target=self._renew, name="run-lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises a `UserError` where this job has lost the lock, or its folder. Without the lock it does nothing."""
        if self._lost is not None:
            raise UserError(self._lost)

    def release(self) -> None:
        """Gives the lock back, where this process still holds it."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        held = _read(self._path) if self._own is not None else None
        if held is not None and held[0] == self._own:
            with contextlib.suppress(OSError):
                self._path.unlink()
        self._own = None

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _take(self, own: Holder, own_file: Path) -> None:
        waits = _Waits(self._stale)
        while not _link(own_file, self._path):
            found = _read(self._path)
            if found is None:  # given back
                continue
            holder, moved = found
            os.utime(own_file)
            if waits.is_dead(holder, moved, own_file.stat().st_mtime):
                self._remove(holder)
            elif waits.is_alive(holder):
                raise UserError(
                    f"run.output: another job is scoring into {self._path.parent}: {holder.described()}; wait for its "
                    "end, stop it, or choose another run.output"
                )
            else:
                time.sleep(min(_LOOK_EVERY, self._beat))

    def _remove(self, dead: Holder) -> None:
        """Removes the lock of a dead job, and not that of a living one that took its place a moment ago."""
        aside = temporary_beside(self._path)
        with contextlib.suppress(FileNotFoundError):  # another job was faster
            self._path.rename(aside)
            found = _read(aside)
            if found is not None and found[0] != dead:
                _link(aside, self._path)
            aside.unlink()

    def _renew(self) -> None:
        """Renews the lock until it is given back. Stops when this job has lost it, or is an orphan, which ends soon."""
        own = self._own
        assert own is not None
        while not self._end.wait(self._beat):
            if own.is_orphan:
                return
            try:
                found = _read(self._path)
                if found is not None and found[0] == own:
                    os.utime(self._path)
                elif found is not None:
                    self._lose(f"{self._path.parent} was taken over by {found[0].described()}")
                elif not self._path.parent.exists():
                    self._lose(f"{self._path.parent} was removed while a job writes there; run again")
                else:  # somebody removed the lock alone
                    own_file = temporary_beside(self._path)
                    own_file.write_text(json.dumps(asdict(own)))
                    _link(own_file, self._path)
                    own_file.unlink()
            except OSError:  # a file server that is away for a while
                continue

    def _lose(self, why: str) -> None:
        self._lost = f"run.output: {why}"
        self._end.set()


class _Waits:
    """What one job has seen of a lock that it waits for."""

    def __init__(self, stale: float) -> None:
        self._stale = stale
        self._first: tuple[str, float] | None = None
        self._waited_since = time.monotonic()
        self._moved = False

    def is_dead(self, holder: Holder, moved: float, now: float) -> bool:
        """Whether the holder is dead, as far as can be seen now.

        Args:
            moved, now: when the lock was renewed, and the time, both of the file system.
        """
        if holder.is_local:
            return not holder.lives
        if self._first is None or self._first[0] != holder.token:
            self._first = (holder.token, moved)
            self._waited_since = time.monotonic()
            if now - moved < self._stale:
                print_line(
                    f"run.output is locked by {holder.described()}; waiting {self._stale:.0f} s for a sign of life",
                    error=True,
                )
        self._moved = self._moved or moved != self._first[1]
        return not self._moved and now - moved >= self._stale

    def is_alive(self, holder: Holder) -> bool:
        """Whether the holder is at work, as far as can be seen now. Neither dead nor alive: look again."""
        if holder.is_local:
            return not holder.is_orphan or time.monotonic() - self._waited_since > _ORPHANS_GRACE
        return self._moved


def holder_of(folder: Path) -> tuple[Holder, bool] | None:
    """Who holds the lock of a run's folder, and whether that job seems to live; None where nobody does."""
    found = _read(folder / LOCK_NAME)
    if found is None:
        return None
    holder, moved = found
    return holder, holder.lives if holder.is_local else time.time() - moved < _STALE


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[RunLock]:
    """Holds the lock of a run's folder for a process that is no rank."""
    with RunLock(folder) as lock:
        lock.acquire()
        yield lock


def _link(source: Path, target: Path) -> bool:
    """Makes `target` appear with the content of `source`, unless it exists; whether it did."""
    try:
        os.link(source, target)
    except FileExistsError:
        # An answer that got lost on the way: the file server did it, and was asked again.
        return source.stat().st_nlink == 2 and target.exists() and source.samefile(target)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        return _create(source, target)  # a file system without links
    return True


def _create(source: Path, target: Path) -> bool:
    try:
        descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(source.read_bytes())
    return True


def _read(path: Path) -> tuple[Holder, float] | None:
    """Who holds a lock, and when the file was renewed; None where there is none.

    Opening it makes NFS ask the server how old it is.
    """
    try:
        with path.open("rb") as file:
            content, moved = file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    try:
        return Holder(**json.loads(content)), moved
    except (ValueError, TypeError):
        return _UNKNOWN, moved


def _machine() -> str:
    """The running system and its space of process ids; containers of one host may have several."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _start_of(pid: int) -> str:
    """When the system started a process, in its own clock; empty where it does not say."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "ended" if words[0] in "ZX" else words[19]  # a zombie: only its parent's question is left
    except (OSError, IndexError):
        return ""
