"""What to measure, in which order, and the report of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from plgen_ddp.benchmark.agreement import LABELS_REQUIRE, PRESETS, Agreement, compare_stores
from plgen_ddp.benchmark.hardware import hardware
from plgen_ddp.benchmark.inputs import Inputs, prepare, preset
from plgen_ddp.benchmark.measurement import Measurement
from plgen_ddp.benchmark.processes import TimedJob, measure_job, measure_reference
from plgen_ddp.benchmark.tables import agreement_table, growth_table, runs_table, scaling_table
from plgen_ddp.device import DTYPES, resolve_precision
from plgen_ddp.errors import UserError
from plgen_ddp.label.vocabulary import read_templates, read_vocabulary
from plgen_ddp.processor import available_cores


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure.

    Attributes:
        work: folder for models, images and runs.
        images: how many images the job scores.
        reference_images: how many of them, from the first on, the slow reference scores.
        images_folder: JPEGs to score; None generates images.
        precisions: of the job, one run each: fp32, bf16, fp16, or detector+CLIP.
        ranks: of the job. None is one a core on a CPU, and one on CUDA: reference and job then have the same hardware.
        scaling: numbers of ranks to run the last precision on.
        growth: factors of `images` to run the last precision on.
        agreement: compare the results of all precisions with those of the first.
        tiny: tiny models instead of R50-FPN and ViT-B/32.
        overrides: `section.key=value` words for the job.
    """

    work: Path
    images: int = 8
    reference_images: int = 8
    images_folder: Path | None = None
    precisions: tuple[str, ...] = ("fp32", "bf16", "fp16")
    ranks: int | None = None
    scaling: tuple[int, ...] = ()
    growth: tuple[int, ...] = ()
    agreement: bool = False
    tiny: bool = False
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured.

    Attributes:
        hardware: what it was measured on, in one line.
        notes: what a reader of the figures must know, one line each.
        runs: the reference, then the job in each precision.
        scaling, growth, agreement: as asked for in `Options`, else empty.
    """

    hardware: str
    notes: tuple[str, ...]
    runs: tuple[Measurement, ...]
    scaling: tuple[Measurement, ...]
    growth: tuple[Measurement, ...]
    agreement: tuple[Agreement, ...]

    def markdown(self) -> str:
        """The hardware, the notes and the tables."""
        tables = [runs_table(self.runs)]
        tables += [scaling_table(self.scaling)] if self.scaling else []
        tables += [growth_table(self.growth)] if self.growth else []
        tables += [agreement_table(self.agreement)] if self.agreement else []
        return "\n\n".join(["\n".join([self.hardware, *self.notes]), *tables])

    def measurements(self) -> list[Measurement]:
        """Every run once, in the order in which they ran. One run may appear in several tables."""
        return list({id(run): run for run in (*self.runs, *self.scaling, *self.growth)}.values())


def run(options: Options) -> Report:
    """Measures one run after the other, so that nothing timed shares the machine.

    Raises:
        UserError: an option that makes no sense here, or a run that failed.
    """
    on_cpu = "run.device=cpu" in options.overrides or not torch.cuda.is_available()
    places = available_cores() if on_cpu else torch.cuda.device_count()
    precisions, refused = usable_precisions(options.precisions, torch.device("cpu" if on_cpu else "cuda"))
    if not precisions:
        raise UserError(f"--precisions: {'; '.join(refused)}")
    _check(options, precisions)
    inputs = _prepare(options, options.images)
    reference_images = min(options.images, options.reference_images)
    notes = [f"reference: the first {reference_images} of the {options.images} images", *refused]
    if inputs.distinct_images < options.images:
        notes.append(f"images: {inputs.distinct_images} files, in turn")

    ranks, last = options.ranks or (places if on_cpu else 1), precisions[-1]
    done: dict[tuple[int, str, int], TimedJob] = {}

    def job(inputs: Inputs, precision: str, ranks: int) -> TimedJob:
        """Runs the job, or returns the same run if it is done."""
        key = (inputs.images, precision, ranks)
        if key not in done:
            done[key] = measure_job(inputs, precision, ranks)
        return done[key]

    reference = measure_reference(inputs, reference_images)
    jobs = {precision: job(inputs, precision, ranks) for precision in precisions}
    scaling = []
    for size in options.scaling:
        if size > places:
            notes.append(f"{size} ranks left out: {places} {'cores' if on_cpu else 'GPUs'} here")
        else:
            scaling.append(job(inputs, last, size).measurement)
    growth = [job(_prepare(options, factor * options.images), last, ranks).measurement for factor in options.growth]
    stores = {precision: timed.store for precision, timed in jobs.items()}
    return Report(
        hardware=hardware(),
        notes=tuple(notes),
        runs=(reference, *(timed.measurement for timed in jobs.values())),
        scaling=tuple(scaling),
        growth=tuple(growth),
        agreement=tuple(compare_stores(inputs, stores, precisions[0])) if options.agreement else (),
    )


def usable_precisions(precisions: Sequence[str], device: torch.device) -> tuple[list[str], list[str]]:
    """Those of `precisions` that `device` computes in, and for each of the others a line that says why not.

    A precision is fp32, bf16 or fp16, or two of them, `detector+CLIP`.

    Raises:
        UserError: a word that is no precision.
    """
    usable, refused = [], []
    for precision in precisions:
        words = precision.split("+")
        if len(words) > 2 or not set(words) <= set(DTYPES):
            raise UserError(f"--precisions: {precision!r} is not one of {', '.join(DTYPES)}, or two joined by +")
        if device.type == "cpu" and "fp16" in words:
            refused.append(f"{precision} left out: a CPU has no fast half precision")
        elif device.type == "cpu" and "bf16" in words and resolve_precision("auto", device) != "bf16":
            refused.append(f"{precision} left out: this CPU has no bfloat16 instructions")
        else:
            usable.append(precision)
    return usable, refused


def _check(options: Options, precisions: Sequence[str]) -> None:
    """Raises what is wrong with the overrides now, and not after the first run."""
    preset("vlplm", options.overrides)
    if not options.agreement:
        return
    if len(precisions) < 2:
        raise UserError("--agreement compares precisions with the first one; give two or more that this machine has")
    for name in PRESETS:
        config = preset(name, options.overrides, LABELS_REQUIRE)
        if read_vocabulary(config).novel_where:
            raise UserError("label.vocabulary: the benchmark's own JSON has no keys for novel_where; list the names")
        read_templates(config)


def _prepare(options: Options, images: int) -> Inputs:
    return prepare(options.work, images, options.images_folder, tiny=options.tiny, overrides=options.overrides)
