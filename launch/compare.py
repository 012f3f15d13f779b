"""Rules of labelling on one region store, a row each: what their labels are worth, and what the wrong ones are.

    python launch/compare.py --config demo                               the packaged rules on the demo's store
    python launch/compare.py --config coco_best run.output=out/coco      the packaged rules on a store of COCO
    python launch/compare.py --config coco_best run.output=out/mine label.vocabulary=mine.yaml --stand-ins      on yours
    ... --presets coco_vlplm,mine.yaml           some rules, packaged or your own: a preset gives its section `label`
    ... --picture rules.png --json rules.json    three images labelled by the first and the last rule; all figures

Ground truth is the JSON that is labelled, or --ground-truth. Where nobody annotated the novel names, --stand-ins labels
some base names as if they were novel; their annotations are hidden from the rules and then are the ground truth.
The labels of each preset stay in `run.output`/comparison, those of stand-ins in `run.output`/stand_ins.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from plgen_ddp.command_line import command_line
from plgen_ddp.config import load_config
from plgen_ddp.console import one_line_errors, print_line, print_text
from plgen_ddp.files import check_output, write_atomically
from plgen_ddp.options import given
from plgen_ddp.report.comparison import compare, default_presets
from plgen_ddp.report.pictures import draw_gallery
from plgen_ddp.report.tables import comparison_table


def main(words: Sequence[str] | None = None) -> int:
    arguments = parse(words)
    with one_line_errors():
        required = ("run.output", "data.image_root") if arguments.picture else ("run.output",)
        config = load_config(arguments.config, arguments.overrides, required, effective=False)
        inputs = {
            "--ground-truth": arguments.ground_truth,
            "data.annotations": config.data.annotations,
            "label.annotations": config.label.annotations,
            "label.vocabulary": config.label.vocabulary,
        }
        for option in ("json", "picture"):
            if (path := getattr(arguments, option)) is not None:
                check_output(path, f"--{option}", inputs, picture=option == "picture")
        comparison = compare(
            config,
            arguments.overrides,
            arguments.presets or default_presets(arguments.config),
            ground_truth=arguments.ground_truth,
            stand_ins=arguments.stand_ins,
            folder=arguments.output,
        )
        print_text(comparison_table(comparison, markdown=arguments.markdown))
        print_line(f"labels: {comparison.results[0].labels.parent}")
        if arguments.json:
            write_atomically(arguments.json, [json.dumps(comparison.figures(), indent=1).encode() + b"\n"])
        if arguments.picture:
            draw_gallery(comparison, given(config.data.image_root), arguments.picture, config.data)
            print_line(f"picture: {arguments.picture}")
    return 0


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument(
        "--presets", type=listed, metavar="LIST", help="default: the packaged ones, recipes first and best last"
    )
    truth = parser.add_mutually_exclusive_group()
    truth.add_argument("--ground-truth", type=Path, metavar="JSON", help="has annotations of the novel names")
    truth.add_argument("--stand-ins", action="store_true", help="label base names in the place of the novel ones")
    parser.add_argument("--output", type=Path, metavar="DIR", help="gets the labels; default: in run.output")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw three images there, by the first and last rule"
    )
    return parser.parse_intermixed_args(words)


def listed(word: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in word.split(",") if name.strip()))


if __name__ == "__main__":
    sys.exit(main())
