"""One value of a JSON text changes; every other byte stays."""

import json
import random

import msgspec
import pytest

from plgen_ddp.json_text import item_slices, member_slices, replaced, with_member

# What a careless reader of JSON trips over: quotes, brackets, commas and backslashes in texts, and all kinds of values.
TEXTS = ["", "a", '"', "\\", '\\"', "}", "]", ",", ":", "{", '{"a": 1', "\u00e4", "\u4e2d\U0001f600", "\n", "x y"]
VALUES = [*TEXTS, None, True, 0, -1.5e-9, 12345678901234567890, [], {}, [1, ["]", {}]], {"}": {"a": ['"']}}]


def written(draw, values):
    """JSON of an object or array, in bytes, with spaces anywhere between its parts."""

    def space():
        return "".join(draw.choices(" \t\n\r", k=draw.randrange(3)))

    def encoded(value):
        return json.dumps(value, ensure_ascii=draw.random() < 0.5)

    keyed = isinstance(values, dict)
    if keyed:
        parts = [f"{encoded(key)}{space()}:{space()}{encoded(value)}" for key, value in values.items()]
    else:
        parts = [encoded(value) for value in values]
    inside = ",".join(f"{space()}{part}{space()}" for part in parts) or space()
    return (space() + ("{%s}" if keyed else "[%s]") % inside + space()).encode()


def test_the_values_of_an_object_are_found_wherever_there_is_space():
    draw = random.Random(0)
    for _ in range(500):
        values = {key: draw.choice(VALUES) for key in draw.sample(TEXTS, draw.randrange(5))}
        text = written(draw, values)
        found = member_slices(text, msgspec.json.decode(text, type=dict[str, msgspec.Raw]))
        assert {name: json.loads(text[where]) for name, where in found.items()} == values


def test_the_items_of_an_array_are_found_wherever_there_is_space():
    draw = random.Random(0)
    for _ in range(500):
        values = draw.choices(VALUES, k=draw.randrange(5))
        text = written(draw, values)
        found = item_slices(text, msgspec.json.decode(text, type=list[msgspec.Raw]))
        assert [json.loads(text[where]) for where in found] == values


def test_a_member_is_added_behind_the_others_or_replaced_in_its_place():
    text = b'{ "a" : 1.50 ,\n "x": [2, "}"] , "b":{"x": 3}\n}'
    assert with_member(text, "x", b"9") == b'{ "a" : 1.50 ,\n "x": 9 , "b":{"x": 3}\n}'
    assert with_member(text, "y", b"9") == b'{ "a" : 1.50 ,\n "x": [2, "}"] , "b":{"x": 3}, "y": 9\n}'


def test_slices_are_replaced_from_left_to_right():
    assert b"".join(replaced(b"0123456789", [(slice(0, 2), b"ab"), (slice(5, 5), b"-"), (slice(9, 10), b"")])) == (
        b"ab234-5678"
    )


@pytest.mark.parametrize("text", [b'{"a":1,"a":2}', b'{"a":1,"b":1,"a":22}', b'{"a":1,"b":2,"b":3}'])
def test_a_key_that_is_there_twice_is_refused(text):
    with pytest.raises(ValueError, match="a key twice"):
        member_slices(text, msgspec.json.decode(text, type=dict[str, msgspec.Raw]))
