"""From a file's bytes to pixels: whole images of the expected size, or the reason why not."""

import cv2
import numpy as np


class DecodeError(ValueError):
    """The bytes are no whole image of the expected size; the message says what they are."""


def decode_bgr(data: bytes, height: int, width: int) -> np.ndarray:
    """Decodes an encoded image to BGR.

    Gray, 16-bit, palette and CMYK images become 8-bit colour, an alpha channel is dropped. The EXIF orientation is
    applied, as detectron2's and OpenCV's readers do, unless only the stored orientation has the expected size.

    Args:
        data: the file's bytes, in any format that OpenCV reads.
        height, width: what the dataset says, in pixels.

    Returns:
        uint8 (height, width, 3).

    Raises:
        DecodeError: empty, truncated, no image, or of another size.
    """
    if not data:
        raise DecodeError("empty file")
    if _is_cut_off(data):
        raise DecodeError("truncated file")
    encoded = np.frombuffer(data, np.uint8)
    pixels = _imdecode(encoded, cv2.IMREAD_COLOR)
    if pixels.shape[:2] != (height, width):
        stored = _imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if stored.shape[:2] != (height, width):
            raise DecodeError(f"size is {pixels.shape[1]} x {pixels.shape[0]}, the dataset says {width} x {height}")
        pixels = stored
    return pixels


def _imdecode(encoded: np.ndarray, flags: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(encoded, flags)
    except cv2.error as error:  # for example more pixels than OpenCV's own limit
        raise DecodeError(f"not decodable: {error.err}") from None
    if pixels is None:
        raise DecodeError("not an image that OpenCV can decode")
    return pixels


def _is_cut_off(data: bytes) -> bool:
    """Whether a JPEG or PNG stops before its end marker. OpenCV would fill the rest with gray and say nothing.

    A JPEG's segments are walked up to the first scan, past an embedded thumbnail with markers of its own. Behind that
    there must be an end-of-image, which cannot occur inside a scan's data (ITU T.81, B.1.1).
    """
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    if not data.startswith(b"\xff\xd8"):
        return False
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return False  # not a segment: the decoder shall say what it is
        marker = data[position + 1]
        if marker == 0xDA:  # start of scan
            return data.find(b"\xff\xd9", position) < 0
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a segment
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return True
