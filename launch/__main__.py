"""One command for all: `plgen VERB ...` is `python launch/VERB.py ...`.

    plgen score --config configs/demo.yaml
    plgen label --help
    python -m launch label --help               the same from a checkout, without an installation

A verb may be written with underscores too, as its script is: plgen make_json.

Several ranks are torchrun's to start: torchrun --nproc_per_node=4 launch/score.py ..., or with an installation
torchrun --nproc_per_node=4 -m plgen_ddp.launch.score ...
"""

import argparse
import ast
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from plgen_ddp import __version__
from plgen_ddp.console import one_line_errors
from plgen_ddp.errors import UserError, suggestion


def main(words: Sequence[str] | None = None) -> None:
    """Runs the script of the verb as if it were started itself; it ends the process as it always does."""
    scripts = {
        path.stem.replace("_", "-"): path
        for path in sorted(Path(__file__).parent.glob("*.py"))
        if not path.stem.startswith("_")
    }
    parser = argparse.ArgumentParser(
        prog="plgen",
        description=__doc__,
        epilog="verbs:\n" + "\n".join(f"  {verb:<17} {_summary(path)}" for verb, path in scripts.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"plgen_ddp {__version__}")
    parser.add_argument("verb", metavar="VERB", help="what to do, one of those below; plgen VERB --help says how")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="...", help="the verb's own words")
    arguments = parser.parse_args(words)
    with one_line_errors():
        verb = arguments.verb.replace("_", "-")
        if verb not in scripts:
            hint = suggestion(verb, scripts) or "; plgen --help lists them"
            raise UserError(f"plgen has no verb {arguments.verb!r}{hint}")
    sys.argv[1:] = arguments.words
    runpy.run_path(str(scripts[verb]), run_name="__main__")


def _summary(script: Path) -> str:
    """The first line of a script's docstring. Reading it imports nothing, so `plgen --help` is quick."""
    return (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
