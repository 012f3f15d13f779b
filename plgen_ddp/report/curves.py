"""Precision against recall, and F1 against the threshold, as one picture. `frames` draws the report's own plots."""

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from plgen_ddp.records import Curve

# More lines have no place in a legend.
_LEGEND = 12


def draw_curves(curves: Sequence[Curve]) -> bytes:
    """The curves as PNG; without ground truth, labels an image against the threshold."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    if all(curve.f1 is None for curve in curves):
        axes = figure.subplots(1, 1)
        for curve in curves:
            axes.plot(curve.thresholds, curve.labels_per_image, marker=".", label=curve.title)
        axes.set(xlabel="score threshold", ylabel="labels an image", ylim=(0, None))
        _finish(axes, curves)
    else:
        left, right = figure.subplots(1, 2)
        for curve in curves:
            if curve.precision is not None and curve.recall is not None and curve.f1 is not None:
                left.plot(curve.recall, curve.precision, marker=".", label=curve.title)
                right.plot(curve.thresholds, curve.f1, marker=".", label=curve.title)
        left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1))
        right.set(xlabel="score threshold", ylabel="F1", ylim=(0, None))
        _finish(left, [])
        _finish(right, curves)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    return picture.getvalue()


def _finish(axes: Axes, curves: Sequence[Curve]) -> None:
    axes.grid(alpha=0.3)
    if 1 < len(curves) <= _LEGEND:
        axes.legend(fontsize="small")
