"""From a file's bytes to pixels: whole images of the expected size, or the reason why not."""

import io
import warnings

import cv2
import numpy as np
from PIL import Image

from plgen_ddp.image_rules import DEFAULT_RULES, ImageRules
from plgen_ddp.score.jpeg import is_jpeg, jpeg_damage, jpeg_is_cut_off, jpeg_size
from plgen_ddp.score.png import is_png, png_damage, png_is_cut_off, png_size
from plgen_ddp.score.tiff import is_tiff, tiff_size

# Beside JPEG, PNG and TIFF: what both Pillow, which is asked for the size, and OpenCV read.
_FORMATS = ("WEBP", "BMP", "DIB", "GIF", "JPEG2000", "PPM", "AVIF")


class DecodeError(ValueError):
    """The bytes are no whole image of the expected size; the message says what they are."""


def decode_bgr(data: bytes, height: int, width: int, rules: ImageRules = DEFAULT_RULES) -> np.ndarray:
    """Decodes an encoded image to BGR. What its header says is checked before memory is taken for its pixels.

    Gray, 16-bit, palette and CMYK images become 8-bit colour, an alpha channel is dropped. The EXIF orientation is
    applied, as detectron2's and OpenCV's readers do, unless only the stored orientation has the expected size.

    Args:
        data: the file's bytes: JPEG, PNG, TIFF, WebP, BMP, GIF, JPEG 2000, PPM or AVIF.
        height, width: what the dataset says, in pixels.
        rules: the largest number of pixels, and whether damaged images are taken.

    Returns:
        uint8 (height, width, 3).

    Raises:
        DecodeError: empty, truncated, damaged, no image, too large, or of another size.
    """
    _check_header(data, height, width, rules)
    if rules.damaged == "refuse" and (damage := _damage(data)):
        raise DecodeError(f"damaged: {damage}; data.damaged=accept takes it as decoded")
    encoded = np.frombuffer(data, np.uint8)
    pixels = _imdecode(encoded, cv2.IMREAD_COLOR)
    if pixels.shape[:2] != (height, width):
        upright = pixels.shape
        del pixels
        pixels = _imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels.shape[:2] != (height, width):
            raise DecodeError(f"size is {upright[1]} x {upright[0]}, the dataset says {width} x {height}")
    return pixels


def _check_header(data: bytes, height: int, width: int, rules: ImageRules) -> None:
    if not data:
        raise DecodeError("empty file")
    if (is_jpeg(data) and jpeg_is_cut_off(data)) or (is_png(data) and png_is_cut_off(data)):
        raise DecodeError("truncated file")
    size = _stored_size(data)
    if size is None:
        raise DecodeError("not an image of a known format")
    if size[0] * size[1] > rules.max_pixels:
        raise DecodeError(f"{size[1]} x {size[0]} pixels are more than data.max_pixels={rules.max_pixels}")
    if size not in ((height, width), (width, height)):
        raise DecodeError(f"size is {size[1]} x {size[0]}, the dataset says {width} x {height}")


def _stored_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) that the header says, before any EXIF orientation; None where it says none."""
    for matches, size in ((is_jpeg, jpeg_size), (is_png, png_size), (is_tiff, tiff_size)):
        if matches(data):
            return size(data)
    # Both only where the user allows this number of pixels.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return image.height, image.width
    except Image.DecompressionBombError as error:
        raise DecodeError(str(error)) from None
    except (OSError, ValueError, SyntaxError):
        return None


def _damage(data: bytes) -> str | None:
    if is_jpeg(data):
        return jpeg_damage(data)
    return png_damage(data) if is_png(data) else None


def _imdecode(encoded: np.ndarray, flags: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(encoded, flags)
    except cv2.error as error:  # for example more pixels than OpenCV's own limit
        raise DecodeError(f"not decodable: {error.err}") from None
    if pixels is None:
        raise DecodeError("not an image that OpenCV can decode")
    return pixels
