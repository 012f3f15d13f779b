"""Fixtures that several files of tests use. What they import lies beside this file, under names of its own."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


@functools.cache
def _group_of(file: str) -> str:
    """What a worker runs as a whole: a file of tests, or all files that look at the same finished run.

    Args:
        file: relative to the repository.
    """
    text = (REPOSITORY / file).read_text()
    return next((run for run in ("demo_run", "two_rank_run") if run in text), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Makes the fixtures of a file, and finished runs, once; xdist's marks for groups do nothing under pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class WholeGroups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group_of(nodeid.partition("::")[0])

    return WholeGroups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    groups = {item: _group_of(item.path.relative_to(REPOSITORY).as_posix()) for item in items}
    starts = (*_LONGEST, "")
    items.sort(key=lambda item: next(place for place, start in enumerate(starts) if groups[item].startswith(start)))
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
    """Makes a dataset of the first `count` scenes, which the test may damage."""
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
