"""The user's own commands: in a process of their own, under torchrun, or called here where no rank matters."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[1]


def command(script: str, *words: str | Path, ranks: int | None = None) -> list[str]:
    """The user's command line for a script of launch/, under torchrun where `ranks` is given."""
    start = [sys.executable]
    if ranks is not None:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return [*start, str(REPOSITORY / "launch" / script), *map(str, words)]


def environment() -> dict[str, str]:
    """This process's environment with one OpenMP thread a process: ranks share few cores."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


def run(arguments: list[str], status: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a command and checks its exit status."""
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment(), timeout=500)
    assert done.returncode == status, f"exit status {done.returncode}, expected {status}\n{done.stdout}\n{done.stderr}"
    return done


def launcher(name: str) -> ModuleType:
    """A script of launch/ as a module: its `main(words)` is the command without the seconds that a start costs."""
    spec = importlib.util.spec_from_file_location(f"launch_{name}", REPOSITORY / "launch" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(name: str, *words: str | Path, status: int = 0) -> None:
    """Calls a script of launch/ in this process, and checks its exit status. A user's mistake raises SystemExit."""
    assert launcher(name).main(list(map(str, words))) == status


def refused(capsys: pytest.CaptureFixture[str], name: str, words: Sequence[str | Path]) -> str:
    """The line that a script of launch/, called in this process, prints when it stops with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        call(name, *words)
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed.err
    return printed.err
