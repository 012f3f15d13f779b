"""From VL-PLM's or MarvelOVD's scores to a region store: no GPU, no detector, no CLIP, no images.

    python launch/import_scores.py --scores CLIP_scores_for_PLs --config configs/coco_vlplm.yaml \\
        data.annotations=coco/annotations/instances_train2017.json run.output=out/imported
    python launch/label.py --config configs/coco_vlplm.yaml run.output=out/imported label.score_threshold=0.7

The folder holds the CLIP_scores_*.json of their stage 1. The store knows the likeliest name of each box among the names
that the scores were made for, and nothing else: labelling takes any threshold, weight and NMS, but no other names,
prompts or temperature.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from plgen_ddp.command_line import command_line
from plgen_ddp.config import load_config
from plgen_ddp.console import one_line_errors
from plgen_ddp.label.import_scores import IMPORT_REQUIRES, import_scores
from plgen_ddp.summaries import print_import


def main(words: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__)
    parser.add_argument("--scores", required=True, type=Path, metavar="DIR", help="folder of CLIP_scores_*.json")
    arguments = parser.parse_intermixed_args(words)
    with one_line_errors():
        config = load_config(arguments.config, arguments.overrides, IMPORT_REQUIRES)
        print_import(import_scores(arguments.scores, config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
