"""How options are declared, read from YAML and the command line, and checked. It knows no option itself.

Options are fields of frozen dataclasses, the sections; a schema is a dataclass of sections. Each field has its default,
its type, and a docstring. OmegaConf converts values to the types.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from plgen_ddp.errors import UserError, suggestion
from plgen_ddp.yaml_text import MAX_BASES, load_yaml, parse_yaml, reason

T = TypeVar("T")

# Dotted keys that must have a value, or a function that returns them for a loaded configuration.
Required = Sequence[str] | Callable[[Any], Sequence[str]]

# `${...}` in a whole configuration. Options that name each other twice would double at every step.
_MAX_REFERENCES = 16


def check(holds: bool, key: str, value: object, expected: str) -> None:
    """Raises the `UserError` of a value that is not `expected`; for a section's `__post_init__`."""
    if not holds:
        raise UserError(f"{key} is {_shown(value)}; expected {expected}")


def decides_nothing(default: Any) -> Any:
    """A field that does not change stage 1's output; see `deciding`."""
    return field(default=default, metadata={"decides": False})


def deciding(section: Any) -> dict[str, Any]:
    """The options of a section that decide stage 1's output: all but those declared with `decides_nothing`."""
    return {item.name: getattr(section, item.name) for item in fields(section) if item.metadata.get("decides", True)}


@dataclass(frozen=True)
class FileOption:
    """How the file that an option names is looked up; `load_structured` does it.

    Attributes:
        packaged: the packaged files that a bare name can mean, such as templates/*.txt; None: none.
        optional: a file that is not found is a mistake only for a command that requires the option.
        names: the option can also hold a list of names, so `a,b` is a list unless it is a file.
        numbers: the option can also hold a number.
    """

    packaged: str | None
    optional: bool
    names: bool
    numbers: bool


def file_option(
    packaged: str | None = None,
    *,
    optional: bool = False,
    names: bool = False,
    numbers: bool = False,
    decides: bool = True,
    default: Any = None,
) -> Any:
    """A field that can name a file; the arguments are those of `FileOption` and of `deciding`."""
    lookup = FileOption(packaged, optional, names, numbers)
    return field(default=default, metadata={"file": lookup, "decides": decides})


def load_structured(
    schema: type[T], name_or_path: str | Path | None, overrides: Sequence[str] = (), required: Required = ()
) -> T:
    """The configuration in a YAML file, changed by `section.key=value` words.

    Options that name a file hold its path afterwards. It is looked up in the current folder, beside the YAML file, in
    the packaged configs, and there by name. A YAML file can start from others: `base: FILE` or `base: [FILE, ...]` at
    its top takes their options. Later files win over earlier ones, and the file's own options over them all.

    Args:
        schema: a dataclass of sections.
        name_or_path: a file, or the name of a packaged config, such as coco_marvelovd; None: the defaults alone.
        overrides: the words. Each replaces the file's whole value, also where that is a mapping.
        required: dotted keys that must have a value, or a function that returns them for a loaded configuration.

    Raises:
        UserError: no such file, not YAML, an unknown key (with the nearest known one), a value of the wrong type or
            range, an option that names no file, a required key without a value.
    """
    path = None if name_or_path is None else _config_file(name_or_path)
    options = options_of(schema)
    values, folders = ({}, {}) if path is None else _read(path, options, (), [])
    values |= dict(_parse_override(word, options) for word in overrides)
    if (references := sum(map(_references, values.values()))) > _MAX_REFERENCES:
        raise UserError(f"{path} has {references} references of the form ${{...}}; at most {_MAX_REFERENCES} are read")
    # ${package:FILE} in a config: the demo's data and weights, wherever the package is installed.
    OmegaConf.register_new_resolver("package", lambda name: str(Path(__file__).parent / name), replace=True)
    beside = Path() if path is None else path.parent
    tree: DictConfig = OmegaConf.structured(schema)
    _make_writable(tree)  # the schema's classes are frozen, which OmegaConf takes as read-only nodes
    try:
        for key, value in values.items():
            _assign(tree, key, value, options[key])
        missing = _resolve_files(tree, options, {key: folders.get(key, beside) for key in options})
        config: T = OmegaConf.to_object(tree)  # type: ignore[assignment]
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere
        key = f"{error.full_key}: " if error.full_key else ""
        raise UserError(f"{key}{_reason(error)}") from None
    for key in required(config) if callable(required) else required:
        require(config, key)
        if key in missing:
            raise UserError(missing[key])
    return config


def require(config: object, key: str) -> None:
    """Raises a `UserError` where the dotted `key` has no value."""
    if option_value(config, key) in (None, ""):
        raise UserError(f"{key} is not set; add {key}=... to the command or set it in the config")


def given(value: T | None) -> T:
    """The value of an option that the command requires: loading the configuration has checked that there is one."""
    assert value is not None, "the command that loaded the configuration did not require this option"
    return value


def option_value(config: object, key: str) -> Any:
    """The value of the dotted `key`."""
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def packaged_configs() -> Path:
    """The folder of the configs that come with the package: `configs/` of a checkout, plgen_ddp/configs installed."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def options_of(schema: type) -> dict[str, "Field[Any]"]:
    """The fields of all sections by dotted key."""
    sections: dict[str, Any] = {item.name: item.type for item in fields(schema)}
    return {f"{name}.{item.name}": item for name, section in sections.items() for item in fields(section)}


def expected_value(option: "Field[Any]") -> str:
    """The values that an option takes, in words."""
    if option.type is Any:
        lookup: FileOption = option.metadata["file"]
        if lookup.numbers:
            return "a number, a mapping, or a file"
        return "a file, a list of names, or a mapping" if lookup.names else "a file or a list"
    optional = NoneType in get_args(option.type)
    kind = next(kind for kind in get_args(option.type) if kind is not NoneType) if optional else option.type
    words: dict[Any, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a file" if "file" in option.metadata else "text",
        tuple[int, ...]: "a list of whole numbers",
        tuple[float, ...]: "a list of numbers",
        tuple[str, ...]: "a list of texts",
    }
    described = "a mapping" if get_origin(kind) is dict else words[kind]
    return described + (", or null" if optional else "")


def _config_file(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    configs = packaged_configs()
    for place in (path, configs / f"{name_or_path}.yaml"):
        if _is_file(place):
            return place
    known = sorted(config.stem for config in configs.glob("*.yaml"))
    hint = suggestion(path.stem, known) or f"; the packaged configs are {', '.join(known)}"
    raise UserError(f"no config file at {path}, and no packaged config has that name{hint}")


def _read(
    path: Path, options: Mapping[str, "Field[Any]"], readers: Sequence[Path], bases: list[Path]
) -> tuple[dict[str, Any], dict[str, Path]]:
    """The values in a YAML file and in the files under its `base`, and the folder that each comes from, by dotted key.

    Args:
        readers: the files that led to this one by their `base`.
        bases: all files that were read for their `base`; this function adds to it.
    """
    try:
        content = load_yaml(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {_reason(error)}") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a mapping of sections")
    values: dict[str, Any] = {}
    folders: dict[str, Path] = {}
    for base in _bases(content.pop("base", []), path, readers):
        bases.append(base)
        if len(bases) > MAX_BASES:
            raise UserError(f"base in {path}: more than {MAX_BASES} files in all; merge some of them")
        found, places = _read(base, options, (*readers, path), bases)
        values, folders = values | found, folders | places
    own: dict[str, Any] = {}
    sections = _sections(options)
    for section, keys in content.items():
        if section not in sections:
            raise _unknown(str(section), options, f"in {path}")
        if not isinstance(keys, dict | None):  # None: all its keys are commented out
            raise UserError(f"{section!r} in {path} is a section; write its keys below it")
        own |= {f"{section}.{name}": value for name, value in (keys or {}).items()}
    for key in own:
        if key not in options:
            raise _unknown(key, options, f"in {path}")
    return values | own, folders | dict.fromkeys(own, path.parent)


def _bases(given: Any, path: Path, readers: Sequence[Path]) -> list[Path]:
    """The files that the `base` of the config at `path` names: beside it, or packaged."""
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"base in {path} is {_shown(given)}; expected a config file or a list of them")
    found = []
    for name in names:
        places = [path.parent / name, packaged_configs() / name, packaged_configs() / f"{name}.yaml"]
        base = next(filter(_is_file, places), None)
        if base is None:
            known = sorted(config.name for config in packaged_configs().glob("*.yaml"))
            raise UserError(f"base in {path}: no config file at {places[0]} or {places[1]}{suggestion(name, known)}")
        if base.resolve() in {reader.resolve() for reader in (*readers, path)}:
            raise UserError(f"base in {path}: {base} leads back to itself; remove one of them")
        found.append(base)
    return found


def _parse_override(word: str, options: Mapping[str, "Field[Any]"]) -> tuple[str, Any]:
    """(dotted key, value) of a `section.key=value` word."""
    if not re.match(r"[A-Za-z_][\w.]*=", word):
        raise UserError(f"{word!r} is not of the form section.key=value")
    key, _, text = word.partition("=")
    if key not in options:
        raise _unknown(key, options, "on the command line")
    kind = options[key].type
    if _is_text(text, options[key]):
        return key, text
    if get_origin(kind) is tuple and text != "null" and not text.startswith("["):
        text = f"[{text}]"
    try:
        return key, parse_yaml(text)
    except YAMLError as error:
        raise UserError(f"{key}: {text!r} is not valid YAML: {_reason(error)}") from None


def _references(value: Any) -> int:
    """How many `${...}` a value holds."""
    if isinstance(value, dict):
        return sum(map(_references, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_references, value))
    return value.count("${") if isinstance(value, str) else 0


def _is_text(text: str, option: "Field[Any]") -> bool:
    """Whether `text` is meant literally: a path that looks like a number or holds a # is no YAML. Quotes are."""
    if text == "null" or text.startswith(("'", '"')):
        return False
    if option.type is Any:
        return not text.startswith(("[", "{")) and not (option.metadata["file"].numbers and _is_number(text))
    return option.type in (str, str | None)


def _is_number(text: str) -> bool:
    try:
        float(text.removeprefix("."))  # YAML's .nan and .inf
    except ValueError:
        return False
    return True


def _assign(tree: DictConfig, key: str, value: Any, option: "Field[Any]") -> None:
    """Sets the value of an option, in the place of the whole earlier one."""
    try:
        OmegaConf.update(tree, key, value, merge=False)
        fits = get_origin(option.type) is not tuple or not _nested(value)
    except OmegaConfBaseException:
        fits = False
    check(fits, key, value, expected_value(option))


def _nested(value: Any) -> bool:
    """Whether a list holds more than numbers and texts, which OmegaConf lets pass."""
    return isinstance(value, list) and any(isinstance(item, list | dict | bool) for item in value)


def _resolve_files(tree: DictConfig, options: Mapping[str, "Field[Any]"], beside: Mapping[str, Path]) -> dict[str, str]:
    """Replaces the names and paths in file options with the paths of the files.

    Args:
        beside: the folder of the YAML file that each dotted key comes from.

    Returns:
        What is wrong with each dotted key whose file was not found and that not every command needs.
    """
    missing = {}
    configs = packaged_configs()
    for key, option in options.items():
        lookup: FileOption | None = option.metadata.get("file")
        value = OmegaConf.select(tree, key) if lookup else None
        if lookup is None or not isinstance(value, str) or value == "":
            continue
        places = [Path(value), beside[key] / value, configs / value]
        named = [configs / lookup.packaged.replace("*", value)] if lookup.packaged else []
        found = next(filter(_is_file, places + named), None)
        if found is not None:
            OmegaConf.update(tree, key, str(found))
        elif lookup.names and "," in value:
            OmegaConf.update(tree, key, [name.strip() for name in value.split(",") if name.strip()])
        else:
            known = [path.stem for path in configs.glob(lookup.packaged)] if lookup.packaged else []
            paths = " or ".join(str(place) for place in dict.fromkeys(places))
            alone = f"; as a list of one name, write '{value},'" if lookup.names else ""
            missing[key] = f"{key}: no file at {paths}{suggestion(value, known)}{alone}"
            if lookup.numbers:
                missing[key] = f"{key} is {value!r}; expected {expected_value(option)}, and there is no file at {paths}"
            if not lookup.optional:
                raise UserError(missing[key])
    return missing


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long
        return False


def _unknown(key: str, options: Iterable[str], source: str) -> UserError:
    """What is wrong with a key that is no option."""
    sections = _sections(options)
    section, dot, _ = key.partition(".")
    if key in sections:
        return UserError(f"{key!r} {source} is a section; write {key}.key=value")
    if section in sections:
        return UserError(f"unknown key {key} {source}{suggestion(key, options)}")
    if not dot and (hint := next((option for option in options if option.endswith(f".{key}")), None)):
        return UserError(f"unknown key {key} {source}; did you mean {hint!r}?")
    return UserError(f"unknown section {section!r} {source}{suggestion(section, sections)}")


def _sections(options: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(option.partition(".")[0] for option in options))


def _make_writable(node: DictConfig) -> None:
    OmegaConf.set_readonly(node, False)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            _make_writable(child)


def _shown(value: object) -> str:
    return "null" if value is None else repr(value)


def _reason(error: Exception) -> str:
    """What is wrong, on one line. OmegaConf adds lines about its own objects."""
    return reason(error).split(" full_key:")[0]
