"""What a PNG file says before it is decoded, and whether its checksums are right."""

import zlib
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIECE = 1 << 20  # bytes that are inflated at a time
# Encoders write chunks of 8 KB and more; a file that consists of empty ones would keep a decoder busy.
_MOST_CHUNKS = 100_000


def is_png(data: bytes) -> bool:
    """Whether the bytes begin as a PNG does."""
    return data.startswith(_SIGNATURE)


def png_is_cut_off(data: bytes) -> bool:
    """Whether a PNG stops before its last chunk."""
    return b"IEND" not in data


def png_size(data: bytes) -> tuple[int, int] | None:
    """(height, width); None where the first chunk does not say it."""
    if data[12:16] != b"IHDR" or len(data) < 24:
        return None
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


def png_damage(data: bytes) -> str | None:
    """What is wrong with a whole PNG: the checksum of a chunk, or pixels that are not all there; else None."""
    inflate = zlib.decompressobj()
    for number, (start, end) in enumerate(_chunks(data)):
        if number == _MOST_CHUNKS:
            return f"more than {_MOST_CHUNKS} chunks"
        kind = data[start - 4 : start]
        if zlib.crc32(memoryview(data)[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return f"wrong checksum in chunk {kind.decode('latin-1')!r}"
        try:
            rest = data[start:end] if kind == b"IDAT" else b""
            while rest and not inflate.eof:
                inflate.decompress(rest, _PIECE)
                rest = inflate.unconsumed_tail
        except zlib.error as error:
            return str(error)
        if kind == b"IEND":
            return None if inflate.eof else "the pixels end early"
    return "chunks of wrong length"


def _chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """(first, one past the last) position of the content of each chunk whose checksum is in the file too."""
    position = len(_SIGNATURE)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if position + 12 + length > len(data):
            return
        yield position + 8, position + 8 + length
        position += 12 + length
