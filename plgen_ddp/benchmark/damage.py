"""Which damage of image files is noticed: each file is damaged in several ways, and decoded as scoring decodes it.

    python -m plgen_ddp.benchmark.damage coco/val2017
    python -m plgen_ddp.benchmark.damage coco/val2017 --trials 4 --images 159 --seed 0

Positions are drawn from the seed, anywhere in the file. A trial is unseen if the file decodes to the right size without
a warning. It spoils the image if a colour of more than a hundredth of the pixels differs by more than 16 of 255. The
project's README has the results for COCO's photos.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plgen_ddp.benchmark.tables import markdown
from plgen_ddp.console import one_line_errors, print_line
from plgen_ddp.errors import UserError
from plgen_ddp.image_folder import find_images
from plgen_ddp.image_rules import DEFAULT_RULES
from plgen_ddp.safe_reading import read_image
from plgen_ddp.score.decode import DecodeError, decode_bgr

# What the eye sees as another picture, rather than as another quantisation of the same one.
_DIFFERENT = 16
_SPOILT = 0.01

Damage = Callable[[bytes, np.random.Generator], bytes]


def flipped_bit(data: bytes, chance: np.random.Generator) -> bytes:
    """One bit of the file is another, as after an error of memory."""
    damaged = bytearray(data)
    damaged[int(chance.integers(len(data)))] ^= 1 << int(chance.integers(8))
    return bytes(damaged)


def zeroed(length: int) -> Damage:
    """`length` bytes in a row are zero, as in a hole of a disk or a transfer."""

    def damage(data: bytes, chance: np.random.Generator) -> bytes:
        start = int(chance.integers(max(1, len(data) - length)))
        return data[:start] + bytes(min(length, len(data) - start)) + data[start + length :]

    return damage


def halved(data: bytes, chance: np.random.Generator) -> bytes:
    """The second half is missing, but for JPEG's end marker."""
    return data[: len(data) // 2] + b"\xff\xd9"


DAMAGES: dict[str, Damage] = {
    "one bit flipped": flipped_bit,
    "16 bytes zeroed": zeroed(16),
    "512 bytes zeroed": zeroed(512),
    "4096 bytes zeroed": zeroed(4096),
    "second half missing": halved,
}


@dataclass(slots=True)
class Found:
    """How many trials of a damage there were, how many went unseen, and how many of these spoil the image."""

    trials: int = 0
    unseen: int = 0
    spoilt: int = 0


def try_damages(folder: Path, images: int | None, trials: int, seed: int) -> dict[str, Found]:
    """Damages the images of a folder, each `trials` times in every way.

    Args:
        images: how many, the first ones in the order of their paths; None: all.

    Returns:
        What was found, by the damage's name.

    Raises:
        UserError: no such folder, or no image in it that is whole.
    """
    found = {name: Found() for name in DAMAGES}
    chance = np.random.default_rng(seed)
    for image in find_images(folder).images[:images]:
        size = (image["height"], image["width"])
        data = read_image(folder / image["file_name"], folder, DEFAULT_RULES)
        try:
            whole = decode_bgr(data, *size)
        except DecodeError:
            continue
        for name, damage in DAMAGES.items():
            for _ in range(trials):
                _try(found[name], whole, damage(data, chance))
    if not found["one bit flipped"].trials:
        raise UserError(f"no image in {folder} is whole")
    return found


def _try(found: Found, whole: np.ndarray, damaged: bytes) -> None:
    found.trials += 1
    try:
        pixels = decode_bgr(damaged, *whole.shape[:2])
    except DecodeError:
        return
    found.unseen += 1
    differs = np.abs(pixels.astype(np.int16) - whole).max(axis=2) > _DIFFERENT
    found.spoilt += bool(differs.mean() > _SPOILT)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of images")
    parser.add_argument("--images", type=int, metavar="N", help="the first N images (all)")
    parser.add_argument("--trials", type=int, default=4, metavar="N", help="of each damage an image (4)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the positions (0)")
    options = parser.parse_args(words)
    with one_line_errors():
        found = try_damages(options.folder, options.images, options.trials, options.seed)
        columns: dict[str, Callable[[str], str]] = {
            "damage": str,
            "trials": lambda name: f"{found[name].trials}",
            "unseen": lambda name: f"{found[name].unseen / found[name].trials:.0%}",
            "unseen and spoilt": lambda name: f"{found[name].spoilt / found[name].trials:.0%}",
        }
        for line in markdown(columns, list(found)).splitlines():
            print_line(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
