"""The figures as Markdown tables. README.md here says what each column means."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from plgen_ddp.benchmark.agreement import PRESETS, Agreement
from plgen_ddp.benchmark.measurement import STAGES, Measurement

T = TypeVar("T")


def runs_table(runs: Sequence[Measurement]) -> str:
    """One row a run. The ratio is against the first row's images a second."""
    columns: dict[str, Callable[[Measurement], str]] = {
        "run": lambda run: run.name,
        "precision": lambda run: run.precision,
        "ranks x threads": lambda run: f"{run.ranks} x {run.threads}",
        "images": lambda run: f"{run.images}",
        "images/s": lambda run: f"{run.images_per_second:.3g}",
        "ratio": lambda run: f"{run.images_per_second / runs[0].images_per_second:.2f}",
    }
    for stage in STAGES:
        columns[f"{stage} ms"] = functools.partial(_stage_cell, stage)
    columns |= {
        "waiting ms": lambda run: f"{run.waiting_ms:.1f}",
        "boxes": lambda run: f"{run.boxes_per_image:.0f}",
        "crops": lambda run: f"{run.crops_per_image:.0f}",
        "load s": lambda run: f"{run.load_seconds:.1f}",
        "warm-up s": lambda run: f"{run.warm_up_seconds:.1f}",
        "memory GB": lambda run: f"{run.peak_memory / 1e9:.2f}",
    }
    if any(run.device == "cuda" for run in runs):
        columns["GPU GB"] = lambda run: f"{run.peak_gpu_memory / 1e9:.1f}"
    return markdown(columns, runs)


def scaling_table(runs: Sequence[Measurement]) -> str:
    """The same work on several numbers of ranks, against the first."""
    return markdown(
        {
            "ranks": lambda run: f"{run.ranks}",
            "images": lambda run: f"{run.images}",
            "seconds": lambda run: f"{run.seconds:.1f}",
            "images/s": lambda run: f"{run.images_per_second:.3g}",
            "ratio": lambda run: f"{run.images_per_second / runs[0].images_per_second:.2f}",
            "memory of a rank GB": lambda run: f"{run.peak_memory / 1e9:.3f}",
        },
        runs,
    )


def growth_table(runs: Sequence[Measurement]) -> str:
    """The same job on several numbers of images, against the first."""
    return markdown(
        {
            "images": lambda run: f"{run.images}",
            "seconds": lambda run: f"{run.seconds:.1f}",
            "ratio": lambda run: f"{run.seconds / runs[0].seconds:.2f}",
            "memory of a rank GB": lambda run: f"{run.peak_memory / 1e9:.3f}",
            "memory at the end GB": lambda run: f"{run.end_memory / 1e9:.3f}",
        },
        runs,
    )


def agreement_table(agreements: Sequence[Agreement]) -> str:
    """Each precision against the first."""
    columns: dict[str, Callable[[Agreement], str]] = {
        "precision": lambda found: found.precision,
        "against": lambda found: found.reference,
        "boxes": lambda found: f"{found.boxes}",
        "with IoU above 0.95": lambda found: f"{found.same_boxes:.2%}",
    }
    for preset in PRESETS:
        columns[f"PLs changed, {preset}"] = functools.partial(_labels_cell, preset)
    return markdown(columns, agreements)


def _stage_cell(stage: str, run: Measurement) -> str:
    share = f" ({run.peak_shares[stage]:.0%})" if stage in run.peak_shares else ""
    return f"{run.stages_ms[stage]:.1f}{share}"


def _labels_cell(preset: str, found: Agreement) -> str:
    return f"{found.changed_labels[preset]:.2%} (of {found.labels[preset]})"


def markdown(columns: Mapping[str, Callable[[T], str]], things: Sequence[T]) -> str:
    """One row a thing. A column is a heading and a function that gives a thing's cell."""
    rows = [[cell(thing) for cell in columns.values()] for thing in things]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(columns), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])
