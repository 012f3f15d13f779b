"""YAML that others wrote, read within limits: a few lines of it can mean billions of values, or a stack's end.

Plain values only; tags of Python objects are refused.
"""

from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader
from yaml import MarkedYAMLError, ScalarNode, YAMLError

from plgen_ddp.errors import UserError, one_line
from plgen_ddp.files import url_scheme

# Of a file: bytes, values after the aliases are replaced, mappings and lists inside each other, characters of a number.
MAX_BYTES = 32 << 20
MAX_VALUES = 1_000_000
MAX_DEPTH = 32
MAX_DIGITS = 100
# Files that a config names as its bases, and those name as theirs.
MAX_BASES = 10


class _Loader(get_yaml_loader()):  # type: ignore[misc]
    """OmegaConf's loader, which refuses a key that is there twice, within the limits."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._open = 0
        self._measured: dict[int, tuple[int, int]] = {}  # id of a node: values, and depth, below and with it

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._open += 1
        mark = self.peek_event().start_mark
        if self._open > MAX_DEPTH:
            raise _beyond(f"more than {MAX_DEPTH} levels of mappings and lists", mark)
        node = super().compose_node(parent, index)
        values, depth = self._size(node, mark)
        if self._open - 1 + depth > MAX_DEPTH:
            raise _beyond(f"more than {MAX_DEPTH} levels of mappings and lists", mark)
        if values > MAX_VALUES:
            raise _beyond(f"more than {MAX_VALUES} values after its aliases are replaced", mark)
        self._open -= 1
        return node

    def _size(self, node: Any, mark: Any) -> tuple[int, int]:
        if (known := self._measured.get(id(node))) is not None:
            return known
        if isinstance(node, ScalarNode):
            if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_DIGITS:
                raise _beyond(f"a number of {len(node.value)} characters", mark)
            below = []
        elif isinstance(node, yaml.MappingNode):
            below = [one for pair in node.value for one in pair]
        else:
            below = node.value
        sizes = [self._measured.get(id(one)) for one in below]
        if None in sizes or (not isinstance(node, ScalarNode) and node.end_mark is None):
            raise _beyond("an alias inside its own value", mark)
        known = 1 + sum(size[0] for size in sizes if size), 1 + max((size[1] for size in sizes if size), default=0)
        self._measured[id(node)] = known
        return known


def _beyond(what: str, mark: Any) -> YAMLError:
    return MarkedYAMLError(problem=f"it holds {what}", problem_mark=mark)


def parse_yaml(text: str) -> Any:
    """The plain values that a YAML text holds; None of an empty one.

    Raises:
        YAMLError: it is no YAML, or beyond a limit.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except (ValueError, TypeError, OverflowError, RecursionError) as error:  # such as a !!int that is none
        raise YAMLError(one_line(error)) from None
    finally:
        loader.dispose()


def load_yaml(path: Path) -> Any:
    """The plain values of a YAML file.

    Raises:
        YAMLError, UnicodeDecodeError, OSError: it cannot be read, or is beyond a limit.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise YAMLError(f"it has more than {MAX_BYTES >> 20} MB")
    return parse_yaml(content.decode("utf-8"))


def load_with_bases(path: Path, key: str) -> dict[str, Any]:
    """A detectron2 configuration: its values, over those of the file or files under its `_BASE_`.

    Args:
        key: the option that named the file, for messages.

    Raises:
        UserError: unreadable, more files than `MAX_BASES`, or one that leads back to itself.
    """
    return _with_bases(path, key, (), [])


def _with_bases(path: Path, key: str, readers: tuple[Path, ...], read: list[Path]) -> dict[str, Any]:
    if path.resolve() in readers:
        raise UserError(f"{key}: _BASE_ in {readers[-1]}: {path} leads back to itself; remove one of them")
    read.append(path)
    if len(read) > 1 + MAX_BASES:
        raise UserError(f"{key}: {read[0]} has more than {MAX_BASES} files below its _BASE_; merge some of them")
    try:
        content = load_yaml(path)
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{key}: {path} is not a detectron2 config: {reason(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{key}: {path} is not a detectron2 config: it does not hold a mapping")
    bases = content.pop("_BASE_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{key}: _BASE_ in {path} is no file and no list of files")
    values: dict[str, Any] = {}
    for base in bases:
        if url_scheme(base):
            raise UserError(f"{key}: _BASE_: {base} is a URL, and only files are read: download it and name the file")
        below = _with_bases(path.parent / Path(base).expanduser(), key, (*readers, path.resolve()), read)
        values = _merged(values, below)
    return _merged(values, content)


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def reason(error: Exception) -> str:
    """Why a YAML cannot be read, on one line, with the line's number. PyYAML adds excerpts."""
    if isinstance(error, MarkedYAMLError) and error.problem:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return f"line {line}: {one_line(Exception(error.problem))}"
    return one_line(error)
