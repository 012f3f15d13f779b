"""Rereads every part of a region store against its checksums, and says what must be done again.

    python launch/verify.py run.output=out/coco
    python launch/verify.py run.output=out/coco --repair    removes bad parts, mends the manifest; then score again
    python launch/verify.py run.output=out/coco --json      the findings as JSON

A part is bad when a bit of it has changed, when it belongs to another store, or when it disagrees with another part
about an image. Reading costs about as long as a labelling. The exit status is 1 where a part is bad and still there.
Images that are in no part, of a run that was stopped or of a part that is lost, are counted: scoring again adds them.
--repair waits for no other job: it is refused while one scores into the folder.
"""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from plgen_ddp.command_line import command_line
from plgen_ddp.config import load_config
from plgen_ddp.console import one_line_errors, print_line, print_text
from plgen_ddp.options import given
from plgen_ddp.run_lock import locked
from plgen_ddp.store import store_of
from plgen_ddp.store_check import check_store, repair_store


def main(words: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, config="coco_vlplm")
    parser.add_argument("--repair", action="store_true", help="remove the bad parts, and mend the manifest")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    arguments = parser.parse_intermixed_args(words)
    with one_line_errors():
        config = load_config(arguments.config, arguments.overrides, ("run.output",))
        store = store_of(config)
        store.manifest()  # there is a store: no folder is made for a lock
        with locked(Path(given(config.run.output))) if arguments.repair else contextlib.nullcontext():
            found = check_store(store)
            lines = repair_store(store, found) if arguments.repair else found.lines()
        for line in lines:
            print_line(line, error=True)
        print_text(found.as_json() if arguments.json else found.summary(repaired=arguments.repair))
    return 1 if found.bad and not arguments.repair else 0


if __name__ == "__main__":
    sys.exit(main())
