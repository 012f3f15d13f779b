"""Fixtures of the trainer's tests: drawn scenes, a tiny detector, and the user's command in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import REPOSITORY, call

from plgen_ddp.benchmark.seeded_models import TINY_DETECTOR_YAML
from plgen_ddp.demo.scenes import write_scenes
from plgen_ddp.options import load_structured
from plgen_ddp.train.config import ProposalTrainingConfig

CONFIG = REPOSITORY / "configs" / "train_proposals.yaml"
SPLIT = REPOSITORY / "configs" / "vocabularies" / "demo.yaml"
# The published schedule's shape in miniature.
SHORT = ["train.images_per_step=2", "train.base_lr=0.002", "train.warmup_steps=0", "train.optimizer=adamw"]


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of 40 scenes to train on and 8 for validation, in COCO's layout."""
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, 40, seed=0, split="train")
    write_scenes(root, 8, seed=100_000, split="val")
    return root


@pytest.fixture
def dataset(scenes: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Makes a dataset of the first scenes, its JSON changed; returns the options that name it."""

    def make(count: int, change: Callable[[Any], None] = lambda data: None, name: str = "data.json") -> list[str]:
        data = json.loads((scenes / "annotations" / "instances_train.json").read_text())
        data["images"] = data["images"][:count]
        ids = {image["id"] for image in data["images"]}
        data["annotations"] = [row for row in data["annotations"] if row["image_id"] in ids]
        change(data)
        path = tmp_path / name
        path.write_text(json.dumps(data))
        return [f"data.annotations={path}", f"data.image_root={scenes}"]

    return make


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    """A tiny detector's configuration, for images of several sizes and few boxes of each."""
    path = tmp_path / "detector.yaml"
    few = TINY_DETECTOR_YAML.replace("NUM_CLASSES: 1", "NUM_CLASSES: 1\n    BATCH_SIZE_PER_IMAGE: 64")
    path.write_text(f"{few}  MIN_SIZE_TRAIN: [96, 112, 128]\n  MAX_SIZE_TRAIN: 192\n")
    return path


@pytest.fixture
def words(detector: Path, tmp_path: Path) -> list[str]:
    """The command's words for a short training, without a dataset."""
    return [
        *("--config", str(CONFIG)),
        *(f"detector.config={detector}", "detector.weights=null", f"data.vocabulary={SPLIT}"),
        *(f"run.output={tmp_path / 'out'}", "run.workers=0", "run.device=cpu"),
        *SHORT,
    ]


@pytest.fixture
def configuration() -> Callable[..., ProposalTrainingConfig]:
    """The configuration that the command makes of its words."""
    return lambda words: load_structured(ProposalTrainingConfig, words[1], words[2:])


@pytest.fixture
def launch(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command of launch/ in this process; returns what it prints."""

    def start(name: str, *words: str | Path) -> str:
        capsys.readouterr()
        call(name, *words)
        return "".join(capsys.readouterr())

    return start


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the trainer's command in this process; returns the line that it prints when it stops with status 2."""

    def start(*words: str | Path) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            call("train_proposals", *words)
        printed = capsys.readouterr()
        assert stopped.value.code == 2
        *before, last = printed.err.splitlines()
        assert last.startswith("error: ")
        assert all(line.startswith("left out image ") for line in before), printed.err
        assert "Traceback" not in printed.out
        return last

    return start
