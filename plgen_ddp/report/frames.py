"""The report's plots as inline SVG that the page can move: matplotlib draws axes, bars and curves, each under an id.

Every bar is drawn as high as its axis; the page scales it to its value and writes the numbers beside the axis' ticks.
Of the curves, one a name, it shows the chosen one, and moves a dot along it. Colours are those of the page's style, so
that plots follow light and dark.
"""

import io
import re
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.transforms import blended_transform_factory

# matplotlib's colours, and the CSS variables that take their places.
_CSS = {
    "#010203": "var(--ink)",
    "#040506": "var(--rule)",
    "#070809": "var(--bar)",
    "#0a0b0c": "var(--accent)",
    "#0d0e0f": "var(--panel)",
    "#101112": "var(--faint)",
}
_INK, _RULE, _BAR, _ACCENT, _PANEL, _FAINT = _CSS
_WIDTH = 340  # points, which are the SVG's units: a phone shows them one to one
_FONT = 14
_TICKS = 4
_NAMES = 138  # points, the room for a name and the gaps around it


@dataclass(frozen=True, slots=True)
class Frame:
    """One plot.

    Attributes:
        svg: its text; the ids in it begin with the plot's key.
        area: left, right, top and bottom of the axes in the SVG's units, for what the page moves.
    """

    svg: str
    area: tuple[float, float, float, float]


def bar_frame(key: str, labels: Sequence[str], x: str, *, every: int = 1, marker: bool = False) -> Frame:
    """Upright bars `KEY-b0`, ...; ticks `KEY-y0` ... of the y axis are the page's to name.

    Args:
        labels: of the bars.
        every: label every bar (1), every second one (2), ...
        marker: whether there is a line `KEY-m` at the left end of the first bar, to be moved to the threshold.
    """
    figure, axes = _axes(height=200, left=58, bottom=46)
    places = np.arange(len(labels))
    bars = axes.bar(places, np.ones(len(labels)), width=0.86 if len(labels) < 30 else 1.0, color=_BAR, linewidth=0)
    for number, bar in enumerate(bars):
        bar.set_gid(f"{key}-b{number}")
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_xticks(places[::every], labels[::every], parse_math=False)
    axes.set_xlabel(x, color=_INK)
    _value_ticks(axes, key)
    if marker:
        axes.axvline(-0.5, color=_ACCENT, linewidth=2, gid=f"{key}-m", clip_on=False)
    return _svg(figure, axes, key)


def name_frame(key: str, names: Sequence[str], x: str, *, shares: bool = False) -> Frame:
    """Lying bars `KEY-b0`, ..., one a name from the top; ticks of the x axis are the page's to name, unless shares."""
    figure, axes = _axes(height=22 * len(names) + 64, left=_NAMES, bottom=46)
    places = np.arange(len(names))
    bars = axes.barh(places, np.ones(len(names)), height=0.72, color=_BAR, linewidth=0)
    for number, bar in enumerate(bars):
        bar.set_gid(f"{key}-b{number}")
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(places, [_short(name) for name in names], parse_math=False)
    axes.set_xlabel(x, color=_INK)
    if shares:
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", ".25", ".5", ".75", "1"])
        axes.grid(axis="x", color=_RULE, linewidth=0.8)
    else:
        _value_ticks(axes, key, across=True)
    return _svg(figure, axes, key)


def curve_frame(
    key: str, curves: Sequence[tuple[int, np.ndarray, np.ndarray]], x: str, y: str, limits: tuple[float, float]
) -> Frame:
    """Curves `KEY-cN`, each (N, x, y) with y from 0 to 1, and a dot `KEY-d` at the axes' lower left corner."""
    figure, axes = _axes(height=230, left=58, bottom=46)
    for number, along, up in curves:
        axes.plot(along, up, color=_BAR, linewidth=2.5, gid=f"{key}-c{number}", solid_joinstyle="round")
    axes.plot([limits[0]], [0], "o", color=_ACCENT, markersize=9, gid=f"{key}-d", clip_on=False)
    axes.set(xlim=limits, ylim=(0, 1))
    axes.set_xlabel(x, color=_INK)
    axes.set_ylabel(y, color=_INK)
    along = np.linspace(*limits, _TICKS + 1)
    axes.set_xticks(along, [f"{value:.2f}".rstrip("0").rstrip(".") for value in along])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0", ".25", ".5", ".75", "1"])
    axes.grid(color=_RULE, linewidth=0.8)
    return _svg(figure, axes, key)


def grid_frame(key: str, rows: Sequence[str], columns: Sequence[str], x: str, y: str) -> Frame:
    """A grid of cells `KEY-rR-cC`, whose opacity is the page's, each with a text `KEY-rR-cC-t`."""
    step = 30
    figure, axes = _axes(height=step * len(rows) + _NAMES + 30, left=_NAMES, bottom=_NAMES + 18)
    for row in range(len(rows)):
        for column in range(len(columns)):
            place = f"{key}-r{row}-c{column}"
            axes.bar(column, 1, bottom=row - 0.5, width=1.0, color=_BAR, linewidth=0)[0].set_gid(place)
            axes.text(column, row, "0", ha="center", va="center", color=_INK, fontsize=_FONT, gid=f"{place}-t")
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xticks(range(len(columns)), [_short(name) for name in columns], rotation=90, parse_math=False)
    axes.set_yticks(range(len(rows)), [_short(name, _NAMES - 26) for name in rows], parse_math=False)
    axes.set_xlabel(x, color=_INK)
    axes.set_ylabel(y, color=_INK)
    axes.yaxis.set_label_coords(
        15 / _WIDTH, 0.5, transform=blended_transform_factory(figure.transFigure, axes.transAxes)
    )
    return _svg(figure, axes, key)


def _axes(*, height: float, left: float, bottom: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH / 72, height / 72), dpi=72)
    FigureCanvasSVG(figure)
    width = _WIDTH - left - 14
    axes = figure.add_axes((left / _WIDTH, bottom / height, width / _WIDTH, (height - bottom - 12) / height))
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_FAINT)
    axes.tick_params(colors=_INK, labelsize=_FONT, length=0, pad=5)
    axes.xaxis.label.set_fontsize(_FONT)
    axes.yaxis.label.set_fontsize(_FONT)
    return figure, axes


def _value_ticks(axes: Axes, key: str, *, across: bool = False) -> None:
    """Five ticks from 0 to the end of the axis, `KEY-y0` to `KEY-y4`."""
    axis = axes.xaxis if across else axes.yaxis
    (axes.set_xlim if across else axes.set_ylim)(0, 1)
    axis.set_ticks(np.linspace(0, 1, _TICKS + 1), ["0"] * (_TICKS + 1))
    axes.grid(axis="x" if across else "y", color=_RULE, linewidth=0.8)
    for number, text in enumerate(axis.get_ticklabels()):
        text.set_gid(f"{key}-y{number}")


def _short(name: str, room: float = _NAMES - 8) -> str:
    """The name on one line, cut where it is wider than the room, in points."""
    name = " ".join(name.split())
    if _width(name) <= room:
        return name
    kept = len(name)
    while kept and _width(name[:kept]) + _width("…") > room:
        kept = min(kept - 1, _FONT * 8)
    return name[:kept] + "…"


def _width(text: str) -> float:
    """Of a text in points, in matplotlib's font, which is wider than most; letters of East Asia take a square each."""
    wide = [letter for letter in text if unicodedata.east_asian_width(letter) in "WF"]
    narrow = "".join(letter for letter in text if letter not in wide)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that the font lacks
        own, _, _ = text_to_path.get_text_width_height_descent(narrow, FontProperties(size=_FONT), ismath=False)
    return float(own) + _FONT * len(wide)


def _styled(tag: re.Match[str]) -> str:
    """A tag with numbers to hundredths and the page's colours."""
    text = re.sub(r"(\d+\.\d\d)\d+", r"\1", tag[0])
    for colour, variable in _CSS.items():
        text = text.replace(colour, variable)
    return text


def _svg(figure: Figure, axes: Axes, key: str) -> Frame:
    """The figure as an <svg> element without a size of its own, its colours the page's, numbers to hundredths."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that the font lacks: the browser has others
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", rf'<svg \1 aria-hidden="true" id="{key}">', text, count=1)
    text = re.sub(r"\bfont: (\d+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"<[^>]*>", _styled, text)  # tags alone: a name may look like a number or a colour
    # matplotlib's own ids (figure_1, axes_1, ...) would be in the page once for each plot.
    text = re.sub(rf'\sid="(?!{key}[-"])[a-z]+[\w.]*_\d+"', "", text)
    box, height = axes.get_position(), figure.get_figheight() * 72
    area = (box.x0 * _WIDTH, box.x1 * _WIDTH, height * (1 - box.y1), height * (1 - box.y0))
    return Frame(re.sub(r"\n\s*", "\n", text), area)
