"""A labelled JSON in other formats: COCO results, YOLO folders, Parquet and CSV.

COCO results, Parquet and CSV hold the pseudo labels. A YOLO folder is a training set: it holds base annotations too.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from plgen_ddp.coco_boxes import BoxFile, BoxRow, ImageRow, boxes_by_image, read_box_file
from plgen_ddp.errors import UserError
from plgen_ddp.files import check_output, temporary_beside, write_atomically

_TABLE = pa.schema(
    [
        ("id", pa.int64()),
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        ("category_id", pa.int64()),
        ("name", pa.string()),
        *((column, pa.float64()) for column in ("x", "y", "width", "height")),
        *((column, pa.float64()) for column in ("score", "clip_score", "rpn_score", "box_score")),
    ]
)


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What an export wrote.

    Attributes:
        boxes, images: how many are in it.
        left_out: boxes that the format has no place for, crowds or without area inside their image.
    """

    path: Path
    boxes: int
    images: int
    left_out: int = 0


def export(labels: Path, kind: str, output: Path) -> ExportSummary:
    """Writes a labelled JSON in another format, one of `FORMATS`.

    Raises:
        UserError: an unreadable file, one without pseudo labels, or an output that is an input or cannot be written.
    """
    check_output(output / "data.yaml" if kind == "yolo" else output, "--output", {"the labels": labels})
    made = read_box_file(labels, "labels")
    if made.made_for() is None and not made.pseudo_labels():
        raise UserError(f"{labels} has no pseudo labels: no annotation with `confidence`")
    images = {image.id: image for image in made.images}
    names = {category.id: category.name for category in made.categories}
    for box in made.annotations:
        if box.image_id not in images or box.category_id not in names:
            raise UserError(
                f"{labels}: annotation {box.id} has image {box.image_id} and category {box.category_id}, and the file "
                "lacks one of them"
            )
    return FORMATS[kind](made, images, names, output)


def _coco_results(
    made: BoxFile, images: Mapping[int, ImageRow], names: Mapping[int, str], output: Path
) -> ExportSummary:
    """A list of image_id, category_id, bbox (xywh) and score: what `COCO.loadRes` and evaluation servers read."""
    labels = made.pseudo_labels()
    rows = [
        {"image_id": box.image_id, "category_id": box.category_id, "bbox": box.bbox, "score": box.confidence}
        for box in labels
    ]
    write_atomically(output, [msgspec.json.encode(rows), b"\n"])
    return ExportSummary(output, len(rows), len({box.image_id for box in labels}))


def _parquet(made: BoxFile, images: Mapping[int, ImageRow], names: Mapping[int, str], output: Path) -> ExportSummary:
    return _write_table(made, images, names, output, lambda table, sink: pq.write_table(table, sink))


def _csv(made: BoxFile, images: Mapping[int, ImageRow], names: Mapping[int, str], output: Path) -> ExportSummary:
    return _write_table(made, images, names, output, pa_csv.write_csv)


def _write_table(
    made: BoxFile,
    images: Mapping[int, ImageRow],
    names: Mapping[int, str],
    output: Path,
    write: Callable[[pa.Table, pa.NativeFile], None],
) -> ExportSummary:
    """A row for each pseudo label; boxes in original pixels, x and y of the upper left corner."""
    rows = made.pseudo_labels()
    boxes = np.array([row.bbox for row in rows], np.float64).reshape(-1, 4)
    columns = {
        "id": [row.id if isinstance(row.id, int) else None for row in rows],
        "image_id": [row.image_id for row in rows],
        "file_name": [images[row.image_id].file_name or images[row.image_id].name() for row in rows],
        "category_id": [row.category_id for row in rows],
        "name": [names[row.category_id] for row in rows],
        **{column: boxes[:, place] for place, column in enumerate(("x", "y", "width", "height"))},
        "score": [row.confidence for row in rows],
        **{column: [getattr(row, column) for row in rows] for column in ("clip_score", "rpn_score", "box_score")},
    }
    sink = pa.BufferOutputStream()
    write(pa.table(columns, schema=_TABLE), sink)
    write_atomically(output, [sink.getvalue().to_pybytes()])
    return ExportSummary(output, len(rows), len({row.image_id for row in rows}))


def _yolo(made: BoxFile, images: Mapping[int, ImageRow], names: Mapping[int, str], output: Path) -> ExportSummary:
    """A folder in the layout of YOLO's trainers.

        <output>/data.yaml, classes.txt      the names, numbered from 0 in the order of the JSON's categories
        <output>/train.txt                   ./images/train2017/000000000009.jpg, a line an image
        <output>/labels/train2017/*.txt      class, x and y of the centre, width, height; shares of the image's size

    Trainers find the labels of an image by the word `images` in its path: the images belong under <output>/images, as a
    link for instance. Crowds are left out, and boxes are clipped to their image. Every image has a file; an empty one
    says that nothing is there.
    """
    if not output.name:
        raise UserError(f"--output: {output} is the current folder; name a new one")
    if output.exists() and any(output.iterdir()):
        raise UserError(f"--output: {output} is not empty; choose a new folder")
    paths = {image.id: _path_in_images(image) for image in images.values()}
    files = {image_id: path.with_suffix(".txt") for image_id, path in paths.items()}
    twice = next((path for path, count in Counter(files.values()).items() if count > 1), None)
    if twice is not None:
        raise UserError(
            f"two images would have the labels {twice}: their paths differ in the suffix alone, or not at all"
        )
    number_of = {category_id: number for number, category_id in enumerate(names)}
    whole = [box for box in made.annotations if not box.iscrowd]
    lines = {image_id: list(rows) for image_id, rows in _yolo_lines(whole, images, number_of)}

    partial = temporary_beside(output)
    try:
        for image_id, file in files.items():
            target = partial / "labels" / file
            if not target.parent.is_dir():
                target.parent.mkdir(parents=True)
            _write(target, lines.get(image_id, []))
        _write(partial / "train.txt", (f"./images/{path}\n" for path in paths.values()))
        _write(partial / "classes.txt", (f"{' '.join(name.splitlines())}\n" for name in names.values()))
        quoted = (f"  {number}: {json.dumps(name, ensure_ascii=False)}\n" for number, name in enumerate(names.values()))
        # A JSON string is a YAML string. Trainers want a `val`; without one of the user's it is the same list.
        _write(partial / "data.yaml", ["train: train.txt\nval: train.txt\nnames:\n", *quoted])
        partial.replace(output)  # an empty folder there makes room
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"--output: cannot write {output}: {error.strerror}") from None
    boxes = sum(map(len, lines.values()))
    return ExportSummary(output, boxes, len(images), left_out=len(made.annotations) - boxes)


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(lines), encoding="utf-8")


def _yolo_lines(
    rows: list[BoxRow], images: Mapping[int, ImageRow], number_of: Mapping[int, int]
) -> Iterator[tuple[int, Iterator[str]]]:
    for image_id, boxes in boxes_by_image(rows, number_of).items():
        image = images[image_id]
        if not image.width or not image.height:
            raise UserError(f"image {image_id} has no width and height, which YOLO's labels are shares of")
        size = np.array([image.width, image.height], np.float64)
        low, high = (np.clip(boxes.boxes_xyxy[:, part] / size, 0, 1) for part in (slice(0, 2), slice(2, 4)))
        inside = (high > low).all(axis=1)
        numbers = np.concatenate([(low + high) / 2, high - low], axis=1)[inside].tolist()
        yield (
            image_id,
            (
                f"{name} {x:.6f} {y:.6f} {width:.6f} {height:.6f}\n"
                for name, (x, y, width, height) in zip(boxes.names[inside].tolist(), numbers, strict=True)
            ),
        )


def _path_in_images(image: ImageRow) -> PurePosixPath:
    """Where an image lies in the folder `images`: COCO's folder, which its URL names, and its file."""
    path = PurePosixPath(image.file_name or image.name())
    if len(path.parts) == 1:
        path = PurePosixPath(*(image.coco_url or "").split("/")[-2:-1], path)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise UserError(f"image {image.id} has no path that stays inside a folder: {image.file_name!r}")
    return path.relative_to("images") if path.parts[0] == "images" else path


FORMATS: Mapping[str, Callable[[BoxFile, Mapping[int, ImageRow], Mapping[int, str], Path], ExportSummary]] = {
    "coco_results": _coco_results,
    "yolo": _yolo,
    "parquet": _parquet,
    "csv": _csv,
}
"""Writers by the name of their format."""
