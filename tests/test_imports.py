"""Who imports what: arrows go down only, one file knows each heavy dependency, and labelling needs none of them.

Imports inside functions count as well: they are found in the source, not by running it.
"""

import ast
import subprocess
import sys

import pytest
from commands import REPOSITORY

PACKAGE = REPOSITORY / "plgen_ddp"
ROOMS = {"score", "label", "report", "train", "demo", "benchmark", "doctor", "encoders", "notebook"}
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

# What each room may import of the package, beside itself and the shared ground.
ALLOWED = {
    "shared ground": set(),
    "encoders": set(),
    "score": {"encoders"},
    "label": {"encoders"},  # in label/embed_names.py alone, and only for names that the store has not seen
    "report": {"label"},  # it labels a store by several rules, and compares them
    "train": {"score", "label"},  # the same images and detector as stage 1, the same split into base and novel
    "demo": {"report", "train"},  # train/weights.py writes its models; everything else it runs as commands
    "benchmark": {"score", "label", "encoders"},
    "notebook": {"label"},  # it labels, and embeds a text as names are
    "front door": {"notebook"},  # plgen_ddp.open_store; the import is inside the function
    "doctor": {"score", "label", "encoders"},  # it calls the checks that they make before a run
}

# The only files of the package that import these: in stage 1, the encoders and the shared ground one each. The trainer,
# the demo's training and the benchmark's reference build models of their own.
IMPORTERS = {
    "torch.distributed": {"world.py"},
    "detectron2": {
        "score/mask_rcnn.py",
        "train/checkpoints.py",
        "train/detector.py",
        "train/images.py",
        "train/trainer.py",
        "benchmark/reference_recipe.py",
        "benchmark/timed_reference.py",
        "benchmark/seeded_models/detector.py",
    },
    "clip": {
        "encoders/openai_clip.py",
        "demo/evaluate_clip.py",
        "demo/train_clip.py",
        "benchmark/reference_recipe.py",
        "benchmark/timed_reference.py",
        "benchmark/seeded_models/clip_model.py",
    },
    "open_clip": {"encoders/open_clip.py", "encoders/open_clip_weights.py"},
    "sklearn": {"label/logistic.py"},
    "simplejpeg": {"score/jpeg.py"},
    "matplotlib": {"report/curves.py", "report/frames.py"},
    "jinja2": {"report/rendering.py"},
    "pandas": {"notebook/opened_store.py", "notebook/tables.py"},  # for types; to_frame asks whether it is there
}

# What stage 2 is made of: no torch, no GPU.
LABELLING = [
    *(f"plgen_ddp.{name}" for name in ("records", "files", "errors", "config", "console", "coco", "image_files")),
    *(f"plgen_ddp.{name}" for name in ("boxes", "store", "evaluation", "label_quality", "ranked_labels", "summaries")),
    *(f"plgen_ddp.{name}" for name in ("coco_boxes", "box_recall", "published", "export", "figures")),
    *(f"plgen_ddp.label.{path.stem}" for path in sorted((PACKAGE / "label").glob("*.py")) if path.stem != "__init__"),
    *(f"plgen_ddp.notebook.{name}" for name in ("search", "tables", "opened_store")),
    *(f"launch.{name}" for name in ("label", "sweep", "compare", "evaluate", "audit", "report")),
    *(f"launch.{name}" for name in ("split", "export", "import_scores")),
    *(f"plgen_ddp.{name}" for name in ("manifest", "part_seal", "part_writer", "run_lock", "store_check")),
    *(f"launch.{name}" for name in ("text_embeddings", "status", "verify")),
]
HEAVY = ["torch", "torchvision", "detectron2", "clip", "open_clip", "cv2", "simplejpeg", "sklearn"]


def imports_of(module: str) -> set[str]:
    """The dotted names that a file of the package imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute here"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def importers_of(dependency: str) -> set[str]:
    return {
        module
        for module in MODULES
        if any(name == dependency or name.startswith(dependency + ".") for name in imports_of(module))
    }


def room_of(module: str) -> str:
    first = module.split("/")[0]
    if module == "__init__.py":
        return "front door"
    return first if first in ROOMS else "shared ground"


def rooms_imported_by(module: str) -> set[str]:
    words = [name.split(".") for name in imports_of(module)]
    return {word[1] for word in words if word[0] == "plgen_ddp" and len(word) > 1 and word[1] in ROOMS | {"launch"}}


@pytest.mark.parametrize("dependency", IMPORTERS)
def test_few_files_know_a_heavy_dependency(dependency):
    assert importers_of(dependency) == IMPORTERS[dependency]


@pytest.mark.parametrize("room", ALLOWED)
def test_arrows_go_down_only(room):
    modules = [module for module in MODULES if room_of(module) == room]
    assert modules
    for module in modules:
        assert rooms_imported_by(module) - {room} <= ALLOWED[room], module


def test_labelling_reaches_for_an_encoder_in_one_place():
    assert {module for module in MODULES if "encoders" in rooms_imported_by(module) and room_of(module) == "label"} == {
        "label/embed_names.py"
    }


def test_nothing_edits_the_import_path():
    for path in [*PACKAGE.rglob("*.py"), *(REPOSITORY / "launch").glob("*.py")]:
        assert "sys.path" not in path.read_text(), path


def test_labelling_and_evaluation_import_no_torch_at_all():
    """In a fresh interpreter, module after module, so that the first one that does is named."""
    assert len(LABELLING) > 12
    code = f"""
import importlib, sys
for module in {LABELLING}:
    importlib.import_module(module)
    loaded = sorted(set({HEAVY}) & set(sys.modules))
    assert not loaded, f"{{module}} imports {{loaded}}"
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr.splitlines()[-1]
