"""A report of a labelled JSON as one HTML file: images, counts and plots that follow a threshold and a name.

    python launch/report.py --labels out/coco/labels.json --images coco
    python launch/report.py ... --ground-truth instances_val2017.json      also what is right and what is wrong
    python launch/report.py ... --compare out/coco/others.json             two labelled JSONs side by side
    python launch/report.py --failures --run out/coco --images coco        the images that could not be scored

The file opens from a disk, without a server or a network. Without --output it is report.html beside the labels.
report.write=true makes a labelling end with it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from plgen_ddp.command_line import command_line
from plgen_ddp.console import one_line_errors, print_line
from plgen_ddp.errors import UserError
from plgen_ddp.files import check_output
from plgen_ddp.report.failures_page import write_failures
from plgen_ddp.report.page import write_report


def main(words: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, schema=None)
    parser.add_argument("--labels", type=Path, metavar="FILE", help="written by score.py or label.py")
    parser.add_argument("--ground-truth", type=Path, metavar="FILE", help="has annotations of the novel names")
    parser.add_argument("--novel", nargs="+", metavar="NAME", help="names to show; the labels' own by default")
    parser.add_argument("--images", type=Path, metavar="DIR", help="the image root, for thumbnails")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="other labels, shown beside the first")
    parser.add_argument("--run", type=Path, metavar="DIR", help="run.output of the labels; their folder by default")
    parser.add_argument("--failures", action="store_true", help="list the images that could not be scored instead")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sample of images; default 0")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the HTML file to write")
    options = parser.parse_intermixed_args(words)
    with one_line_errors():
        if options.labels is None and not (options.failures and options.run):
            raise UserError("--labels is missing; with --failures, --run does too")
        if options.seed < 0:
            raise UserError(f"--seed: {options.seed} is negative; it is 0 or more")
        folder = options.run or options.labels.parent
        default = folder / "failures.html" if options.failures else options.labels.parent / "report.html"
        output = options.output or default
        inputs = {"--labels": options.labels, "--ground-truth": options.ground_truth, "--compare": options.compare}
        check_output(output, "--output", inputs)
        if options.failures:
            made = write_failures(folder, output, options.images)
            print_line(f"wrote {made.path}: {made.images} images that could not be scored")
            return 0
        made = write_report(
            options.labels,
            output,
            ground_truth=options.ground_truth,
            images=options.images,
            other=options.compare,
            run=options.run,
            novel=options.novel,
            seed=options.seed,
        )
        print_line(f"wrote {made.path}: {made.labels} labels, {made.images} images shown, {made.size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
