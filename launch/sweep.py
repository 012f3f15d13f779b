"""Many settings of a labelling from one pass over the region store: how many labels, and how good they are.

    python launch/sweep.py --config configs/coco_vlplm.yaml run.output=out/coco label.score_threshold=0.1:0.95:0.05
    python launch/sweep.py ... label.objectness_weight=0,0.5,1 --ground-truth coco/annotations/instances_val2017.json
    python launch/sweep.py ... label.suppress=[],[inside] label.vocabulary=a.yaml label.vocabulary=b.yaml

Any option of `label` takes a range start:stop:step, values after commas, or is given again for another value. It prints
the table and writes sweep.csv, sweep.json and sweep.png into run.output. Labels are written by launch/label.py.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from plgen_ddp.command_line import command_line
from plgen_ddp.console import one_line_errors, print_line
from plgen_ddp.files import check_output, write_atomically
from plgen_ddp.label.settings import read_settings
from plgen_ddp.label.sweep import sweep
from plgen_ddp.label.sweep_table import csv_text, curves, json_text, lines
from plgen_ddp.options import given
from plgen_ddp.report.curves import draw_curves


def main(words: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__)
    parser.add_argument("--ground-truth", type=Path, metavar="FILE", help="COCO-format JSON with the novel objects")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="of the files; run.output by default")
    arguments = parser.parse_intermixed_args(words)
    with one_line_errors():
        settings = read_settings(arguments.config, arguments.overrides)
        folder = arguments.output or Path(given(settings[0].config.run.output))
        files = [folder / f"sweep.{kind}" for kind in ("csv", "json", "png")]
        for file in files:
            check_output(file, "--output", {"--ground-truth": arguments.ground_truth}, picture=file.suffix == ".png")
        result = sweep(settings, arguments.ground_truth)
        for line in lines(result):
            print_line(line)
        contents = [csv_text(result).encode(), json_text(result).encode(), draw_curves(curves(result))]
        for file, content in zip(files, contents, strict=True):
            write_atomically(file, [content])
        print_line(f"wrote {', '.join(map(str, files))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
