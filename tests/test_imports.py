"""Who imports what: one file knows each heavy dependency, and labelling needs none of them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "plgen_ddp"
# Seeded models and trainers build models of their own; the job itself has one importer each.
JOB = [path for path in PACKAGE.glob("*.py") if path.name not in ("seeded_models.py", "proposal_training.py")]


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(
    ("dependency", "importer"),
    [("torch.distributed", "world.py"), ("detectron2", "proposals.py"), ("clip", "clip_model.py")],
)
def test_one_file_of_the_job_imports(dependency, importer):
    importers = {
        path.name
        for path in JOB
        if any(name == dependency or name.startswith(dependency + ".") for name in imports_of(path))
    }
    assert importers == {importer}


def test_nothing_edits_the_import_path():
    for path in [*PACKAGE.rglob("*.py"), *(REPOSITORY / "launch").glob("*.py")]:
        assert "sys.path" not in path.read_text(), path


@pytest.mark.parametrize("module", ["labeling", "store", "vocabulary", "coco", "config", "report"])
def test_the_labelling_path_imports_no_torch_at_all(module):
    code = f"import sys, plgen_ddp.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert f"plgen_ddp.{module}" in loaded
    assert loaded.isdisjoint({"torch", "torch.distributed", "detectron2", "clip", "torchvision", "cv2"})
