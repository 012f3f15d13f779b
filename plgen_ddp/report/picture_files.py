"""Opens image files for people to look at, with the checks of a scoring."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from plgen_ddp.image_rules import ImageRules
from plgen_ddp.safe_reading import UnreadableImageError, open_image

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What `open_picture` and decoding its image raise."""


@contextlib.contextmanager
def open_picture(path: Path, root: str, rules: ImageRules) -> Iterator[Image.Image]:
    """An image file as Pillow opens it, not decoded yet, with the checks of a scoring.

    Raises:
        UNREADABLE: the file may not be read, is no image, or has too many pixels.
    """
    with open_image(path, root, rules) as file, Image.open(file) as image:
        if image.width * image.height > rules.max_pixels:
            raise UnreadableImageError(f"more pixels than data.max_pixels={rules.max_pixels}")
        yield image
