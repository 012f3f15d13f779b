"""A COCO-format JSON from a folder of images: sizes from the files' headers, no pixel is decoded."""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from PIL import ExifTags, Image

from plgen_ddp.errors import UserError, one_line
from plgen_ddp.files import IMAGE_SUFFIXES, write_atomically
from plgen_ddp.image_rules import ImageRules
from plgen_ddp.safe_reading import open_image, target_outside

# EXIF orientations that turn an image on its side.
_SIDEWAYS = (5, 6, 7, 8)
# Only the size is read, of files of any length.
_HEADER = ImageRules(max_bytes=1 << 62, follow_links=True)
# Files that are opened at once: on a network's file system, opening is mostly waiting.
_THREADS = 16


@dataclass(frozen=True, slots=True)
class FolderImages:
    """The images of a folder.

    Attributes:
        images: entries of COCO's `images`, in the order of their ids.
        unreadable: (path relative to the folder, reason) of files that are no readable image, in the order of paths.
    """

    images: list[dict[str, Any]]
    unreadable: list[tuple[str, str]]


def find_images(folder: Path, *, follow_links: bool = False) -> FolderImages:
    """The images in a folder and the folders below it. Links to folders are not followed.

    Files are ordered by their path below the folder, so ids do not depend on the file system. `file_name` is that path,
    with `/`. A file whose EXIF says that it is turned on its side has the size of the upright image, as in stage 1.

    Args:
        follow_links: whether a file may be a link that leads out of the folder.

    Raises:
        UserError: no such folder, one that may not be listed, or no readable image in it.
    """
    if not folder.is_dir():
        raise UserError(f"no folder at {folder}")
    names = sorted(_image_names(folder))
    root = None if follow_links else folder
    if not names:
        raise UserError(f"no images in {folder}: no file there ends with one of {', '.join(IMAGE_SUFFIXES)}")
    with ThreadPoolExecutor(_THREADS) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of many pixels or odd EXIF: only the size is asked for
        sizes = list(pool.map(lambda name: _size(folder / name, root), names))
    images: list[dict[str, Any]] = []
    unreadable = []
    for name, size in zip(names, sizes, strict=True):
        if isinstance(size, str):
            unreadable.append((name, size))
        else:
            images.append({"id": len(images) + 1, "file_name": name, "width": size[0], "height": size[1]})
    if not images:
        raise UserError(
            f"none of the {len(names)} images in {folder} is readable; the first: {': '.join(unreadable[0])}"
        )
    return FolderImages(images, unreadable)


def write_coco(path: Path, images: Iterable[dict[str, Any]], names: Sequence[str] = ()) -> None:
    """Writes a COCO-format JSON without annotations.

    Args:
        names: of the categories, whose ids count from 1.

    Raises:
        UserError: a name twice, an empty one, or the folder cannot be written.
    """
    repeated = next((name for name, count in Counter(names).items() if count > 1 or not name.strip()), None)
    if repeated is not None:
        raise UserError(f"--names: {repeated!r} is given twice, or empty")
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    entries = {"images": list(images), "annotations": [], "categories": categories}
    lines = [msgspec.json.encode(key) + b": [" + _lines(rows) + b"]" for key, rows in entries.items()]
    write_atomically(path, [b"{" + b",\n".join(lines) + b"}\n"])


def _lines(rows: Sequence[dict[str, Any]]) -> bytes:
    return b",\n".join(map(msgspec.json.encode, rows))


def _image_names(folder: Path) -> Iterable[str]:
    def refuse(error: OSError) -> None:
        raise UserError(f"cannot list {os.fsdecode(error.filename)}: {error.strerror}") from None

    for place, _, files in os.walk(folder, onerror=refuse):
        for file in files:
            if file.lower().endswith(IMAGE_SUFFIXES):
                yield Path(place, file).relative_to(folder).as_posix()


def _size(path: Path, root: Path | None) -> tuple[int, int] | str:
    """(width, height) of an upright image in pixels, or why there is none.

    Args:
        root: what links must not lead out of; None: they may lead anywhere.
    """
    if not str(path).isprintable():  # a line break in it, or bytes that are no UTF-8: no JSON can hold these
        return "its name holds bytes that are no UTF-8, or control characters; rename it"
    if root is not None and (target := target_outside(path, root)) is not None:
        return f"a link out of the folder, to {target!r}; --follow-links takes it, and so does data.follow_links=true"
    try:
        with open_image(path, path.parent, _HEADER) as file, Image.open(file) as image:
            # Pillow has turned a TIFF's size already.
            turned = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
            return (image.height, image.width) if turned else image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, Image.UnidentifiedImageError):
            return "not an image"
        return getattr(error, "strerror", None) or one_line(error)
