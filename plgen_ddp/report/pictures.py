"""A picture of three images, each labelled by two rules: objects dashed, right labels blue, wrong ones orange."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from plgen_ddp.boxes import intersections
from plgen_ddp.coco import CocoFile
from plgen_ddp.errors import UserError, one_line
from plgen_ddp.files import write_atomically
from plgen_ddp.image_files import index_images
from plgen_ddp.image_rules import DEFAULT_RULES, ImageRules
from plgen_ddp.report.comparison import Comparison, RuleResult
from plgen_ddp.report.judging import JudgedImage, NovelObjects, judge_images
from plgen_ddp.report.picture_files import UNREADABLE, open_picture

_WIDTH = 1500  # pixels
_MARGIN = 20
_GAP = 12
_TALLEST = 440  # an image
_IMAGES = 3

_PAPER, _INK, _FAINT = (255, 255, 255), (34, 34, 34), (110, 110, 110)
# Blue and vermilion stay apart for colour-blind readers (Okabe and Ito's palette).
_RIGHT, _WRONG = (0, 102, 178), (213, 94, 0)


_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class _Row:
    """One rule's images."""

    result: RuleResult
    images: list[JudgedImage]


def draw_gallery(comparison: Comparison, image_root: str, path: Path, rules: ImageRules = DEFAULT_RULES) -> None:
    """Draws what the first and the last rule of a comparison make of the same images, a PNG or JPEG by its suffix.

    Nobody picks the images: of those with the median number of novel objects, three are taken, spread evenly over the
    ids.

    Args:
        rules: what an image's file must be to be read.

    Raises:
        UserError: the images are not found, or the file cannot be written.
    """
    objects = comparison.objects
    chosen = choose_images(objects)
    ends = dict.fromkeys((comparison.results[0].preset, comparison.results[-1].preset))
    rows = [
        _Row(result, judge_images(result.labels, objects, chosen))
        for result in comparison.results
        if result.preset in ends
    ]
    pictures = _read_images(objects, image_root, chosen, rules)
    drawn = _draw(rows, pictures, objects.names)
    buffer = io.BytesIO()
    if path.suffix.lower() in (".jpg", ".jpeg"):
        drawn.save(buffer, "JPEG", quality=88)
    else:
        # A palette that k-means has chosen: a fifth of the size, and no difference that is seen.
        palette = drawn.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
        palette.save(buffer, "PNG", optimize=True)
    write_atomically(path, [buffer.getvalue()])


def choose_images(objects: NovelObjects, wanted: int = _IMAGES) -> list[int]:
    """Ids of the images to draw, ascending: with the median number of novel objects, spread evenly over the ids."""
    counts = {image_id: len(boxes.names) for image_id, boxes in sorted(objects.of_image.items())}
    typical = [image_id for image_id, count in counts.items() if count == median_low(counts.values())]
    wanted = min(wanted, len(typical))
    return [typical[(2 * place + 1) * len(typical) // (2 * wanted)] for place in range(wanted)]


def _read_images(
    objects: NovelObjects, image_root: str, chosen: Sequence[int], rules: ImageRules
) -> dict[int, Image.Image]:
    images = [image for image in CocoFile(objects.path, "--ground-truth").images() if image.id in chosen]
    index = index_images(images, image_root, objects.path, follow_links=rules.follow_links)
    found = {}
    for place, image_id in enumerate(index.image_ids.tolist()):
        try:
            with open_picture(index.path(place), index.root, rules) as image:
                found[image_id] = image.convert("RGB")
        except UNREADABLE as error:
            reason = getattr(error, "strerror", None) or one_line(error)
            raise UserError(f"--picture: cannot read {index.path(place)}: {reason}") from None
    return found


def _draw(rows: Sequence[_Row], pictures: dict[int, Image.Image], names: Sequence[str]) -> Image.Image:
    shapes = [picture.width / picture.height for picture in pictures.values()]
    height = min(_TALLEST, int((_WIDTH - 2 * _MARGIN - _GAP * (len(shapes) - 1)) / sum(shapes)))
    widths = [round(height * shape) for shape in shapes]
    title, small = ImageFont.load_default(20), ImageFont.load_default(14)
    legend, heading = 34, 34
    total = _MARGIN + legend + len(rows) * (heading + height + _GAP) + _MARGIN
    canvas = Image.new("RGB", (sum(widths) + _GAP * (len(widths) - 1) + 2 * _MARGIN, total), _PAPER)
    pen = ImageDraw.Draw(canvas)
    _legend(pen, _MARGIN, _MARGIN, small)
    top = _MARGIN + legend
    for row in rows:
        labels = sum(len(image.labels.names) for image in row.images)
        right = sum(int(image.right.sum()) for image in row.images)
        there = sum(len(image.novel.names) for image in row.images)
        pen.text((_MARGIN, top + heading / 2), row.result.preset, _INK, title, anchor="lm")
        said = f"{labels} labels, {right} of them right, on {there} objects"
        left = _MARGIN + title.getlength(row.result.preset) + 14
        pen.text((left, top + heading / 2 + 2), said, _FAINT, small, anchor="lm")
        top += heading
        left = _MARGIN
        for image, width in zip(row.images, widths, strict=True):
            scene = pictures[image.image_id].resize((width, height), Image.Resampling.BICUBIC)
            _mark(scene, image, height / pictures[image.image_id].height, names)
            canvas.paste(scene, (left, top))
            left += width + _GAP
        top += height + _GAP
    return canvas


def _legend(pen: ImageDraw.ImageDraw, left: float, top: float, font: _Font) -> None:
    for colour, dashed, text in (
        (_RIGHT, False, "right label"),
        (_WRONG, False, "wrong label"),
        (_INK, True, "object of a novel name"),
    ):
        box = (left, top + 2, left + 26, top + 18)
        if dashed:
            _dashed(pen, box)
        else:
            pen.rectangle(box, outline=colour, width=3)
        pen.text((left + 36, top + 10), text, _INK, font, anchor="lm")
        left += 36 + font.getlength(text) + 28


def _mark(scene: Image.Image, image: JudgedImage, scale: float, names: Sequence[str]) -> None:
    """Draws labels and objects into an image that is enlarged by `scale`."""
    pen, font = ImageDraw.Draw(scene), ImageFont.load_default(14)
    right, labels, novel = image.right, image.labels, image.novel
    order = [*np.flatnonzero(~right).tolist(), *np.flatnonzero(right).tolist()]
    for place in order:
        pen.rectangle(_pixels(labels.boxes_xyxy[place], scale, scene), outline=_colour(right[place]), width=3)
    for box in novel.boxes_xyxy:
        _dashed(pen, _pixels(box, scale, scene))
    taken: list[tuple[float, float, float, float]] = []
    for place in reversed(order):  # right ones first, and of the others the best: they get the best places
        text = f"{names[labels.names[place]]} {labels.scores[place]:.2f}"
        box = _pixels(labels.boxes_xyxy[place], scale, scene)
        _tag(pen, text, box, _colour(right[place]), font, taken, scene.size)


def _colour(right: bool) -> tuple[int, int, int]:
    return _RIGHT if right else _WRONG


def _pixels(box: np.ndarray, scale: float, scene: Image.Image) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (box * scale).tolist()
    return max(x0, 0), max(y0, 0), min(x1, scene.width - 1), min(y1, scene.height - 1)


def _dashed(pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float]) -> None:
    """A dashed rectangle, white on black, so that it shows on any ground."""
    x0, y0, x1, y1 = box
    for start, end in (((x0, y0), (x1, y0)), ((x1, y0), (x1, y1)), ((x1, y1), (x0, y1)), ((x0, y1), (x0, y0))):
        for dash in _dashes(start, end):
            pen.line(dash, fill=(0, 0, 0), width=4)
        for dash in _dashes(start, end, inset=1):
            pen.line(dash, fill=(255, 255, 255), width=2)


def _dashes(
    start: tuple[float, float], end: tuple[float, float], inset: float = 0, dash: float = 9, space: float = 6
) -> Iterator[tuple[float, float, float, float]]:
    length = float(np.hypot(end[0] - start[0], end[1] - start[1]))
    x, y = (end[0] - start[0]) / max(length, 1e-9), (end[1] - start[1]) / max(length, 1e-9)
    for at in np.arange(0, length, dash + space).tolist():
        low, high = at + inset, min(at + dash, length) - inset
        yield start[0] + x * low, start[1] + y * low, start[0] + x * high, start[1] + y * high


def _tag(
    pen: ImageDraw.ImageDraw,
    text: str,
    box: tuple[float, float, float, float],
    colour: tuple[int, int, int],
    font: _Font,
    taken: list[tuple[float, float, float, float]],
    size: tuple[int, int],
) -> None:
    """Writes a label's text at the free place around its box that hides least of the other texts."""
    width, height = font.getlength(text) + 8, 19
    x0, y0, x1, y1 = box
    places = [
        (x, y) for y in (y0 - height, y1, y0, y1 - height) for x in (x0 - 1, x1 - width + 1, (x0 + x1 - width) / 2)
    ]
    inside = [(min(max(x, 0), size[0] - 1 - width), min(max(y, 0), size[1] - 1 - height)) for x, y in places]
    tags = np.array([(x, y, x + width, y + height) for x, y in inside])
    hidden = intersections(tags, np.array(taken).reshape(-1, 4)).sum(axis=1)
    best = tuple(tags[int(hidden.argmin())].tolist())
    pen.rectangle(best, fill=colour, outline=(255, 255, 255))
    pen.text((best[0] + 4, best[1] + height / 2), text, (255, 255, 255), font, anchor="lm")
    taken.append(best)
