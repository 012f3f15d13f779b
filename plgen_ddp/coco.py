"""COCO-format JSON: reading images, categories and annotations, finding the image files, writing the labelled file.

A file is held as raw JSON text per entry and decoded only as far as a question needs (msgspec), so keys that nothing
here knows, polygons among them, pass through byte for byte and train2017's 320 MB cost a second and about 1 GB.
"""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from plgen_ddp.errors import UserError

T = TypeVar("T")


# What the columns of the job hold.
Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Pixels = Annotated[int, msgspec.Meta(le=2**31 - 1)]


class Image(msgspec.Struct):
    """What the job reads of an entry of `images`; sizes in pixels. LVIS names a file by its URL alone."""

    id: Id
    height: Pixels
    width: Pixels
    file_name: str = ""
    coco_url: str | None = None

    def __post_init__(self) -> None:
        self.file_name = self.file_name or (self.coco_url or "").rpartition("/")[2]
        if not self.file_name:
            raise ValueError("an image has no `file_name`, and no `coco_url` to take it from")


class Category(msgspec.Struct):
    id: Id
    name: str


class AnnotationKeys(msgspec.Struct):
    """The part of an annotation that decides whether it is kept, and that a new id must not repeat."""

    image_id: int
    category_id: int
    id: int | str | None = None


class Annotation(msgspec.Struct):
    """What training and its evaluation read of an annotation."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]  # xywh, original pixels
    iscrowd: int = 0
    segmentation: list[list[float]] | dict[str, Any] | None = None  # polygons x0, y0, x1, ..., or run lengths


class PseudoLabel(msgspec.Struct):
    """One written pseudo label: the keys that VL-PLM's and MarvelOVD's training loaders read, and a real area.

    `segmentation` [[]] is how those loaders recognise a box without a mask.
    """

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]  # xywh, original pixels
    area: float  # pixels
    confidence: float
    clip_score: float
    rpn_score: float
    iscrowd: int = 0
    thing_isBase: bool = False
    thing_isNovel: bool = True
    segmentation: list[list[float]] = msgspec.field(default_factory=lambda: [[]])


def read_json(path: Path) -> bytes:
    """The bytes of a JSON file, without the byte order mark that some editors put before it."""
    return path.read_bytes().removeprefix(b"\xef\xbb\xbf")


class CocoFile:
    """A COCO-format JSON, its entries still as raw text."""

    def __init__(self, path: str | Path, key: str) -> None:
        """Reads the file at `path`; `key` is the option that named it, for messages.

        Raises:
            UserError: no such file, not JSON, or without `images` and `categories`.
        """
        self.path = Path(path)
        self._key = key
        try:
            text = read_json(self.path)
        except OSError as error:
            raise UserError(f"{key}: cannot read {path}: {error.strerror}") from None
        try:
            self._top: dict[str, msgspec.Raw] = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{key}: {path} is not a COCO-format JSON: {error}") from None
        self.sha256 = hashlib.sha256(text).hexdigest()
        missing = [name for name in ("images", "categories") if name not in self._top]
        if missing:
            raise UserError(f"{key}: {path} is not a COCO-format JSON: it has no {' and no '.join(missing)}")

    def images(self) -> list[Image]:
        """The images in ascending id."""
        images = self._decode("images", list[Image])
        images.sort(key=lambda image: image.id)
        for before, image in itertools.pairwise(images):
            if before.id == image.id:
                raise UserError(f"{self._key}: {self.path} has two images with id {image.id}")
        for image in images:
            if image.height < 1 or image.width < 1:
                raise UserError(f"{self._key}: {self.path}: image {image.id} has size {image.width} x {image.height}")
        if not images:
            raise UserError(f"{self._key}: {self.path} has no images")
        return images

    def categories(self) -> list[Category]:
        """The categories in the file's order."""
        categories = self._decode("categories", list[Category])
        for what in ("id", "name"):
            values = [getattr(category, what) for category in categories]
            repeated = next((value for value in values if values.count(value) > 1), None)
            if repeated is not None:
                raise UserError(f"{self._key}: {self.path} has two categories with {what} {repeated!r}")
        return categories

    def annotation_keys(self) -> list[AnnotationKeys]:
        """Image, category and id of every annotation, in the file's order; none where the file has no annotations."""
        return self._decode("annotations", list[AnnotationKeys]) if "annotations" in self._top else []

    def annotations(self, category_ids: set[int]) -> list[Annotation]:
        """The annotations of these categories, in the file's order. Others are decoded no further than the category."""
        if "annotations" not in self._top:
            raise UserError(f"{self._key}: {self.path} has no annotations")
        keys, texts = self.annotation_keys(), self._decode("annotations", list[msgspec.Raw])
        try:
            return [
                msgspec.json.decode(text, type=Annotation)
                for key, text in zip(keys, texts, strict=True)
                if key.category_id in category_ids
            ]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{self._key}: {self.path}: an annotation is not COCO's: {error}") from None

    def write_labelled(
        self,
        path: Path,
        base_ids: set[int],
        columns: "PseudoLabels",
        provenance: dict[str, Any],
        image_ids: Sequence[int] | None = None,
    ) -> int:
        """Writes this file with the pseudo labels in the place of every annotation whose category is not base.

        Base annotations, images, categories and other top-level keys keep their bytes. Pseudo labels get negative ids
        under every id of the file. The file appears under its name only when it is complete.

        Args:
            base_ids: ids of the categories whose annotations stay.
            provenance: written into the file's `info`, under "plgen_ddp".
            image_ids: write only these images and their annotations; all by default.

        Returns:
            How many base annotations were kept.
        """
        keys = self.annotation_keys()
        texts = self._decode("annotations", list[msgspec.Raw]) if keys else []
        wanted = None if image_ids is None else set(image_ids)
        kept = [
            text
            for key, text in zip(keys, texts, strict=True)
            if key.category_id in base_ids and (wanted is None or key.image_id in wanted)
        ]
        lowest = min((key.id for key in keys if isinstance(key.id, int)), default=0)
        labels = columns.rows(first_id=min(lowest, 0) - 1)

        parts: dict[str, bytes | msgspec.Raw] = dict(self._top)
        parts["info"] = _encode(self._info() | {"plgen_ddp": provenance})
        if wanted is not None:
            images = zip(self._decode("images", list[Image]), self._decode("images", list[msgspec.Raw]), strict=True)
            parts["images"] = _encode([text for image, text in images if image.id in wanted])
        parts.pop("annotations", None)
        head = b",\n".join(_encode(name) + b": " + bytes(text) for name, text in parts.items())

        def chunks() -> Iterator[bytes]:
            yield b"{" + head + b',\n"annotations": ['
            separator = b""
            for entries in _chunks(kept, labels):
                yield separator + _encode(entries)[1:-1]
                separator = b",\n"
            yield b"]}\n"

        write_atomically(path, chunks())
        return len(kept)

    def _info(self) -> dict[str, Any]:
        try:
            return self._decode("info", dict[str, msgspec.Raw]) if "info" in self._top else {}
        except UserError:  # some datasets keep a string or a list there
            return {"original": self._top["info"]}

    def _decode(self, name: str, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(self._top[name], type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            detail = str(error).replace("`$", f"`{name}")
            raise UserError(f"{self._key}: {self.path} is not a COCO-format JSON: {detail}") from None


@dataclass(frozen=True, slots=True)
class PseudoLabels:
    """The pseudo labels of all images, in columns: image by image, in an image by falling score.

    image_ids, category_ids: int64 (n,). boxes_xywh: float64 (n, 4), original pixels.
    scores, clip_scores, objectness: float64 (n,), in [0, 1].
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes_xywh: np.ndarray
    scores: np.ndarray
    clip_scores: np.ndarray
    objectness: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.image_ids)
        for name in ("category_ids", "scores", "clip_scores", "objectness"):
            shape = getattr(self, name).shape
            assert shape == (count,), f"{name} has shape {shape}, expected {(count,)}"
        assert self.boxes_xywh.shape == (count, 4), (
            f"boxes_xywh has shape {self.boxes_xywh.shape}, expected {(count, 4)}"
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    @classmethod
    def concatenate(cls, parts: Sequence["PseudoLabels"]) -> "PseudoLabels":
        if not parts:
            empty, ids = np.empty(0), np.empty(0, np.int64)
            return cls(ids, ids, np.empty((0, 4)), empty, empty, empty)
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))

    def sorted_by_image(self) -> "PseudoLabels":
        order = np.argsort(self.image_ids, kind="stable")
        return PseudoLabels(*(getattr(self, name)[order] for name in self.__slots__))

    def rows(self, first_id: int) -> Iterator[PseudoLabel]:
        """The entries to write, with ids `first_id`, `first_id` - 1, ..."""
        columns = (getattr(self, name).tolist() for name in self.__slots__)
        areas = (self.boxes_xywh[:, 2] * self.boxes_xywh[:, 3]).tolist()
        for number, (area, image_id, category_id, box, score, clip_score, objectness) in enumerate(
            zip(areas, *columns, strict=True)
        ):
            yield PseudoLabel(first_id - number, image_id, category_id, box, area, score, clip_score, objectness)


@dataclass(frozen=True, slots=True)
class ImageIndex:
    """The images of a dataset in ascending id, compact enough to be sent to every rank.

    image_ids: int64 (n,). heights, widths: int32 (n,), pixels. paths: bytes (n,), UTF-8, relative to `root`.
    """

    root: str
    image_ids: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    paths: np.ndarray

    def __len__(self) -> int:
        return len(self.image_ids)

    def path(self, position: int) -> Path:
        return Path(self.root, self.paths[position].decode())

    def first(self, count: int | None) -> "ImageIndex":
        return ImageIndex(
            self.root, self.image_ids[:count], self.heights[:count], self.widths[:count], self.paths[:count]
        )


def index_images(images: Sequence[Image], image_root: str, annotations: Path) -> ImageIndex:
    """Decides, once for the dataset, where under `image_root` its files lie.

    Tried on images spread evenly over the dataset; the layout with most files found is taken, the earlier one in a tie.

    Raises:
        UserError: no such folder, no file found in any layout, or a path that would leave the image root.
    """
    root = Path(image_root)
    if not root.is_dir():
        raise UserError(f"data.image_root: no folder at {image_root}")
    split = annotations.stem.rpartition("_")[2]  # instances_train2017.json -> train2017
    layouts: dict[str, Callable[[Image], str]] = {
        "<folder in coco_url>/<file_name>": lambda image: _join(_url_folder(image), image.file_name),
        "images/<folder in coco_url>/<file_name>": lambda image: _join("images", _url_folder(image), image.file_name),
        "<file_name>": lambda image: image.file_name,
        f"{split}/<file_name>": lambda image: _join(split, image.file_name),
        "images/<file_name>": lambda image: _join("images", image.file_name),
        f"images/{split}/<file_name>": lambda image: _join("images", split, image.file_name),
    }
    for image in images:
        if not _stays_inside(image.file_name) or not _stays_inside(_url_folder(image) or "."):
            raise UserError(f"{annotations}: the path of image {image.id} leaves the image root: {image.file_name!r}")
    sample = images[:: max(1, len(images) // 64)]
    # os.path's answers False for a name that no file can have, where pathlib's raises.
    found = {
        name: sum(os.path.isfile(root / place(image)) for image in sample)  # noqa: PTH113
        for name, place in layouts.items()
    }
    best = max(found, key=lambda name: found[name])
    if found[best] == 0:
        example = ", ".join(dict.fromkeys(str(root / place(sample[0])) for place in layouts.values()))
        raise UserError(f"data.image_root: none of the images is under {image_root}; looked for {example}")
    place = layouts[best]
    return ImageIndex(
        root=str(root),
        image_ids=np.array([image.id for image in images], np.int64),
        heights=np.array([image.height for image in images], np.int32),
        widths=np.array([image.width for image in images], np.int32),
        paths=np.array([place(image).encode() for image in images], np.bytes_),
    )


def dataset_digest(images: Sequence[Image]) -> str:
    """SHA-256 of what stage 1 takes from the images: id, file name, size."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.id} {image.height} {image.width} {image.file_name}\n".encode())
    return digest.hexdigest()


def check_output(path: Path, option: str, inputs: Mapping[str, object]) -> None:
    """Finds out before the work whether its result can be written to `path`, and would replace none of the inputs.

    Args:
        inputs: what each is called, and its path; whatever is no path is none.

    Raises:
        UserError: it is an input or a folder, or its folder cannot be written.
    """
    for name, used in inputs.items():
        if isinstance(used, (str, Path)) and path.resolve() == Path(used).resolve():
            raise UserError(f"{option}: {path} is {name}; choose another name")
    if path.is_dir():
        raise UserError(f"{option}: {path} is a folder")
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{option}: cannot write into {folder}")


def write_atomically(path: Path, chunks: Iterator[bytes]) -> None:
    """Writes to a temporary name beside `path`, flushes to disk and renames: a file that exists is complete.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def _url_folder(image: Image) -> str | None:
    """`train2017` of http://images.cocodataset.org/train2017/000000000009.jpg."""
    parts = (image.coco_url or "").split("/")
    return parts[-2] if len(parts) >= 2 else None


def _join(*parts: str | None) -> str:
    return "/".join(part for part in parts if part)


def _stays_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and "\0" not in path


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _chunks(kept: list[msgspec.Raw], labels: Iterator[PseudoLabel], size: int = 10_000) -> Iterator[list[Any]]:
    """Lists of at most `size` entries, none of them empty: a whole train2017 in one buffer would double the memory."""
    for start in range(0, len(kept), size):
        yield kept[start : start + size]
    chunk: list[PseudoLabel] = []
    for label in labels:
        chunk.append(label)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
