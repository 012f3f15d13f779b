"""Whether all ranks see one `run.output`: each writes a small file there, and looks for those of all others."""

import contextlib
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plgen_ddp.doctor.findings import Finding
from plgen_ddp.plurals import counted
from plgen_ddp.world import World

# An NFS client may know an old listing of a folder for so long, in seconds.
_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class SharedView:
    """What one rank found.

    Attributes:
        host: name of its machine.
        error: why it could not write; None: it could.
        unseen: ranks whose files it did not see.
    """

    host: str
    error: str | None
    unseen: tuple[int, ...]


def check_shared_output(world: World, output: Path) -> Finding:
    """Whether all ranks see one `run.output`. Every rank calls it; the finding is rank 0's."""
    name = world.from_main(lambda: f"plgen-doctor-{secrets.token_hex(8)}")
    missing = world.everywhere(lambda: missing_folders(output))  # all have looked before one makes them
    token = Token(output, name, world.rank, missing)
    world.everywhere(lambda: None)  # all have written
    views = world.gather(SharedView(socket.gethostname(), token.error, token.unseen(world.size)))
    world.from_main(lambda: None)  # all have looked
    token.remove()
    return shared_finding(views, output)


def missing_folders(folder: Path) -> list[Path]:
    """The folder and its parents, as far as they do not exist; the innermost first."""
    return [parent for parent in (folder, *folder.parents) if not parent.exists()]


class Token:
    """This rank's file, and the folders that had to be made for it."""

    def __init__(self, folder: Path, name: str, rank: int, missing: Sequence[Path] | None = None) -> None:
        """
        Args:
            name: of this check, the same on every rank and never used before.
            missing: `missing_folders` before any rank made one. None: this rank is the first.
        """
        self.error: str | None = None
        self._folder, self._name = folder, name
        self._own = self._path(rank)
        self._made = missing_folders(folder) if missing is None else missing
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._own.write_text("a check of plgen_ddp; it may be removed\n")
        except OSError as error:
            self.error = f"cannot write into {folder}: {error.strerror}"

    def unseen(self, ranks: int, patience: float = _PATIENCE) -> tuple[int, ...]:
        """The ranks whose files are not here after `patience` seconds."""
        deadline = time.monotonic() + patience
        while True:
            unseen = tuple(rank for rank in range(ranks) if not self._path(rank).exists())
            if not unseen or time.monotonic() > deadline:
                return unseen
            time.sleep(0.2)

    def remove(self) -> None:
        """Removes the file, and folders that are empty again. Only when all ranks have looked."""
        with contextlib.suppress(OSError):
            self._own.unlink()
        for folder in self._made:
            with contextlib.suppress(OSError):  # another rank's file is still there, or it is gone already
                folder.rmdir()

    def _path(self, rank: int) -> Path:
        return self._folder / f".{self._name}-{rank}"


def shared_finding(views: Sequence[SharedView], folder: Path) -> Finding:
    """One line about the views of all ranks, in rank order."""
    hosts = list(dict.fromkeys(view.host for view in views))
    for rank, view in enumerate(views):
        if view.error is not None:
            return Finding("shared output", "error", f"rank {rank} on {view.host} {view.error}", "mount it there")
        if view.unseen:
            others = ", ".join(f"rank {other} on {views[other].host}" for other in view.unseen[:3])
            message = f"rank {rank} on {view.host} does not see in {folder} what {others} writes"
            return Finding("shared output", "error", message, "choose a run.output that all nodes share")
    return Finding("shared output", "ok", f"{counted(len(views), 'rank')} on {', '.join(hosts)} see one {folder}")
