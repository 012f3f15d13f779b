"""Pseudo labels from a region store: no GPU, no detector, no images.

    python launch/label.py --config configs/coco_vlplm.yaml run.output=out/coco label.score_threshold=0.7
    python launch/label.py ... report.write=true             and a report of the labels, one HTML file
    python launch/label.py ... label.annotations=ovd.json label.output=out/coco/ovd.json     another JSON of the images

CLIP is loaded only for names that the store has not seen under these templates.
"""

import sys
from collections.abc import Sequence

from plgen_ddp.command_line import command_line
from plgen_ddp.config import load_config
from plgen_ddp.console import one_line_errors
from plgen_ddp.label.plan import LABELLING_REQUIRES
from plgen_ddp.report.after_labelling import label_and_report


def main(words: Sequence[str] | None = None) -> int:
    arguments = command_line(__doc__).parse_intermixed_args(words)
    with one_line_errors(resumes=True):
        config = load_config(arguments.config, arguments.overrides, LABELLING_REQUIRES)
        label_and_report(config)
    return 0


if __name__ == "__main__":
    sys.exit(main())
