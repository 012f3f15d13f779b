"""The novel-only validation split of a COCO-format JSON: its novel annotations, and the images that have one.

    python launch/split.py --config coco_vlplm data.annotations=coco/annotations/instances_val2017.json \\
        --output coco/annotations/inst_val2017_novel.json

VL-PLM evaluates its labels on this split: 2,064 images of val2017 with the recipe's 17 names. The names come from
label.vocabulary. Images keep their order, and all categories stay.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from plgen_ddp.command_line import command_line
from plgen_ddp.config import load_config
from plgen_ddp.console import one_line_errors, print_line
from plgen_ddp.label.split import split_novel
from plgen_ddp.plurals import counted


def main(words: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__)
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the JSON to write")
    arguments = parser.parse_intermixed_args(words)
    with one_line_errors():
        config = load_config(arguments.config, arguments.overrides, ("data.annotations", "label.vocabulary"))
        split = split_novel(config, arguments.output)
        print_line(
            f"wrote {split.path}: {counted(split.annotations, 'annotation')} on {counted(split.images, 'image')} "
            f"({split.annotations / split.images:.2f} an image)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
