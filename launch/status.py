"""How far a scoring is, from its folder: on any machine that sees it, while it runs or afterwards.

    python launch/status.py run.output=out/coco
    python launch/status.py run.output=out/coco --json      the same as JSON

It says how many images are done, failed and left, boxes and size, what the store was made with, which job holds the
folder's lock, and while one does, images a second and the time left.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from plgen_ddp.command_line import command_line
from plgen_ddp.config import load_config
from plgen_ddp.console import one_line_errors, print_line, print_text
from plgen_ddp.options import given
from plgen_ddp.store import store_of
from plgen_ddp.store_status import status_of


def main(words: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, config="coco_vlplm")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    arguments = parser.parse_intermixed_args(words)
    with one_line_errors():
        config = load_config(arguments.config, arguments.overrides, ("run.output",))
        status = status_of(store_of(config), Path(given(config.run.output)))
        if arguments.json:
            print_text(status.as_json())
        else:
            for line in status.lines():
                print_line(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
