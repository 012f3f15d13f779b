"""Pseudo labels in other formats, from a labelled JSON.

    python launch/export.py out/coco/labels.json --format coco_results --output results.json     for COCO.loadRes
    python launch/export.py out/coco/labels.json --format parquet --output labels.parquet        or csv: a row a label
    python launch/export.py out/coco/labels.json --format yolo --output out/yolo                 a training set
    ln -s /data/coco out/yolo/images                  with train2017/ in it: where YOLO's trainers look for the images

COCO results and tables hold the pseudo labels. A YOLO folder holds the base annotations too, without crowds, and no
scores. FiftyOne reads the labelled JSON itself, with the scores.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from plgen_ddp.command_line import command_line
from plgen_ddp.console import one_line_errors, print_line
from plgen_ddp.export import FORMATS, export


def main(words: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, schema=None)
    parser.add_argument("labels", type=Path, metavar="LABELS", help="written by score.py or label.py")
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    parser.add_argument("--output", required=True, type=Path, metavar="PATH", help="the file, or yolo's folder")
    options = parser.parse_intermixed_args(words)
    with one_line_errors():
        done = export(options.labels, options.format, options.output)
        print_line(f"wrote {done.path}: {done.boxes} boxes on {done.images} images")
        if done.left_out:
            print_line(f"{done.left_out} boxes were left out: crowds, or without area inside their image", error=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
