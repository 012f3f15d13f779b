"""What very many images and parts cost before and around the work: files, bytes, seconds until the first image.

    python -m plgen_ddp.benchmark.scale --images 1700000 --images-per-part 17          100,000 parts
    python -m plgen_ddp.benchmark.scale --images 640000 --work DIR                     10,000 parts of 64, kept in DIR

Draws a JSON and a store whose images have one small box each: what is measured grows with the number of images and
parts alone. Each step runs in a process of its own. Its seconds leave out its imports, its memory is the peak of the
process. docs/scale.md has the results.
"""

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plgen_ddp.benchmark.hardware import hardware
from plgen_ddp.benchmark.synthetic_store import write_synthetic_json
from plgen_ddp.coco import CocoFile
from plgen_ddp.console import one_line_errors, print_line
from plgen_ddp.device import peak_memory
from plgen_ddp.errors import UserError
from plgen_ddp.image_files import ImageIndex, dataset_digest, index_images
from plgen_ddp.records import Regions, Similarity
from plgen_ddp.score.images import plan_units
from plgen_ddp.store import Manifest, RegionStore

_DIM = 8
_NAMES = ("cat", "dog")


@dataclass(frozen=True, slots=True)
class Measured:
    """One step: what it did, seconds, peak bytes of its process, and what else there is to say."""

    step: str
    seconds: float
    memory: int
    note: str


def draw_json(folder: Path, images: int, images_per_part: int) -> str:
    """Draws the JSON, and files that show the layout of the images."""
    write_synthetic_json(folder / "annotations.json", _NAMES, images)
    files = folder / "images"
    files.mkdir()
    for number in range(0, images, max(1, images // 64)):
        (files / f"{number + 1:012d}.jpg").touch()
    return f"{(folder / 'annotations.json').stat().st_size / 1e6:.0f} MB"


def start(folder: Path, images: int, images_per_part: int) -> str:
    """What the first rank does before the first image of a new run: reads the JSON, finds the images, plans units."""
    index = _index(folder)
    units = plan_units(index, _one_shape, images_per_part)
    sent = len(pickle.dumps(index))
    return f"{len(units)} units; {sent / 1e6:.0f} MB are sent to each rank"


def write_parts(folder: Path, images: int, images_per_part: int) -> str:
    """Writes the store, a part after the other."""
    rows = CocoFile(folder / "annotations.json", "data.annotations").images()
    store = RegionStore(folder / "store")
    identity = {"dataset": {"digest": dataset_digest(rows), "images": images}}
    store.open_for_scoring(Manifest(_DIM, Similarity("softmax", 0.01), identity, {}))
    embedding = np.full((1, _DIM), _DIM**-0.5, np.float16)
    box, one = np.array([[1, 1, 9, 9]], np.float32), np.ones(1, np.float32)
    for first in range(0, images, images_per_part):
        ids = [row.id for row in rows[first : first + images_per_part]]
        store.write_part([Regions(i, box, one, embedding, one, one, one, one) for i in ids])
    parts = store.part_paths()
    size = sum(path.stat().st_size for path in parts)
    return f"{len(parts)} parts, {size / len(parts) / 1e3:.1f} kB each"


def resume(folder: Path, images: int, images_per_part: int) -> str:
    """What the first rank does before the first image of a run that goes on."""
    index = _index(folder)
    units = plan_units(index, _one_shape, images_per_part)
    stored = np.fromiter(RegionStore(folder / "store").part_of_images(), np.int64)
    scored = np.isin(index.image_ids, stored)
    left = sum(not scored[unit].all() for unit in units)
    if left:
        raise UserError(f"{left} of {len(units)} units are left, expected none")
    listed = folder / "store" / "index.parquet"
    return f"index {listed.stat().st_size / 1e6:.1f} MB" if listed.exists() else "no index: few parts"


_STEPS: dict[str, Callable[[Path, int, int], str]] = {
    "draw the JSON": draw_json,
    "start a new run": start,
    "write the parts": write_parts,
    "go on for the first time": resume,
    "go on": resume,
}


def measure(folder: Path, images: int, images_per_part: int) -> list[Measured]:
    """Runs the steps in the folder, each in a process of its own."""
    found = []
    for step in _STEPS:
        words = ["--images", str(images), "--images-per-part", str(images_per_part), "--work", str(folder)]
        command = [sys.executable, "-m", "plgen_ddp.benchmark.scale", *words, "--step", step]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise UserError(f"the step {step!r} failed with exit status {done.returncode}; its message is above")
        found.append(Measured(step, *json.loads(done.stdout.splitlines()[-1])))
    return found


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=640_000, metavar="N", help="default 640000")
    parser.add_argument("--images-per-part", type=int, default=64, metavar="N", help="default 64, as in a run")
    parser.add_argument("--work", type=Path, metavar="DIR", help="an empty folder; by default a temporary one")
    parser.add_argument("--step", choices=_STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    with one_line_errors():
        if options.step:
            _run_step(options)
            return 0
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.work or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise UserError(f"--work: {folder} is not empty; choose another folder")
            found = measure(folder, options.images, options.images_per_part)
        print_line(hardware())
        print_line(f"{options.images} images, {options.images_per_part} in a part")
        print_line("| step | seconds | memory GB | |")
        print_line("|---|---|---|---|")
        for one in found:
            print_line(f"| {one.step} | {one.seconds:.1f} | {one.memory / 1e9:.2f} | {one.note} |")
    return 0


def _run_step(options: argparse.Namespace) -> None:
    begun = time.perf_counter()
    note = _STEPS[options.step](options.work, options.images, options.images_per_part)
    print_line(json.dumps([time.perf_counter() - begun, peak_memory(), note]))


def _index(folder: Path) -> ImageIndex:
    annotations = folder / "annotations.json"
    return index_images(CocoFile(annotations, "data.annotations").images(), str(folder / "images"), annotations)


def _one_shape(height: int, width: int) -> tuple[int, int]:
    return height, width


if __name__ == "__main__":
    sys.exit(main())
