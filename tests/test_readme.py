"""Every command of the README and of docs/recipes, models, training and demo runs as written, in the pages' order.

The measurements of docs/speed and scale take too long for a test; tests/notebook runs the command of docs/store.
The folder in which they run has what the README asks for, in its places: `coco/`, `weights/` and so on. What lies there
is small: the demo's scenes for COCO, the demo's two models for the real ones, and so its names.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import REPOSITORY, environment
from small_datasets import SCENES, SCENES_JSON, SCENES_VOCABULARY, take_scenes

GUIDES = ("README.md", *(f"docs/{name}.md" for name in ("recipes", "models", "training", "demo")))
PAGES = sorted({*GUIDES, "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))})

# What runs elsewhere, and the file that runs it. The set-up and `make test` are how these tests come to run.
ELSEWHERE = {
    "make": ".ci/run",
    "pip": "Makefile",
    "sbatch": "tests/slurm/test_slurm.py",
    "plgen_ddp.demo": "tests/conftest.py",
    "--config demo": "plgen_ddp/demo/__main__.py",
}

DEMO = REPOSITORY / "plgen_ddp" / "demo" / "weights"
MODELS = (
    f"detector.config={REPOSITORY / 'configs' / 'demo' / 'detector.yaml'}",
    "detector.precision=fp32",
    f"clip.model={DEMO / 'clip.pt'}",
    "clip.activation=quick_gelu",
    "clip.precision=fp32",
)
VOCABULARY = f"label.vocabulary={SCENES_VOCABULARY}"
SHORT_TRAINING = (
    MODELS[0],
    "detector.weights=null",
    f"data.vocabulary={SCENES_VOCABULARY}",
    "train.steps=2",
    "train.images_per_step=4",
    "train.base_lr=0.0001",
)


def code_blocks(page: str) -> Iterator[str]:
    """The indented blocks of a page, dedented; a list's own indentation does not count."""
    block: list[str] = []
    for line in [*(REPOSITORY / page).read_text().splitlines(), "end"]:
        if re.match(r" {4,}\S", line):  # a list's text is indented by three at most
            block.append(line)
        elif block and line:
            yield "\n".join(block)
            block = []


def commands_of(page: str) -> list[str]:
    """The commands of a page, each on one line."""
    lines = "\n".join(code_blocks(page)).replace("\\\n", " ").splitlines()
    commands = [re.sub(r"\s{2,}#.*", "", line.strip()) for line in lines]
    return [command for command in commands if re.match(r"(python|torchrun|make|pip|sbatch|plgen|\.)\s", command)]


def place_of(command: str) -> str | None:
    """The file that runs the command, if that is not this one."""
    words = f"{command} "
    return next((place for start, place in ELSEWHERE.items() if re.search(rf"(^|\s){start}\s", words)), None)


COMMANDS = [
    pytest.param(command, id=f"{page}: {command[:60]}")
    for page in GUIDES
    for command in commands_of(page)
    if place_of(command) is None
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with everything that the README's commands read, and nothing that they write."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "launch").symlink_to(REPOSITORY / "launch")
    shutil.copytree(SCENES / "demo", folder / "coco" / "train2017")
    (folder / "coco" / "annotations").mkdir()
    shutil.copy(SCENES_JSON, folder / "coco" / "annotations" / "instances_train2017.json")
    (folder / "weights").mkdir()
    shutil.copy(DEMO / "detector.pth", folder / "weights" / "base_num1.pth")
    (folder / "photos").mkdir()
    scenes = take_scenes(3)
    for image in scenes["images"]:
        shutil.copy(SCENES / "demo" / image["file_name"], folder / "photos")
    (folder / "boxes.json").write_text(json.dumps(boxes_of(json.loads(SCENES_JSON.read_text()))))
    write_reference_scores(folder / "CLIP_scores_for_PLs", scenes)
    shutil.copy(DEMO / "clip.pt", folder / "clip.pt")
    return folder


def boxes_of(dataset):
    """Boxes near its annotations as a COCO results list: what another detector would write."""
    return [
        {"image_id": value["image_id"], "bbox": _looser(value["bbox"]), "score": 0.9}
        for value in dataset["annotations"]
    ]


def _looser(bbox):
    """A tenth smaller: a box that is an annotation of a novel name would be a leak."""
    x, y, width, height = bbox
    return [x, y, 0.9 * width, 0.9 * height]


def write_reference_scores(folder, dataset):
    """A file as the reference's stage 1 writes it, with one box an image."""
    folder.mkdir()
    images = [image["id"] for image in dataset["images"]]
    novel = {category["name"]: category["id"] for category in dataset["categories"]}["heart"]
    columns = {
        "img_ids_list": images,
        "bbox_all_list": [[[10.0, 10.0, 60.0, 60.0]]] * len(images),
        "rpn_score_all_list": [[0.9]] * len(images),
        "clip_score_all_list": [[[0.9]]] * len(images),
        "clip_catIDs_all_list": [[[novel]]] * len(images),
    }
    (folder / "CLIP_scores_0.json").write_text(json.dumps(columns))


def in_small(words: list[str]) -> list[str]:
    """The command's words, with those appended that put the demo's models and names in the place of the real ones."""
    script = next((Path(word).stem for word in words if word.endswith(".py")), "")
    if script == "train_proposals":
        return [*words, *SHORT_TRAINING]
    if "--config" not in words:
        return words
    named = any(word.startswith("label.vocabulary=") for word in words)
    return [*words, *MODELS, *(() if named else (VOCABULARY,))]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_runs(command, world):
    words = shlex.split(re.sub(r"nproc_per_node=\d+", "nproc_per_node=2", command))
    start = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}[words[0]]
    done = subprocess.run(
        [*start, *in_small(words)[1:]], cwd=world, env=environment(), capture_output=True, text=True, timeout=350
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_lines_for_a_notebook_run(world):
    pytest.importorskip("pandas")
    (lines,) = (block for block in code_blocks("README.md") if "import plgen_ddp" in block)
    code = "\n".join(line.strip() for line in lines.splitlines()).replace("store.search(", "found = store.search(")
    subprocess.run([sys.executable, "-c", f"{code}\nassert len(found)"], cwd=world, env=environment(), check=True)


def test_the_readme_has_its_commands():
    found = commands_of("README.md")
    for script in (
        "score",
        "label",
        "doctor",
        "status",
        "verify",
        "report",
        "sweep",
        "compare",
        "evaluate",
        "make_json",
    ):
        assert any(f"launch/{script}.py" in command for command in found), script


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    text = (REPOSITORY / page).read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links:
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (REPOSITORY / page).parent / path if path else REPOSITORY / page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, link


def test_every_script_is_in_the_table_of_commands():
    text = (REPOSITORY / "README.md").read_text()
    scripts = {path.stem for path in (REPOSITORY / "launch").glob("*.py") if not path.stem.startswith("_")}
    assert {name for name in scripts if f"`launch/{name}.py" not in text} == set()


def test_contributing_names_every_module():
    """By its path, or in the list that its room has in `__init__.py`."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    package = REPOSITORY / "plgen_ddp"
    modules = [path.relative_to(package) for path in package.rglob("*.py") if not path.stem.startswith("_")]
    for path in modules:
        room = package / path.parts[0] / "__init__.py"
        listed = room.read_text() if room.exists() else ""
        words = [f"`{Path(part).stem}`" for part in path.parts[1:]]
        assert f"`{path.as_posix()}`" in text or any(word in listed for word in words), path


def test_no_line_is_wider_than_a_screen():
    for page in GUIDES:
        for number, line in enumerate((REPOSITORY / page).read_text().splitlines(), 1):
            assert len(line) <= 132 or line.lstrip().startswith(("|", "!")), f"{page}:{number}"
