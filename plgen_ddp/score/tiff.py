"""What a TIFF file says before it is decoded. Pillow knows fewer of its kinds than OpenCV."""

_ORDERS = {b"II": "little", b"MM": "big"}
_WIDTH, _HEIGHT = 256, 257
_LENGTHS = {3: 2, 4: 4, 16: 8}  # bytes of a SHORT, LONG, LONG8


def is_tiff(data: bytes) -> bool:
    """Whether the bytes begin as a TIFF or a BigTIFF does."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def tiff_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of the first image as stored, the largest that its directory says; None where it says none."""
    order = _ORDERS[data[:2]]
    big = b"+" in data[2:4]

    def number(position: int, length: int) -> int:
        return int.from_bytes(data[position : position + length], order)  # type: ignore[arg-type]

    directory = number(8, 8) if big else number(4, 4)
    first, length, value = (8, 20, 12) if big else (2, 12, 8)
    sizes = {_WIDTH: 0, _HEIGHT: 0}
    for place in range(min(number(directory, first), 10_000)):
        entry = directory + first + place * length
        tag = number(entry, 2)
        if tag in sizes and (bytes_of_value := _LENGTHS.get(number(entry + 2, 2))):
            sizes[tag] = max(sizes[tag], number(entry + value, bytes_of_value))
    return (sizes[_HEIGHT], sizes[_WIDTH]) if all(sizes.values()) else None
