"""Changes one value in a JSON text and leaves every other byte as it is.

Raw values of msgspec say how long each value is; the few bytes between them are read here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises of a text that is no JSON, or JSON thousands of levels deep."""

_KEY = re.compile(rb'[ \t\r\n]*[{,][ \t\r\n]*("(?:[^"\\]|\\.)*")[ \t\r\n]*:[ \t\r\n]*', re.DOTALL)
_END = re.compile(rb"[ \t\r\n]*\}")
_BEFORE_ITEM = re.compile(rb"[ \t\r\n]*[\[,][ \t\r\n]*")


def member_slices(text: bytes, members: Mapping[str, msgspec.Raw]) -> dict[str, slice]:
    """Where the values of an object lie in its text.

    Args:
        text: a JSON object.
        members: `text`, decoded.

    Raises:
        ValueError: the object has a key twice.
    """
    found, end = {}, 0
    for name, value in members.items():
        key = _KEY.match(text, end)
        if key is None or msgspec.json.decode(key[1]) != name:
            raise ValueError("an object has a key twice")
        end = key.end() + memoryview(value).nbytes
        found[name] = slice(key.end(), end)
    if members and _END.match(text, end) is None:
        raise ValueError("an object has a key twice")
    return found


def item_slices(text: bytes, items: Sequence[msgspec.Raw]) -> list[slice]:
    """Where the items of an array lie in its text.

    Args:
        text: a JSON array.
        items: `text`, decoded.
    """
    found, end = [], 0
    for item in items:
        before = _BEFORE_ITEM.match(text, end)
        assert before is not None, "msgspec has read this array"
        end = before.end() + memoryview(item).nbytes
        found.append(slice(before.end(), end))
    return found


def with_member(text: bytes, name: str, value: bytes) -> bytes:
    """An object's text with the value of `name` replaced, or added behind the others where it has none.

    Args:
        text: a JSON object with one key or more.
        value: JSON.

    Raises:
        ValueError: the object has a key twice.
    """
    members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    if name in members:
        return b"".join(replaced(text, [(member_slices(text, members)[name], value)]))
    behind = len(text[: text.rindex(b"}")].rstrip())
    return text[:behind] + b", " + msgspec.json.encode(name) + b": " + value + text[behind:]


def replaced(text: bytes, changes: Iterable[tuple[slice, bytes]]) -> Iterator[bytes]:
    """The text in pieces, with these slices, ascending and apart, replaced."""
    view, end = memoryview(text), 0
    for where, new in changes:
        yield bytes(view[end : where.start])
        yield new
        end = where.stop
    yield bytes(view[end:])
