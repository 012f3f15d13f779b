"""COCO-format JSON: reads images, categories and annotations, writes the labelled file.

A file is held as raw JSON text per entry, and an entry is decoded only as far as a question needs (msgspec). Keys that
this file does not know, polygons among them, therefore pass through byte for byte. The 320 MB of train2017 take about a
second and 1 GB.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from plgen_ddp.errors import UserError
from plgen_ddp.files import write_atomically
from plgen_ddp.json_text import UNREADABLE, item_slices, member_slices, replaced, with_member
from plgen_ddp.records import PseudoLabel, PseudoLabels

T = TypeVar("T")


# The ranges of the columns that hold them.
Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Pixels = Annotated[int, msgspec.Meta(le=2**31 - 1)]


class Image(msgspec.Struct, gc=False):
    """What the job reads of an entry of `images`. Sizes are in pixels. LVIS gives only the URL of a file."""

    id: Id
    height: Pixels
    width: Pixels
    file_name: str = ""
    coco_url: str | None = None

    def __post_init__(self) -> None:
        self.file_name = self.file_name or (self.coco_url or "").rpartition("/")[2]
        if not self.file_name:
            raise ValueError("an image has no `file_name`, and no `coco_url` to take it from")


class Category(msgspec.Struct, gc=False):
    """What the job reads of an entry of `categories`."""

    id: Id
    name: str


class _CategoryEmbedding(msgspec.Struct):
    text_emb: list[float] | None = None


class AnnotationKeys(msgspec.Struct, gc=False):
    """The part of an annotation that decides whether it is kept, and that a new id must not repeat."""

    image_id: Id
    category_id: Id
    id: Id | str | None = None


class Annotation(msgspec.Struct):
    """What training and its evaluation read of an annotation."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]  # xywh, original pixels
    iscrowd: int = 0
    segmentation: list[list[float]] | dict[str, Any] | None = None  # polygons x0, y0, x1, ..., or run lengths


class AnnotatedBox(msgspec.Struct, gc=False):
    """What labelling reads of a base annotation."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]  # xywh, original pixels
    iscrowd: int = 0


def read_json(path: Path) -> bytes:
    """The bytes of a JSON file, without the byte order mark that some editors put before it."""
    return path.read_bytes().removeprefix(b"\xef\xbb\xbf")


@dataclass(frozen=True, slots=True)
class _Content:
    """The text of a file, and its top-level values as views of it."""

    text: bytes
    top: dict[str, msgspec.Raw]

    def sha256(self) -> str:
        return hashlib.sha256(self.text).hexdigest()


class CocoFile:
    """A COCO-format JSON, its entries still as raw text."""

    def __init__(self, path: str | Path, key: str) -> None:
        """Reads the file at `path`; `key` is the option that named it, for messages.

        Raises:
            UserError: no such file, not JSON, or without `images` and `categories`.
        """
        self.path = Path(path)
        self._key = key
        self._content: _Content | None = self._read()
        self.sha256 = self._content.sha256()
        missing = [name for name in ("images", "categories") if name not in self._top]
        if missing:
            raise UserError(f"{key}: {path} is not a COCO-format JSON: it has no {' and no '.join(missing)}")

    def release(self) -> None:
        """Lets go of the text, hundreds of megabytes for a train2017; it is read again when it is needed."""
        self._content = None

    def _read(self) -> "_Content":
        try:
            text = read_json(self.path)
        except OSError as error:
            raise UserError(f"{self._key}: cannot read {self.path}: {error.strerror}") from None
        try:
            return _Content(text, msgspec.json.decode(text, type=dict[str, msgspec.Raw]))
        except UNREADABLE as error:
            raise UserError(f"{self._key}: {self.path} is not a COCO-format JSON: {error}") from None

    def _loaded(self) -> "_Content":
        if self._content is None:
            content = self._read()
            if content.sha256() != self.sha256:
                raise UserError(f"{self._key}: {self.path} was changed while it was being read; run again")
            self._content = content
        return self._content

    @property
    def _text(self) -> bytes:
        return self._loaded().text

    @property
    def _top(self) -> dict[str, msgspec.Raw]:
        return self._loaded().top

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
            counts = Counter(getattr(category, what) for category in categories)
            repeated = next((value for value, count in counts.items() if count > 1), None)
            if repeated is not None:
                raise UserError(f"{self._key}: {self.path} has two categories with {what} {repeated!r}")
        return categories

    def category_values(self, name: str) -> list[Any]:
        """The value that each category has under a key, in the file's order; None where it has none."""
        rows = self._decode("categories", list[dict[str, msgspec.Raw]])
        return [msgspec.json.decode(row[name]) if name in row else None for row in rows]

    def text_embedding_lengths(self) -> list[int]:
        """How many numbers each category's `text_emb` has, in the file's order; 0 where it has none."""
        return [len(row.text_emb or ()) for row in self._decode("categories", list[_CategoryEmbedding])]

    def categories_text(
        self,
        text_embeddings: Mapping[int, np.ndarray],
        added: Sequence[Category] = (),
        left_out: set[int] | None = None,
    ) -> bytes:
        """The text of `categories`, changed. What is not changed keeps its bytes.

        Args:
            text_embeddings: float32 (d,) each, by category id: written as `text_emb`, in the shortest digits that give
                the same float32 again.
            added: categories to write behind those of the file.
            left_out: ids of categories to leave out.

        Raises:
            UserError: a category that has a key twice.
        """
        text = bytes(self._top["categories"])
        ids = [category.id for category in self.categories()]
        items = self._decode("categories", list[msgspec.Raw])
        entries = {category_id: bytes(item) for category_id, item in zip(ids, items, strict=True)}
        new = {category.id: _encode(category) for category in added}
        try:
            for category_id, embedding in text_embeddings.items():
                where = entries if category_id in entries else new
                where[category_id] = with_member(where[category_id], "text_emb", _numbers(embedding))
        except ValueError as error:
            raise UserError(f"{self._key}: {self.path}: among its categories, {error}") from None
        if left_out:
            kept = [entry for category_id, entry in entries.items() if category_id not in left_out]
            return b"[" + b", ".join([*kept, *new.values()]) + b"]"
        text = b"".join(replaced(text, zip(item_slices(text, items), entries.values(), strict=True)))
        if not new:
            return text
        return text[: text.rindex(b"]")].rstrip() + b", " * bool(entries) + b", ".join(new.values()) + b"]"

    def keys(self) -> set[str]:
        """The top-level keys of the file."""
        return set(self._top)

    def annotation_keys(self) -> list[AnnotationKeys]:
        """Image, category and id of every annotation, in the file's order; none where the file has no annotations."""
        return self._decode("annotations", list[AnnotationKeys]) if "annotations" in self._top else []

    def annotations(self, category_ids: set[int]) -> list[Annotation]:
        """The annotations of these categories, in the file's order. Others are decoded no further than the category."""
        if "annotations" not in self._top:
            raise UserError(f"{self._key}: {self.path} has no annotations")
        return self._annotations(category_ids, Annotation)

    def boxes(self, category_ids: set[int]) -> list[AnnotatedBox]:
        """The boxes of these categories, in the file's order; none where the file has no annotations."""
        return self._annotations(category_ids, AnnotatedBox) if "annotations" in self._top else []

    def entries(self, name: str, kind: type[T]) -> list[T]:
        """The entries of the top-level list `name`, each decoded as `kind`; none where the file has no such list."""
        return self._decode(name, list[kind]) if name in self._top else []  # type: ignore[valid-type]

    def provenance(self) -> dict[str, Any] | None:
        """What `write_labelled` noted about the making of this file; None for any other file."""
        made = self._info().get("plgen_ddp")
        try:
            return None if made is None else msgspec.json.decode(made, type=dict[str, Any])
        except UNREADABLE:
            return None

    def _annotations(self, category_ids: set[int], kind: type[T]) -> list[T]:
        keys, texts = self.annotation_keys(), self._decode("annotations", list[msgspec.Raw])
        try:
            return [
                msgspec.json.decode(text, type=kind)
                for key, text in zip(keys, texts, strict=True)
                if key.category_id in category_ids
            ]
        except UNREADABLE as error:
            raise UserError(f"{self._key}: {self.path}: an annotation is not COCO's: {error}") from None

    def write_labelled(
        self,
        path: Path,
        base_ids: set[int],
        columns: PseudoLabels,
        provenance: dict[str, Any],
        image_ids: Sequence[int] | None = None,
        *,
        box_score: bool = False,
        categories: bytes | None = None,
    ) -> int:
        """Writes this file with the pseudo labels in the place of every annotation whose category is not base.

        Base annotations, images, categories and other top-level keys keep their bytes. Pseudo labels get negative ids
        under every id of the file. The file appears under its name only when it is complete.

        Args:
            base_ids: ids of the categories whose annotations stay.
            provenance: written into the file's `info`, under "plgen_ddp", with the number of images and the first and
                last id of the pseudo labels: nothing else says for sure which annotations they are.
            image_ids: write only these images and their annotations; all by default.
            box_score: give pseudo labels the key `box_score`.
            categories: from `categories_text`; the file's own by default.

        Returns:
            How many base annotations were kept.

        Raises:
            UserError: no ids are left, or the folder cannot be written.
        """
        keys = self.annotation_keys()
        wanted = None if image_ids is None else set(image_ids)
        stays = [key.category_id in base_ids and (wanted is None or key.image_id in wanted) for key in keys]
        lowest = min((own_id for key in keys if isinstance(own_id := key.id, int)), default=0)
        del keys
        kept = list(itertools.compress(self._decode("annotations", list[msgspec.Raw]) if stays else [], stays))
        first_id = min(lowest, 0) - 1
        if first_id - len(columns) < -(2**63):
            raise UserError(
                f"{self._key}: {self.path} has annotation id {lowest}; no id of 64 bits is left below it for the labels"
            )
        labels = columns.rows(first_id, box_score=box_score)

        parts: dict[str, bytes | msgspec.Raw] = dict(self._top)
        if categories is not None:
            parts["categories"] = categories
        images = self._decode("images", list[msgspec.Raw])
        if wanted is not None:
            of_images = zip(self._decode("images", list[Image]), images, strict=True)
            images = [text for image, text in of_images if image.id in wanted]
            parts["images"] = _encode(images)
        ids = [first_id, first_id + 1 - len(columns)] if len(columns) else []
        parts["info"] = _encode(
            self._info() | {"plgen_ddp": provenance | {"images": len(images), "pseudo_label_ids": ids}}
        )
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

    def write_with_categories(self, path: Path, categories: bytes) -> None:
        """Writes this file with another text of `categories` and all else byte for byte, without a byte order mark.

        Raises:
            UserError: a file that has a key twice, or the folder cannot be written.
        """
        try:
            where = member_slices(self._text, self._top)["categories"]
        except ValueError as error:
            raise UserError(f"{self._key}: {self.path}: {error}") from None
        write_atomically(path, replaced(self._text, [(where, categories)]))

    def _info(self) -> dict[str, Any]:
        try:
            return self._decode("info", dict[str, msgspec.Raw]) if "info" in self._top else {}
        except UserError:  # some datasets keep a string or a list there
            return {"original": self._top["info"]}

    def _decode(self, name: str, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(self._top[name], type=kind)
        except UNREADABLE as error:
            detail = str(error).replace("`$", f"`{name}")
            raise UserError(f"{self._key}: {self.path} is not a COCO-format JSON: {detail}") from None


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _numbers(values: np.ndarray) -> bytes:
    """A JSON list of float32 numbers, each in the fewest digits that name it."""
    return f"[{', '.join(values.astype(np.float32).astype(str).tolist())}]".encode()


def _chunks(kept: list[msgspec.Raw], labels: Iterator[PseudoLabel], size: int = 10_000) -> Iterator[list[Any]]:
    """Lists of at most `size` entries, none of them empty: a whole train2017 in one buffer would double the memory."""
    for start in range(0, len(kept), size):
        yield kept[start : start + size]
    while chunk := list(itertools.islice(labels, size)):
        yield chunk
