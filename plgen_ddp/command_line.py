"""What all commands share: the config with its overrides, and --version, --options, --print-config.

docs/options.md is made by

    { python launch/score.py --options; echo; python launch/train_proposals.py --options; } > docs/options.md
"""

import argparse
import ast
import inspect
import itertools
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import OmegaConf

from plgen_ddp import __version__
from plgen_ddp.config import Config
from plgen_ddp.console import one_line_errors, print_text
from plgen_ddp.options import expected_value, load_structured
from plgen_ddp.screen_text import MESSAGE, visible

_WIDTH = 120
_HOW_TO_SET = """\
Set an option in a config file, below its section, or on the command line as `section.key=value`. The command line wins.
A config file with `base: FILE`, or a list of files, at its top starts from their options; the later file wins, and the
config itself over all. Relative paths start at the current folder. Where the value is called a file, it is also looked
for beside the config file and in the packaged configs, and there by name: `label.templates=vild_63`. `--help` lists the
switches.
"""


def command_line(
    manual: str | None,
    schema: type | None = Config,
    *,
    config: str | None = None,
    positional: Mapping[str, str] | None = None,
) -> argparse.ArgumentParser:
    """A parser of `--config NAME [section.key=value ...]`; call its `parse_intermixed_args`.

    Args:
        manual: the launcher's docstring.
        schema: the dataclass of the command's sections; None: the command has no configuration.
        config: the packaged config of a command that takes no --config.
        positional: the words that come before `section.key=value`, each with its help.
    """
    return _CommandLine(manual, schema, config, positional or {})


def describe_options(schema: type) -> str:
    """All options of a schema with their values, defaults and docstrings, as Markdown."""
    lines = [f"# {_docstring(schema) or 'Options'}".rstrip("."), "", _HOW_TO_SET]
    for section in fields(schema):
        lines += [f"## {section.name}", ""]
        if summary := _docstring(section.type):
            lines += [summary, ""]
        meanings = meanings_of(section.type)
        for option in fields(section.type):  # type: ignore[arg-type]
            default = json.dumps(option.default) if not isinstance(option.default, str) else option.default
            text = f"- `{section.name}.{option.name}` ({expected_value(option)}; default {default}). "
            text += meanings.get(option.name, "")
            lines += textwrap.wrap(text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        lines.append("")
    return "\n".join(lines).rstrip()


def meanings_of(section: Any) -> dict[str, str]:
    """The docstring under each field of a section, on one line."""
    body = _class_definition(section).body
    return {
        attribute.target.id: " ".join(string.value.value.split())
        for attribute, string in itertools.pairwise(body)
        if isinstance(attribute, ast.AnnAssign)
        and isinstance(attribute.target, ast.Name)
        and isinstance(string, ast.Expr)
        and isinstance(string.value, ast.Constant)
        and isinstance(string.value.value, str)
    }


class _CommandLine(argparse.ArgumentParser):
    def __init__(
        self, manual: str | None, schema: type | None, config: str | None, positional: Mapping[str, str]
    ) -> None:
        super().__init__(description=manual, formatter_class=argparse.RawDescriptionHelpFormatter)
        self._schema = schema
        self.add_argument("--version", action="version", version=f"plgen_ddp {__version__}")
        self.add_argument("--options", action=_PrintOptions, help="print every option, then exit")
        self.add_argument("--print-config", action="store_true", help="print the configuration as YAML, then exit")
        for name, help in positional.items():
            self.add_argument(name, metavar=name.upper(), help=help)
        if schema is None:
            return
        if config is None:
            help = "a YAML file, or the name of one in configs/"
            self.add_argument("--config", required=True, metavar="NAME", help=help)
        else:
            self.set_defaults(config=config)
        help = "options that change the config's; --options lists them"
        self.add_argument("overrides", nargs="*", metavar="section.key=value", help=help)

    def error(self, message: str) -> NoReturn:
        super().error(visible(message, MESSAGE))

    def _print_message(self, message: str, file: Any = None) -> None:
        """Help and mistakes of the command line, on a terminal of any encoding."""
        if message:
            print_text(message.removesuffix("\n"), error=file is not sys.stdout)

    def parse_intermixed_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        arguments = super().parse_intermixed_args(args, namespace)
        if arguments.print_config:
            print_text(self._configuration(arguments).rstrip())
            self.exit()
        return arguments

    def print_options(self) -> None:
        print_text(self.format_help().rstrip() if self._schema is None else describe_options(self._schema))

    def _configuration(self, arguments: argparse.Namespace) -> str:
        if self._schema is None:
            own = {name: value for name, value in vars(arguments).items() if name != "print_config"}
            return OmegaConf.to_yaml(
                {name: str(value) if isinstance(value, Path) else value for name, value in own.items()}
            )
        with one_line_errors():
            config: object = load_structured(self._schema, arguments.config, arguments.overrides)
        return OmegaConf.to_yaml(OmegaConf.structured(config))


class _PrintOptions(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        assert isinstance(parser, _CommandLine)
        parser.print_options()
        parser.exit()


def _docstring(cls: Any) -> str | None:
    """The class's own docstring; a dataclass without one has its signature in `__doc__`."""
    return ast.get_docstring(_class_definition(cls))


def _class_definition(cls: Any) -> ast.ClassDef:
    definition = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(definition, ast.ClassDef)
    return definition
