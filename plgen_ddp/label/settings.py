"""The settings of a sweep: ranges and lists of values for options of `label`, every combination of them."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import Field, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args, get_origin

from plgen_ddp.config import Config, ignored_with, load_config
from plgen_ddp.errors import UserError
from plgen_ddp.label.plan import LABELLING_REQUIRES
from plgen_ddp.options import options_of

MOST = 2000
"""The most settings of one sweep."""

_FIXED = ("label.annotations", "label.allow_partial", "label.output")
_NUMBER = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d{1,3})?"
_RANGE = re.compile(f"({_NUMBER}):({_NUMBER}):({_NUMBER})")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a sweep. values: of the swept options, as they would be written on the command line."""

    config: Config
    values: dict[str, str]


def read_settings(name_or_path: str | Path, words: Sequence[str]) -> list[Setting]:
    """Every combination of the values that the words give, the last option changing fastest.

    An option of `label` is swept where it has a range `start:stop:step` (with its end) or several values: after commas,
    or the option given again. Where a value itself is a list or a mapping, commas part values in brackets.

    Args:
        name_or_path: the config.
        words: `section.key=value`.

    Raises:
        UserError: no option is swept, an empty range, too many settings, or what `load_config` raises of one of them.
    """
    options = options_of(Config)
    fixed, values = [], dict[str, list[str]]()
    for word in words:
        key, equals, text = word.partition("=")
        if equals and key.startswith("label.") and key in options:
            values.setdefault(key, []).extend(_values(key, text, options[key]))
        else:
            fixed.append(word)
    swept = {key: list(dict.fromkeys(texts)) for key, texts in values.items()}
    fixed += [f"{key}={texts[0]}" for key, texts in swept.items() if len(texts) == 1]
    swept = {key: texts for key, texts in swept.items() if len(texts) > 1}
    if not swept:
        load_config(name_or_path, fixed, effective=False)  # a misspelt option is the more likely mistake
        raise UserError(
            "no option of label has several values; give a range or a list, such as "
            "label.score_threshold=0.1:0.95:0.05 label.objectness_weight=0,0.5"
        )
    for key in _FIXED:
        if key in swept:
            raise UserError(f"{key} decides no label; give it one value")
    settings = [dict(zip(swept, chosen, strict=True)) for chosen in itertools.product(*swept.values())]
    if len(settings) > MOST:
        raise UserError(f"{' '.join(swept)}: {len(settings)} settings; at most {MOST} at once")
    found = [
        Setting(load_config(name_or_path, [*fixed, *_words(chosen)], LABELLING_REQUIRES, effective=False), chosen)
        for chosen in settings
    ]
    for key in swept:
        takes = {ignored_with(setting.config.label, key) for setting in found}
        if None not in takes:
            raise UserError(f"{key} decides nothing in any of these settings; add label.threshold={takes.pop()}")
    return found


def _words(values: dict[str, str]) -> list[str]:
    return [f"{key}={text}" for key, text in values.items()]


def _values(key: str, text: str, option: "Field[Any]") -> list[str]:
    """The values that a word gives an option."""
    lookup = option.metadata.get("file")
    numeric = {int, float} & {option.type, *get_args(option.type)} or (lookup is not None and lookup.numbers)
    if numeric and (match := _RANGE.fullmatch(text)):
        return _range(key, *match.groups())
    holds_lists = get_origin(option.type) is tuple or (lookup is not None and lookup.names)
    if holds_lists and not text.startswith(("[", "{")):
        return [text]
    return _split(text)


def _range(key: str, start: str, stop: str, step: str) -> list[str]:
    # Decimals: 0.1 + 0.05 + 0.05 shall be 0.2.
    first, last, width = Decimal(start), Decimal(stop), Decimal(step)
    if width <= 0 or last < first:
        raise UserError(f"{key}: {start}:{stop}:{step} holds no value; write start:stop:step with a step above 0")
    count = int((last - first) / width) + 1
    if count > MOST:
        raise UserError(
            f"{key}: {start}:{stop}:{step} holds {Decimal(count):.6g} values; at most {MOST} settings at once"
        )
    return [f"{(first + number * width).normalize():f}" for number in range(count)]


def _split(text: str) -> list[str]:
    """The text at its commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]
