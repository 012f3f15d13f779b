"""Quality of pseudo labels against ground truth: COCO's box metrics, right and wrong labels, recall of the boxes.

    python launch/evaluate.py --labels out/coco/labels.json --ground-truth coco/annotations/instances_val2017.json
    python launch/evaluate.py ... --only-images-with-novel     the protocol of VL-PLM's published figures
    python launch/evaluate.py ... --store out/coco             also what the boxes find, whatever their names
    python launch/evaluate.py ... --json figures.json          every figure in a file too

AP is pycocotools' own. It ranks labels and hardly punishes wrong ones at the end of the ranking: the lowest threshold
has the best AP. A training takes every label of the file, so precision, recall and F1 count them all. For COCO val2017
and VL-PLM's 17 novel names, the figures of its labels are printed too; they are in PL_GENERATION.md of its repository.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from plgen_ddp.command_line import command_line
from plgen_ddp.console import one_line_errors
from plgen_ddp.evaluation import evaluate
from plgen_ddp.files import check_output, write_atomically
from plgen_ddp.summaries import print_evaluation


def main(words: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, schema=None)
    parser.add_argument("--labels", required=True, type=Path, metavar="FILE", help="written by score.py or label.py")
    parser.add_argument("--ground-truth", required=True, type=Path, metavar="FILE", help="COCO-format JSON")
    parser.add_argument("--novel", nargs="+", metavar="NAME", help="names to evaluate; the labels' own by default")
    parser.add_argument("--only-images-with-novel", action="store_true", help="leave out images without a novel object")
    parser.add_argument("--store", type=Path, metavar="DIR", help="run.output of the labels, or the folder store in it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    options = parser.parse_intermixed_args(words)
    with one_line_errors():
        if options.json:
            check_output(options.json, "--json", {"--labels": options.labels, "--ground-truth": options.ground_truth})
        result = evaluate(
            options.labels,
            options.ground_truth,
            options.novel,
            only_images_with_novel=options.only_images_with_novel,
            store=options.store,
        )
        print_evaluation(result)
        if options.json:
            text = json.dumps(dataclasses.asdict(result), indent=1) + "\n"
            write_atomically(options.json, iter([text.encode()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
