"""What a sweep found, as lines for a person, CSV, JSON and curves."""

import csv
import io
import json
from dataclasses import asdict, fields

from plgen_ddp.label.sweep import Sweep, SweepRow
from plgen_ddp.plurals import counted
from plgen_ddp.ranked_labels import Figures
from plgen_ddp.records import Curve

_FIGURES = [field.name for field in fields(Figures)]
_THRESHOLD = "label.score_threshold"


def best_row(result: Sweep) -> SweepRow | None:
    """The first of the rows with the best F1; None without ground truth."""
    judged = [row for row in result.rows if row.figures is not None]
    return max(judged, key=lambda row: row.figures.f1 if row.figures else 0.0) if judged else None


def lines(result: Sweep) -> list[str]:
    """The table, and what to make of it."""
    best = best_row(result)
    swept = list(result.rows[0].values)
    # The threshold has a column of its own where it is not simply what was asked for.
    chosen = any(row.threshold != _number(row.values.get(_THRESHOLD, "")) for row in result.rows)
    head = [key.removeprefix("label.") for key in swept] + ["threshold"] * chosen + ["labels", "an image"]
    head += ["precision", "recall", "F1", "AP", "AP50"] if best is not None else []
    cells = [head]
    for row in result.rows:
        shown = list(row.values.values())
        if chosen:
            shown += [f"{row.threshold:.4f}" if isinstance(row.threshold, float) else "by name"]
        shown += [str(row.labels), f"{row.labels_per_image:.2f}"]
        if row.figures is not None:
            shown += [f"{value:.3f}" for value in asdict(row.figures).values()]
        cells.append(shown)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    if best is None:
        return [*table, f"on {counted(result.images, 'image')}; --ground-truth FILE adds how good the labels are"]
    place = 1 + next(number for number, row in enumerate(result.rows) if row is best)
    table[place] += "  <- best F1"
    return [
        *table,
        f"labels on {counted(result.images, 'image')}, figures on the {result.judged_images} with ground truth",
        f"best F1: {' '.join(f'{key}={_quoted(text)}' for key, text in best.values.items())}",
        "AP cannot choose a threshold: labels of lower scores never lower it, however many of them are wrong",
    ]


def csv_text(result: Sweep) -> str:
    """A row a setting: the swept options, the figures of all names, and those of each name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(dict.fromkeys(name for row in result.rows for name in row.names))
    writer.writerow(
        [*result.rows[0].values, "threshold", "labels", "labels_per_image", *_FIGURES]
        + [f"{name}: {column}" for name in names for column in ("labels", *_FIGURES)]
    )
    for row in result.rows:
        line = [*row.values.values(), row.threshold if isinstance(row.threshold, float) else json.dumps(row.threshold)]
        line += [row.labels, row.labels_per_image, *_values(row.figures)]
        for name in names:
            own = row.names.get(name)
            line += ["", *_values(None)] if own is None else [own.labels, *_values(own.figures)]
        writer.writerow(line)
    return text.getvalue()


def json_text(result: Sweep) -> str:
    """The same, nested: {images, judged_images, rows: [{values, threshold, labels, ..., names: {name: ...}}]}."""
    content = {"images": result.images, "judged_images": result.judged_images, "rows": list(map(asdict, result.rows))}
    return json.dumps(content, indent=1) + "\n"


def curves(result: Sweep) -> list[Curve]:
    """Each ranking's figures against its thresholds; rows whose names have thresholds of their own are left out."""
    found = []
    for numbers in result.rankings:
        rows = [row for number in numbers if isinstance((row := result.rows[number]).threshold, float)]
        rows.sort(key=lambda row: row.threshold if isinstance(row.threshold, float) else 0.0)
        if not rows:
            continue
        first = result.rows[numbers[0]].values
        same = {
            key: text for key, text in first.items() if all(result.rows[one].values[key] == text for one in numbers)
        }
        thresholds = [row.threshold for row in rows if isinstance(row.threshold, float)]
        known = [row.figures for row in rows if row.figures is not None]
        found.append(
            Curve(
                title=" ".join(f"{key.removeprefix('label.')}={text}" for key, text in same.items()) or "labels",
                thresholds=thresholds,
                labels_per_image=[row.labels_per_image for row in rows],
                precision=[one.precision for one in known] if known else None,
                recall=[one.recall for one in known] if known else None,
                f1=[one.f1 for one in known] if known else None,
            )
        )
    return found


def _values(figures: Figures | None) -> list[float | str]:
    return [""] * len(_FIGURES) if figures is None else list(asdict(figures).values())


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _quoted(text: str) -> str:
    return f"'{text}'" if set(text) & set(" {}[]*?$&;|<>()") else text
