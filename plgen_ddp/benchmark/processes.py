"""Starts what is timed. Each run is a process of its own, or several under torchrun: its memory is then its alone."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from plgen_ddp.benchmark.inputs import Inputs
from plgen_ddp.benchmark.measurement import Measurement
from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError
from plgen_ddp.plurals import counted
from plgen_ddp.store import RegionStore


@dataclass(frozen=True, slots=True)
class TimedJob:
    """What a run of the job cost, and the store that it made."""

    measurement: Measurement
    store: RegionStore


def measure_job(inputs: Inputs, precision: str, ranks: int) -> TimedJob:
    """Scores all images on `ranks` ranks, as torchrun with launch/score.py does.

    Args:
        precision: of both models, or detector+CLIP.

    Raises:
        UserError: the folder holds this run already, or the run failed.
    """
    on = counted(ranks, "rank")
    print_line(f"timing the job in {precision} on {on}, {inputs.images} images", error=True)
    output = _new_folder(inputs, f"job-{precision}-{inputs.images}-images-{on.replace(' ', '-')}")
    detector, _, clip = precision.partition("+")
    words = (
        *inputs.overrides,
        f"run.output={output}",
        f"detector.precision={detector}",
        f"clip.precision={clip or detector}",
    )
    torchrun = ("torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "--module")
    # One thread a rank also while it starts; later it takes run.threads.
    environment = {"OMP_NUM_THREADS": "1"}
    measured = _run((*torchrun, "plgen_ddp.benchmark.timed_job"), output / "result.json", words, environment)
    return TimedJob(replace(measured, precision=precision), RegionStore(output / "store"))


def measure_reference(inputs: Inputs, count: int) -> Measurement:
    """Runs the reference recipe on the first `count` images, in one process with all of the machine's cores.

    Raises:
        UserError: the folder holds this run already, or the run failed.
    """
    print_line(f"timing the reference on {count} images", error=True)
    output = _new_folder(inputs, f"reference-{count}-images")
    words = (*inputs.overrides, f"run.output={output}", f"data.limit={count}")
    return _run(("plgen_ddp.benchmark.timed_reference",), output / "result.json", words, {})


def _new_folder(inputs: Inputs, name: str) -> Path:
    folder = inputs.folder / name
    if folder.exists():
        raise UserError(f"--work: {folder} holds an earlier run; choose another folder")
    folder.mkdir(parents=True)
    return folder


def _run(module: Sequence[str], result: Path, words: Sequence[str], environment: Mapping[str, str]) -> Measurement:
    """Runs `python -m module result words` and reads the measurement that it wrote."""
    # Safe path: a package of this name in the current folder does not come before the one that runs here.
    environment = {**os.environ, "PYTHONSAFEPATH": "1", **environment}
    done = subprocess.run([sys.executable, "-m", *module, str(result), *words], env=environment, check=False)
    if done.returncode:
        raise UserError(f"a timed run failed with exit status {done.returncode}; its message is above")
    return Measurement(**json.loads(result.read_text()))
