"""One HTML file about a labelled JSON that opens anywhere: data, plots, thumbnails, style and script are all in it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from plgen_ddp.files import write_atomically
from plgen_ddp.report.gallery import KIND_WORDS, choose_images, colour_of, make_cards
from plgen_ddp.report.label_file import LabelFile, check_same_images, read_label_file, which_images, which_names
from plgen_ddp.report.page_data import Tables, make_tables, packed
from plgen_ddp.report.plots import Plot, make_plots
from plgen_ddp.report.rendering import ReportSummary, rendered
from plgen_ddp.report.words import facts_of, threshold_in_words, thresholds_in_short

_GROUPS = {
    "best": ("Best", "the highest mean score, images with two labels or more first"),
    "random": ("Random", "drawn by lot, also without labels"),
    "near": ("Near the threshold", "a label that was just kept"),
    "worst": ("Worst", "most wrong labels and missed objects"),
}


def write_report(
    labels: Path,
    output: Path,
    *,
    ground_truth: Path | None = None,
    images: Path | None = None,
    other: Path | None = None,
    run: Path | None = None,
    novel: Sequence[str] | None = None,
    seed: int = 0,
) -> ReportSummary:
    """Writes the report of a labelled JSON.

    Args:
        ground_truth: a JSON with annotations of the novel names; without it, the report says nothing of right or wrong.
        images: the image root; without it, boxes are drawn on an empty ground.
        other: another labelled JSON of the same images, to be shown beside it.
        run: the `run.output` of the labels, for failures and speed; the labels' folder by default.
        novel: the names whose labels are shown; those that a file was made for by default.
        seed: of the sample of images, 0 or more.

    Raises:
        UserError: an unreadable file, files of different images, a name that a file lacks, or no image under `images`.
    """
    files = [
        read_label_file(path, ground_truth, run if path == labels else None, novel) for path in (labels, other) if path
    ]
    if len(files) == 2:
        check_same_images(files[0], files[1])
    names = list(dict.fromkeys(name for file in files for name in file.names))
    tables = [make_tables(file) for file in files]
    chosen = choose_images(files[0], seed=seed)
    cards = make_cards(
        [image_id for ids in chosen.values() for image_id in ids],
        files,
        names,
        [table.grid for table in tables],
        images,
    )
    titles = _titles([file.path for file in files])
    plots = [
        make_plots(f"p{number}", file, table) for number, (file, table) in enumerate(zip(files, tables, strict=True))
    ]
    content = {
        "files": [_file(*one) for one in zip(titles, files, tables, plots, strict=True)],
        "first": files[0],
        "which_images": which_images(*files) if len(files) == 2 else "",
        "which_names": which_names(*files) if len(files) == 2 else "",
        "names": names,
        "colours": [colour_of(place) for place in range(len(names))],
        "dataset": files[0].recorded("annotations", "name") or files[0].path.name,
        "groups": [(*_GROUPS[kind], [cards[image_id] for image_id in ids]) for kind, ids in chosen.items()],
        "facts": facts_of(files[0]),
        "settings": json.dumps(files[0].recorded() or {}, indent=1, ensure_ascii=False),
        "failures": files[0].failures,
        "with_images": images is not None,
        "with_truth": ground_truth is not None,
        "with_base": any(card.base for card in cards.values()),
        "kind_words": KIND_WORDS,
        "seed": seed,
        "data": _script_json([_data(*one, names) for one in zip(files, tables, plots, strict=True)]),
    }
    text = rendered("report.html", content)
    write_atomically(output, [text])
    return ReportSummary(output, len(text), len(cards), len(files[0].rows))


def _script_json(value: Any) -> Markup:
    """JSON that no name in it can end: in a <script>, only `<` could."""
    text = json.dumps(value, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _titles(paths: Sequence[Path]) -> list[str]:
    """A name for each file: its own, with its folder where two have the same."""
    if len({path.name for path in paths}) < len(paths):
        return [f"{path.resolve().parent.name}/{path.name}" for path in paths]
    return [path.name for path in paths]


def _file(title: str, file: LabelFile, tables: Tables, plots: Sequence[Plot]) -> dict[str, Any]:
    """What the template shows of one file."""
    images = max(len(file.file.images), 1)
    counts = tables.labels[1:].sum(axis=(1, 2)).tolist()
    most, least = int(np.argmax(counts)), int(np.argmin(counts))
    return {
        "title": title,
        "labels": len(file.rows),
        "images": len(file.file.images),
        "an_image": f"{len(file.rows) / images:.2f}",
        "a_name": f"{len(file.rows) / len(file.names):.1f}",
        "names": file.names,
        "extremes": None if len(counts) < 2 else (file.names[most], counts[most], file.names[least], counts[least]),
        "threshold": threshold_in_words(file),
        "opens_at": _opens_at(file, tables),
        "grid": tables.grid.tolist(),
        "plots": [(plot.key, plot.title, plot.what, Markup(plot.frame.svg)) for plot in plots],
        "objects": None if tables.objects is None else tables.objects.tolist(),
        "metrics": None if file.judged is None else file.judged.evaluation,
    }


def _opens_at(file: LabelFile, tables: Tables) -> str:
    """What the slider says at its first step: where the file's own thresholds are several, all of them."""
    first = float(tables.grid[0])
    return thresholds_in_short(file.thresholds if first in file.thresholds else [first])


def _data(file: LabelFile, tables: Tables, plots: Sequence[Plot], names: Sequence[str]) -> dict[str, Any]:
    """What the script reads of one file."""
    data: dict[str, Any] = {
        "opens_at": _opens_at(file, tables),
        "grid": tables.grid.tolist(),
        "images": len(file.file.images),
        "scopes": [0, *(file.names.index(name) + 1 if name in file.names else -1 for name in names)],
        "labels": packed(tables.labels),
        "per": packed(tables.per_image),
        "sizes": packed(tables.sizes),
        "shown": [place + 1 for place in tables.shown],
        "areas": {plot.key: plot.frame.area for plot in plots},
    }
    if tables.quality is not None and tables.average is not None and tables.objects is not None:
        assert tables.kinds is not None and tables.confusion is not None
        data |= {
            "kinds": packed(tables.kinds),
            "confusion": packed(tables.confusion),
            "confused": [place + 1 for place in tables.confused],
            "quality": tables.quality.round(6).tolist(),
            "average": tables.average.round(6).tolist(),
            "objects": tables.objects.tolist(),
        }
    return data
