"""Leakage audit: whether a labelled JSON holds more of its source than it may.

    python launch/audit.py out/coco/labels.json coco/annotations/instances_train2017.json

One line a leak and exit status 1: an annotation of a novel name that is no pseudo label, a pseudo label that equals a
novel annotation of the source or lies outside its image, images, categories or base annotations that differ, ids that
repeat, pseudo labels that `info` does not list. Every labelling ends with the same audit.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from plgen_ddp.command_line import command_line
from plgen_ddp.console import failed_status, one_line_errors
from plgen_ddp.label.audit import audit_files
from plgen_ddp.summaries import print_audit


def main(words: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, schema=None)
    parser.add_argument("labels", type=Path, metavar="LABELS", help="written by score.py or label.py")
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the JSON that was labelled")
    options = parser.parse_intermixed_args(words)
    with one_line_errors():
        found = audit_files(options.labels, options.source)
        print_audit(found)
    return failed_status(f"{options.labels} leaks") if found.leaks else 0


if __name__ == "__main__":
    sys.exit(main())
