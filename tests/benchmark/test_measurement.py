"""The instruments: operations by stage, and the line of hardware."""

import shutil
import subprocess

import pytest
import torch

from plgen_ddp.benchmark.hardware import commit_of, hardware
from plgen_ddp.benchmark.measurement import count_flops
from plgen_ddp.score.timing import stage


def test_flops_are_counted_by_stage():
    left, right = torch.ones(3, 5), torch.ones(5, 7)

    def work():
        with stage("detector"):
            left @ right
        with stage("CLIP"):
            left @ right
            left @ right
        left @ right

    assert count_flops(work) == {"detector": 2 * 3 * 5 * 7, "CLIP": 4 * 3 * 5 * 7}


def test_the_hardware_is_one_line():
    line = hardware()
    assert "\n" not in line and f"torch {torch.__version__}" in line and " cores of " in line


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_commit_is_that_of_the_packages_own_files(tmp_path):
    def git(*words):
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    package, installed = tmp_path / "package", tmp_path / "venv" / "package"
    for folder in (package, installed):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
    assert commit_of(package) == ""
    git("init")
    git("add", "package")
    git("commit", "--message", "first")
    assert commit_of(package) == f"commit {git('rev-parse', '--short', 'HEAD')}"
    assert commit_of(installed) == ""
    (package / "__init__.py").write_text("changed = True\n")
    assert commit_of(package).endswith(" with changes")
