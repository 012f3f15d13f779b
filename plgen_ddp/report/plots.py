"""Which plots the report has of a labelled JSON, drawn as frames that the page fills."""

from dataclasses import dataclass

import numpy as np

from plgen_ddp.label_quality import KINDS
from plgen_ddp.report import frames
from plgen_ddp.report.frames import Frame
from plgen_ddp.report.gallery import KIND_WORDS
from plgen_ddp.report.label_file import LabelFile
from plgen_ddp.report.page_data import MOST_AN_IMAGE, SIZES, Tables

# Curves of names that are drawn: those with most objects.
_CURVES = 60
MOST_START = 0.99
"""The axis of thresholds has some length even where the only threshold is 1."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot of the page: its key, title, what it shows, and its frame."""

    key: str
    title: str
    what: str
    frame: Frame


def make_plots(key: str, file: LabelFile, tables: Tables) -> list[Plot]:
    """The plots of a file; `key` begins their ids."""
    grid, names = tables.grid, [file.names[place] for place in tables.shown]
    thresholds = [f"{value:.3g}" for value in grid]
    every = max(len(grid) // 5, 1)
    sizes = [f"{low}" for low in (0, *SIZES)]
    many = "" if len(file.names) == len(names) else f", the {len(names)} with most labels"
    plots = [
        ("scores", "Scores", "labels by score; the paler ones lie below the threshold"),
        ("counts", "Labels against threshold", "labels that a threshold would keep"),
        ("per", "Labels an image", "images by how many labels they have"),
        ("sizes", "Sizes", "labels by the square root of their area, in pixels"),
        ("names", "Labels a name", f"labels of each name{many}"),
    ]
    drawn = {
        "scores": frames.bar_frame(f"{key}-scores", thresholds, "score", every=every, marker=True),
        "counts": frames.bar_frame(f"{key}-counts", thresholds, "threshold", every=every, marker=True),
        "per": frames.bar_frame(f"{key}-per", [*map(str, range(MOST_AN_IMAGE)), f"{MOST_AN_IMAGE}+"], "labels"),
        "sizes": frames.bar_frame(f"{key}-sizes", sizes, "pixels, from", every=2),
        "names": frames.name_frame(f"{key}-names", names, "labels"),
    }
    quality, objects = tables.quality, tables.objects
    if quality is not None and objects is not None:
        plots += [
            ("pr", "Precision and recall", "as the threshold moves; the dot is where it is"),
            ("f1", "F1 against threshold", "the dot is where it is"),
            ("kinds", "What the labels are", "against ground truth, IoU 0.5, each object found once"),
            ("ap", "AP50 of each name", f"COCO's, of the labels above the threshold{many}"),
            ("conf", "Confusion of names", "what labels of a name lie on: a novel object, a base object, nothing"),
        ]
        most = np.argsort(-objects[1:], kind="stable").tolist()[:_CURVES]
        scopes = [0, *(place + 1 for place in most)]
        drawn |= {
            "pr": frames.curve_frame(
                f"{key}-pr",
                [(scope, quality[scope, :, 1], quality[scope, :, 0]) for scope in scopes],
                "recall",
                "precision",
                (0, 1),
            ),
            "f1": frames.curve_frame(
                f"{key}-f1",
                [(scope, grid, quality[scope, :, 2]) for scope in scopes],
                "threshold",
                "F1",
                (min(float(grid[0]), MOST_START), 1),
            ),
            "kinds": frames.name_frame(f"{key}-kinds", [KIND_WORDS[kind] for kind in KINDS], "labels"),
            "ap": frames.name_frame(f"{key}-ap", names, "AP50", shares=True),
            "conf": frames.grid_frame(
                f"{key}-conf",
                confused := [file.names[place] for place in tables.confused],
                [*confused, "another name", "a base object", "nothing"],
                "lies on",
                "labelled",
            ),
        }
    return [Plot(f"{key}-{plot}", title, what, drawn[plot]) for plot, title, what in plots]
