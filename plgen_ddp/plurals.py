"""Numbers of things in words: 1 image, 2 images."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """The number with its word.

    Args:
        one: the word behind 1, or several: "image is". many: behind any other number; `one` with an s by default.
    """
    return f"{number} {one if number == 1 else many or one + 's'}"


def are(number: int) -> str:
    """The verb behind a number of things."""
    return "is" if number == 1 else "are"
