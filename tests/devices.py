"""What a test needs of the machine: its devices, a compiler."""

import shutil
import sysconfig
from pathlib import Path

import pytest

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None or not Path(sysconfig.get_path("include"), "Python.h").is_file(),
    reason="torch.compile needs g++ and Python.h",
)
