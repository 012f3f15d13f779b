"""What the tests share: real photos, tiny seeded models in the files that users have, and the user's own commands."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from plgen_ddp.benchmark.seeded_models import write_tiny_clip, write_tiny_detector

REPOSITORY = Path(__file__).parents[1]
COCO_MINI = REPOSITORY.parent / "shared" / "data" / "coco_mini"

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None or not Path(sysconfig.get_path("include"), "Python.h").is_file(),
    reason="torch.compile needs g++ and Python.h",
)

# More threads than cores would make every rank wait for the others' spinning.
torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Hides GPUs, so that the suite checks the same on every machine, unless the GPU's tests are asked for."""
    if not os.environ.get("PLGEN_TEST_GPU"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        raise pytest.UsageError("PLGEN_TEST_GPU is set, and torch sees no NVIDIA GPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU, and to be asked for: make test-gpu"))


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """Root of 159 real COCO images in COCO's layout."""
    if not COCO_MINI.is_dir():
        pytest.skip(f"needs real COCO images at {COCO_MINI}")
    return COCO_MINI


@dataclass(frozen=True)
class TinyModels:
    """Seeded models in the form of the real ones, small enough for any test."""

    config: Path
    weights: Path
    clip: Path

    def overrides(self) -> list[str]:
        return [
            f"detector.config={self.config}",
            f"detector.weights={self.weights}",
            f"clip.model={self.clip}",
            "clip.activation=quick_gelu",
            "detector.precision=fp32",
            "clip.precision=fp32",
        ]


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    folder = tmp_path_factory.mktemp("tiny_models")
    photos = sorted((COCO_MINI / "val2017").glob("*.jpg"))[:1]
    config, weights = write_tiny_detector(folder, photos, seed=0)
    return TinyModels(config, weights, write_tiny_clip(folder, seed=0))


def take_images(root: Path, split: str, count: int) -> dict[str, Any]:
    """The COCO-format content of the first `count` images of a split of coco_mini, with their annotations."""
    data = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
    data["images"] = sorted(data["images"], key=lambda image: image["id"])[:count]
    ids = {image["id"] for image in data["images"]}
    data["annotations"] = [annotation for annotation in data["annotations"] if annotation["image_id"] in ids]
    return data


@dataclass(frozen=True)
class SmallCoco:
    """A dataset of its own in a temporary folder: files may be damaged, the JSON changed."""

    root: Path
    annotations: Path

    def read(self) -> dict[str, Any]:
        return json.loads(self.annotations.read_text())

    def write(self, data: dict[str, Any]) -> None:
        self.annotations.write_text(json.dumps(data))

    def overrides(self) -> list[str]:
        return [f"data.annotations={self.annotations}", f"data.image_root={self.root}"]


@pytest.fixture
def small_coco(coco_mini: Path, tmp_path: Path) -> Callable[[int], SmallCoco]:
    """Makes a dataset of the first so many val2017 images."""

    def make(count: int) -> SmallCoco:
        data = take_images(coco_mini, "val2017", count)
        dataset = SmallCoco(tmp_path / "coco", tmp_path / "coco" / "annotations" / "instances_val2017.json")
        dataset.annotations.parent.mkdir(parents=True)
        (dataset.root / "val2017").mkdir()
        for image in data["images"]:
            shutil.copy(coco_mini / "val2017" / image["file_name"], dataset.root / "val2017")
        dataset.write(data)
        return dataset

    return make


def command(script: str, *words: str | Path, ranks: int | None = None) -> list[str]:
    """The user's command line for a script of launch/, under torchrun where `ranks` is given."""
    start = [sys.executable]
    if ranks is not None:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return [*start, str(REPOSITORY / "launch" / script), *map(str, words)]


def run(arguments: list[str], status: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a command and checks its exit status."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == status, f"exit status {done.returncode}, expected {status}\n{done.stdout}\n{done.stderr}"
    return done
