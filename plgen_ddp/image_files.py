"""Where the images of a dataset lie on disk: COCO's usual layouts, one index for all ranks, a digest."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plgen_ddp.coco import Image
from plgen_ddp.errors import UserError
from plgen_ddp.safe_reading import target_outside


@dataclass(frozen=True, slots=True)
class ImageIndex:
    """The images of a dataset in ascending id, compact enough to be sent to every rank.

    Attributes:
        root: the image root.
        image_ids: int64 (n,), ascending.
        heights, widths: int32 (n,), pixels.
        paths: bytes (n,), UTF-8, relative to `root`.
    """

    root: str
    image_ids: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    paths: np.ndarray

    def __len__(self) -> int:
        return len(self.image_ids)

    def path(self, position: int) -> Path:
        """The file of the image at a position of the index."""
        return Path(self.root, self.paths[position].decode())

    def first(self, count: int | None) -> "ImageIndex":
        """The index of the first `count` images; of all for None."""
        return ImageIndex(
            self.root, self.image_ids[:count], self.heights[:count], self.widths[:count], self.paths[:count]
        )


def index_images(
    images: Sequence[Image], image_root: str, annotations: Path, *, follow_links: bool = False
) -> ImageIndex:
    """Decides, once for the dataset, where under `image_root` its files lie.

    Tried on images spread evenly over the dataset; the layout with most files found is taken, the earlier one in a tie.

    Args:
        follow_links: whether symbolic links may lead out of the image root. Otherwise an image behind one cannot be
            read later, and a dataset whose images are all behind one is refused here.

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
    if not follow_links:
        _check_links([root / place(image) for image in sample], image_root)
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


def _check_links(sample: Sequence[Path], image_root: str) -> None:
    """A split that is a link to another disk is common; only the user knows whether it is meant."""
    targets = [target_outside(path, image_root) for path in sample if os.path.isfile(path)]  # noqa: PTH113
    if targets and None not in targets:
        raise UserError(
            f"data.image_root: links in {image_root} lead out of it, to {targets[0]}; if that is meant, add "
            "data.follow_links=true"
        )


def _url_folder(image: Image) -> str | None:
    """`train2017` of http://images.cocodataset.org/train2017/000000000009.jpg."""
    parts = (image.coco_url or "").split("/")
    return parts[-2] if len(parts) >= 2 else None


def _join(*parts: str | None) -> str:
    return "/".join(part for part in parts if part)


def _stays_inside(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/") and "\0" not in path
