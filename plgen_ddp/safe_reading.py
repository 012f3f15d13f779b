"""Opens image files that nobody has checked: regular ones only, of a bounded size, inside the image root."""

import errno
import os
from pathlib import Path
from typing import BinaryIO

from plgen_ddp.files import open_regular
from plgen_ddp.image_rules import ImageRules


class UnreadableImageError(OSError):
    """A file that may not be read as an image; `strerror` is the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EPERM, reason)


def open_image(path: Path, root: str | Path, rules: ImageRules) -> BinaryIO:
    """Opens a file, and waits for nobody.

    Args:
        root: the image root, which `path` begins with.

    Raises:
        OSError: no such file, or one that may not be read; an `UnreadableImageError` where `rules` forbid it.
    """
    if not rules.follow_links and (target := target_outside(path, root)) is not None:
        raise UnreadableImageError(f"a link out of the image root, to {target!r}; data.follow_links=true follows it")
    file = open_regular(path)
    if (size := os.fstat(file.fileno()).st_size) > rules.max_bytes:
        file.close()
        raise UnreadableImageError(f"{size} bytes are more than data.max_bytes={rules.max_bytes}")
    return file


def read_image(path: Path, root: str | Path, rules: ImageRules) -> bytes:
    """The content of an image file, at most `rules.max_bytes` of it; raises as `open_image` does."""
    with open_image(path, root, rules) as file:
        return file.read(os.fstat(file.fileno()).st_size)  # and no more, should it grow


def target_outside(path: Path, root: str | Path) -> str | None:
    """Where the symbolic links of a path lead, if they leave `root`. `root` itself may be a link."""
    real = os.path.realpath(path)
    return None if Path(real).is_relative_to(os.path.realpath(root)) else real
