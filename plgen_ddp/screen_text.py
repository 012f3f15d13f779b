"""Texts as they may be shown: what others wrote cannot move the cursor, colour, forge a line or fill the screen."""

import unicodedata

# Characters of one printed line, of a mistake's message, and of one name in a table.
LINE = 65_536
MESSAGE = 2_000
NAME = 120
# Characters that `str.isprintable` refuses and that scripts or emoji need: spaces, and the two joiners.
_HARMLESS = ("Zs",)
_JOINERS = "\u200c\u200d"


def visible(text: str, limit: int = LINE) -> str:
    """The text on one line: control characters, line ends, changes of direction and lone surrogates as escapes.

    Args:
        limit: characters; of a longer text, the middle is left out.
    """
    text = shortened(text, limit)
    return text if text.isprintable() else "".join(map(_visible_character, text))


def visible_lines(text: str) -> str:
    """The same, with the line ends kept."""
    return "\n".join(visible(line) for line in text.split("\n"))


def visible_name(name: str) -> str:
    """A name as part of a line or a cell of a table."""
    return visible(name, NAME)


def shortened(text: str, limit: int) -> str:
    """The text, or its beginning and end with how much was left out between them."""
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 4
    return f"{text[:head]}[... {len(text) - head - tail} characters ...]{text[-tail:]}"


def encodable(text: str, encoding: str) -> str:
    """The text with characters that the encoding lacks as escapes; ASCII terminals show it too."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _visible_character(character: str) -> str:
    if character.isprintable() or character in _JOINERS or unicodedata.category(character) in _HARMLESS:
        return character
    if "\udc80" <= character <= "\udcff":  # a byte of a path that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
