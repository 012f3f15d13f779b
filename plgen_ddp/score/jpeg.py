"""What a JPEG file says before it is decoded, and whether libjpeg warns when it is."""

import re
from collections.abc import Iterator

import simplejpeg

_START_OF_SCAN = 0xDA
# Start of frame, ITU T.81 table B.1: C4, C8 and CC between them are tables.
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
# Larger counts are no camera's: a file that consists of headers or of scans would keep a decoder busy for hours.
_MOST_SEGMENTS = 10_000
_MOST_SCANS = 100

_AFTER_FILL = re.compile(rb"[^\xff]")


def is_jpeg(data: bytes) -> bool:
    """Whether the bytes begin as a JPEG does."""
    return data.startswith(b"\xff\xd8")


def jpeg_is_cut_off(data: bytes) -> bool:
    """Whether a JPEG stops before its end marker. Decoders fill the rest with gray.

    The marker is looked for behind the headers, past an embedded thumbnail with markers of its own; it cannot occur
    inside a scan's data (ITU T.81, B.1.1).
    """
    scans = _scans(data)
    return scans is None or data.find(b"\xff\xd9", scans) < 0


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) as stored, before any EXIF orientation; None where no header says it."""
    for marker, position in _segments(data):
        if marker in _START_OF_FRAME:
            size = data[position + 3 : position + 7]
            return (int.from_bytes(size[:2], "big"), int.from_bytes(size[2:], "big")) if len(size) == 4 else None
    return None


def jpeg_damage(data: bytes) -> str | None:
    """libjpeg's first warning or error about a whole JPEG; None where it has none.

    The file is decoded to an eighth of its size: every bit of it is read, and few pixels are made. The rare
    subsamplings that the library does not know are not checked.
    """
    if (start := _scans(data)) is not None:
        others = data.count(b"\xff\xda", start, data.find(b"\xff\xd9", start))
        if others >= _MOST_SCANS:
            return f"more than {_MOST_SCANS} scans"
    try:
        colours = simplejpeg.decode_jpeg_header(data, strict=False)[2]
    except (ValueError, KeyError):
        return None
    form = "CMYK" if colours in ("CMYK", "YCCK") else "GRAY"
    small = {"min_height": 1, "min_width": 1, "min_factor": 8}
    try:
        simplejpeg.decode_jpeg(data, form, fastdct=True, fastupsample=True, strict=True, **small)
    except ValueError as error:
        return str(error)
    return None


def _scans(data: bytes) -> int | None:
    """The position behind the first scan's marker; None where there is none."""
    return next((position for marker, position in _segments(data) if marker == _START_OF_SCAN), None)


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, position behind it) up to the first scan. As in libjpeg, bytes that belong to no segment are skipped."""
    position = 2
    for _ in range(_MOST_SEGMENTS):
        start = data.find(b"\xff", position)
        found = _AFTER_FILL.search(data, start) if start >= 0 else None
        if found is None:
            return
        marker, position = data[found.start()], found.end()
        if marker == 0:
            continue
        yield marker, position
        if marker == _START_OF_SCAN:
            return
        if marker not in _WITHOUT_LENGTH:
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
