"""Fixtures that several files of tests use. What they import lies beside this file, under names of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import REPOSITORY, command, environment, run
from finished_runs import FinishedRun
from hypothesis import settings
from small_datasets import COCO_MINI, SmallDataset, scenes_words
from tiny_models import TinyModels

# The same commit gives the same answer twice: examples follow from the test. HYPOTHESIS_PROFILE=default draws new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_configure(config: pytest.Config) -> None:
    """Hides GPUs, so that the suite checks the same on every machine, unless the GPU's tests are asked for."""
    if not os.environ.get("PLGEN_TEST_GPU"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        raise pytest.UsageError("PLGEN_TEST_GPU is set, and torch sees no NVIDIA GPU")


# What takes longest starts first, so that no worker is left alone with it at the end.
_LONGEST = ("demo_run", "tests/slurm", "two_rank_run", "tests/benchmark")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives each worker whole files, and all files of a finished run to one worker, so that it is made once."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    order = {}
    for path, tests in files.items():
        used = {fixture for test in tests for fixture in getattr(test, "fixturenames", ())}
        group = next((run for run in ("demo_run", "two_rank_run") if run in used), str(path.relative_to(REPOSITORY)))
        place = next((place for place, start in enumerate(_LONGEST) if group.startswith(start)), len(_LONGEST))
        for test in tests:
            test.add_marker(pytest.mark.xdist_group(group))
            order[test] = place
    items.sort(key=lambda test: order[test])
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU, and to be asked for: make test-gpu"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """One thread, before any fixture: a command that was called in this process may have changed it, and results are
    compared to the last bit."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """Root of 159 real COCO images in COCO's layout; skips where they do not lie beside the checkout."""
    if not COCO_MINI.is_dir():
        pytest.skip(f"real photos are an extra: none at {COCO_MINI}")
    return COCO_MINI


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return TinyModels.write(tmp_path_factory.mktemp("tiny_models"))


@pytest.fixture
def small_dataset(tmp_path: Path) -> Callable[[int], SmallDataset]:
    """Makes a dataset of the first so many scenes, which the test may damage."""
    return lambda count: SmallDataset.copy(tmp_path / "dataset", count)


@pytest.fixture(scope="session")
def two_rank_run(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The whole job with tiny models on 14 scenes, by two ranks under torchrun."""
    images = 14
    words = [
        *("--config", str(REPOSITORY / "configs" / "coco_vlplm.yaml")),
        *tiny_models.words(),
        *scenes_words(),
        # Small units, so that few images are many parts and every rank has several.
        *("run.workers=1", "run.images_per_batch=2", "run.images_per_part=2", f"data.limit={images}"),
    ]
    output = tmp_path_factory.mktemp("two_ranks") / "out"
    done = run(command("score.py", *words, f"run.output={output}", ranks=2))
    return FinishedRun(words, images, output, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """`python -m plgen_ddp.demo` as a user runs it: learned models, 48 scenes, two ranks."""
    output = tmp_path_factory.mktemp("demo") / "out"
    done = subprocess.run(
        [sys.executable, "-m", "plgen_ddp.demo", f"run.output={output}"],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return FinishedRun(["--config", str(REPOSITORY / "configs" / "demo.yaml")], 48, output, done.stdout, done.stderr)
