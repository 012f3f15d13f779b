"""Whole runs of the job that several files of tests look at: made once, never changed."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from plgen_ddp.store import RegionStore


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended well.

    Attributes:
        words: of launch/score.py, all but run.output.
        images: how many it scored and labelled.
        output: its run.output, only to be read.
        stdout, stderr: what it printed.
    """

    words: list[str]
    images: int
    output: Path
    stdout: str
    stderr: str

    @property
    def store(self) -> RegionStore:
        return RegionStore(self.output / "store")

    def copy(self, folder: Path) -> Path:
        """A copy of the output in a new folder, which a test may change."""
        return Path(shutil.copytree(self.output, folder))


def files_of(output: Path) -> dict[str, bytes]:
    """Name and content of every file of a run that decides anything: manifest, parts, labels."""
    files = (path for path in sorted(output.rglob("*")) if path.is_file() and path.suffix != ".npz")
    content = {str(path.relative_to(output)): path.read_bytes() for path in files}
    return {name: data for name, data in content.items() if not name.startswith("log/")}


def part_times(output: Path) -> dict[str, int]:
    """When each part was written: name to nanoseconds."""
    return {path.name: path.stat().st_mtime_ns for path in RegionStore(output / "store").part_paths()}
