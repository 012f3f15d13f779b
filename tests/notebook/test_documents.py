"""docs/store.ipynb runs on the demo and shows every call; docs/store.md has every column, and duckdb reads a part."""

import inspect
import re
import subprocess
import sys

import nbformat
import pytest
from commands import REPOSITORY, environment
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from plgen_ddp.notebook.opened_store import OpenedStore
from plgen_ddp.part_layout import IMPORTED_SCHEMA, SCHEMA
from plgen_ddp.store import Manifest

NOTEBOOK = REPOSITORY / "docs" / "store.ipynb"
MANUAL = REPOSITORY / "docs" / "store.md"


@pytest.fixture
def checkout(demo_run, tmp_path):
    """A folder where docs/ and out/demo lie as in a checkout after `make demo`."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "demo").symlink_to(demo_run.output)
    return tmp_path


def executed(notebook, folder):
    """A copy of the notebook after a real kernel has run it in `folder`."""
    ran = nbformat.from_dict(notebook)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(ran, timeout=400, startup_timeout=300, kernel_name="python3", resources=resources).execute()
    return ran


def shown(cell):
    return "".join(output["data"]["text/plain"] for output in cell.outputs if "data" in output)


def headings(text):
    """The words of a table that are no values: what must be the same on another machine."""
    return re.findall(r"[a-z_]{4,}", re.sub(r"\S+\.jpg", "", text))


def test_the_notebook_runs_on_the_demo_and_shows_what_it_showed(checkout):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    ran = executed(notebook, checkout / "docs")
    before, after = ([cell for cell in one.cells if cell.cell_type == "code"] for one in (notebook, ran))
    for committed, fresh in zip(before, after, strict=True):
        assert shown(fresh), f"nothing to see: {fresh.source}"
        assert headings(shown(committed)) == headings(shown(fresh)), fresh.source
    assert shown(after[0]) == "48"


def test_the_notebook_shows_every_call_and_no_machine():
    text = NOTEBOOK.read_text()
    notebook = nbformat.reads(text, as_version=4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    calls = [name for name, _ in inspect.getmembers(OpenedStore, inspect.isfunction) if name[0] != "_"]
    assert len(calls) >= 6
    for call in (*(f"store.{name}(" for name in calls), "len(store)"):
        assert code.count(call) == 1, call
        assert f"{call.rstrip('(')}" in MANUAL.read_text(), call
    # An absolute path: a slash that follows nothing, before a name.
    assert not re.search(r"(?<![\w./<])/\w+/|site-packages|Traceback", text.replace("\\n", " "))
    assert len(text) < 20_000


def test_a_mistake_in_a_notebook_is_one_line(tmp_path):
    source = "import plgen_ddp\nplgen_ddp.open_store('out/nowhere')"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    client = NotebookClient(notebook, timeout=400, startup_timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    with pytest.raises(CellExecutionError):
        client.execute()
    (output,) = (output for output in notebook.cells[0].outputs if output.output_type == "error")
    line = "error: run.output: no region store at out/nowhere/store; make one with launch/score.py"
    assert output.traceback == [line]


def test_duckdb_reads_the_parts_by_the_documented_line(checkout, demo_run):
    (line,) = re.findall(r'^    python -c "(import duckdb.*)"$', MANUAL.read_text(), re.MULTILINE)
    code = line.replace('\\"', '"')
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=checkout, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"│ +(\d+) │ +(\d+) │ +([\d.]+) │", done.stdout)
    images = {image.image_id: image for path in demo_run.store.part_paths() for image in demo_run.store.read_part(path)}
    expected = [(image_id, len(images[image_id].objectness)) for image_id in sorted(images)[:5]]
    assert [(int(image_id), int(boxes)) for image_id, boxes, _ in rows] == expected
    for image_id, _, best in rows:
        assert abs(float(best) - images[int(image_id)].objectness[0]) < 1e-3


def test_the_manual_has_every_column_and_every_key_of_the_manifest():
    text = MANUAL.read_text()
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", text, re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert documented == {*SCHEMA.names, *IMPORTED_SCHEMA.names, *Manifest.__dataclass_fields__, "format"}
