"""The comparison of rules as a table, for a terminal or in Markdown."""

from collections.abc import Callable
from dataclasses import dataclass

from tabulate import tabulate

from plgen_ddp.report.comparison import Comparison, RuleResult
from plgen_ddp.screen_text import MESSAGE, visible, visible_name

_NOTES = """\
Every rule at its own threshold, one to one with the objects at IoU 0.5; {star} is the best of a column.
on nothing: IoU under 0.5 with every novel object. Of these, some lie on a base object, some are a part of a novel one.
off by: how far the stated confidence is from the share of right labels, the mean over tenths of the confidence.
AP rewards every further object found and forgives false labels at the end; F1 counts both, as a training does."""


@dataclass(frozen=True, slots=True)
class _Column:
    """heading: in two lines, either may be empty. best: max or min, None where nothing is better."""

    heading: tuple[str, str]
    cell: Callable[[RuleResult], str]
    best: Callable[[list[float]], float] | None = None


def _threshold(rule: RuleResult) -> str:
    threshold = rule.evaluation.score_threshold
    return "" if threshold is None else f"{threshold:.2f}"


_COLUMNS = (
    _Column(("score", "above"), _threshold),
    _Column(("labels", "an image"), lambda rule: f"{rule.evaluation.pls_per_image:.2f}"),
    _Column(("", "precision"), lambda rule: f"{rule.evaluation.quality.precision:.2f}", max),
    _Column(("", "recall"), lambda rule: f"{rule.evaluation.quality.recall:.2f}", max),
    _Column(("", "F1"), lambda rule: f"{rule.evaluation.quality.f1:.2f}", max),
    _Column(("", "AP"), lambda rule: f"{rule.evaluation.AP:.3f}", max),
    _Column(("", "AP50"), lambda rule: f"{rule.evaluation.AP50:.3f}", max),
    _Column(("on", "nothing"), lambda rule: f"{rule.evaluation.quality.on_nothing:.2f}", min),
    _Column(("base", "object"), lambda rule: f"{rule.evaluation.quality.base_object:.2f}"),
    _Column(("", "part"), lambda rule: f"{rule.evaluation.quality.part:.2f}"),
    _Column(("wrong", "name"), lambda rule: f"{rule.evaluation.quality.wrong_name:.2f}"),
    _Column(("", "off by"), lambda rule: f"{rule.evaluation.quality.confidence_off_by:.2f}", min),
    _Column(("", "seconds"), lambda rule: f"{rule.seconds:.1f}"),
)


def comparison_table(comparison: Comparison, *, markdown: bool = False) -> str:
    """One row a rule, and under it what the columns mean and which presets were left out.

    In plain text, presets of one family have their common beginning in the heading; the table is 120 characters wide.
    """
    names = [visible_name(result.preset) for result in comparison.results]
    family = _family(names)
    columns = [[name.removeprefix(family) for name in names]]
    for column in _COLUMNS:
        columns.append(_cells(column, comparison.results, "**{}**" if markdown else "*{}"))
    headings = [("", f"{family}..." if family else "preset"), *(column.heading for column in _COLUMNS)]
    rows = [list(row) for row in zip(*columns, strict=True)]
    align = ["left", *["right"] * len(_COLUMNS)]
    if markdown:
        titles = [" ".join(heading).strip() for heading in headings]
        table = tabulate(rows, titles, tablefmt="github", colalign=align, disable_numparse=True)
    else:  # headings as rows: tabulate pads a heading, and the table would not fit a terminal
        over, under = map(list, zip(*headings, strict=True))
        table = tabulate([over, under, *rows], tablefmt="plain", colalign=align, disable_numparse=True)
    return "\n".join([table, "", *_notes(comparison, "bold" if markdown else "*")])


def _cells(column: _Column, results: tuple[RuleResult, ...], mark: str) -> list[str]:
    """The column's cells, the best marked: compared as they are shown, without rules that made no label."""
    cells = [column.cell(result) for result in results]
    competing = [result.evaluation.quality.labels > 0 and len(results) > 1 for result in results]
    if column.best is None or not any(competing):
        return cells
    best = column.best([float(cell) for cell, competes in zip(cells, competing, strict=True) if competes])
    return [
        mark.format(cell) if competes and float(cell) == best else cell
        for cell, competes in zip(cells, competing, strict=True)
    ]


def _family(names: list[str]) -> str:
    """What all names begin with, up to the first underscore: demo_ of demo_vlplm and demo_best."""
    family = "".join(names[0].partition("_")[:2])
    return family if family.endswith("_") and all(name.startswith(family) for name in names) else ""


def _notes(comparison: Comparison, star: str) -> list[str]:
    objects, quality = comparison.objects, comparison.results[0].evaluation.quality
    more = f" and {len(objects.names) - 8} more" if len(objects.names) > 8 else ""
    names = ", ".join(map(visible_name, objects.names[:8])) + more
    kind = "base names that stand in for novel ones" if comparison.stand_ins else "novel names"
    lines = [
        f"{quality.images} images with {quality.objects} objects of {len(objects.names)} {kind}: {names}.",
        *_NOTES.format(star=star).splitlines(),
    ]
    return lines + [visible(f"left out: {preset}: {reason}", MESSAGE) for preset, reason in comparison.left_out.items()]
