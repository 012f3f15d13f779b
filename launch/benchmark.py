"""What the job costs on this machine, and what the reference recipe costs on the same images.

    python launch/benchmark.py                                     images a second, milliseconds of each stage
    python launch/benchmark.py --images coco/val2017               on real JPEGs
    python launch/benchmark.py --scaling                           also on 1, 2 and 4 ranks
    python launch/benchmark.py --growth 1,4 --num-images 100       also on 100 and 400 images: time and memory
    python launch/benchmark.py --agreement                         also what precisions change in boxes and labels
    python launch/benchmark.py --num-images 4096 run.workers=8     options of the job, as for launch/score.py
    python launch/benchmark.py --tiny                              tiny models: does it run?
    python launch/benchmark.py --label --num-images 118287         labelling, beside the reference's stage 2
    python launch/benchmark.py --label --presets coco_vlplm,coco_best --names 17,1203      other rules, more names

Nothing is downloaded: weights are seeded and of full size (R50-FPN, ViT-B/32), images generated in COCO's sizes.
plgen_ddp/benchmark/README.md explains every column. Percentages are shares of the peak, which each run measures as one
large matrix product: on CUDA in half precision, on a CPU in CLIP's precision on the threads of one rank.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from plgen_ddp.benchmark.label_speed import LabelOptions, LabelReport, measure_labelling
from plgen_ddp.benchmark.run import Options, Report, run
from plgen_ddp.command_line import command_line
from plgen_ddp.console import one_line_errors, print_text
from plgen_ddp.files import check_output, write_atomically


def main(words: Sequence[str] | None = None) -> int:
    arguments = parse(words)
    with one_line_errors():
        if arguments.json is not None:  # now, not after hours of measuring
            check_output(arguments.json, "--json", {})
    with one_line_errors(), tempfile.TemporaryDirectory(prefix="plgen_ddp_benchmark_") as folder:
        work = arguments.work or Path(folder)
        if arguments.label:
            report: LabelReport | Report = measure_labelling(label_options(arguments, work))
        else:
            report = run(scoring_options(arguments, work))
        print_text(report.markdown())
        if arguments.json is not None:
            rows = [asdict(measured) for measured in report.measurements()]
            write_atomically(arguments.json, [json.dumps(rows, indent=1).encode() + b"\n"])
    return 0


def scoring_options(arguments: argparse.Namespace, work: Path) -> Options:
    return Options(
        work=work,
        images=arguments.num_images or 8,
        reference_images=arguments.reference_images or 8,
        images_folder=arguments.images,
        precisions=tuple(dict.fromkeys(arguments.precisions.split(","))),
        ranks=arguments.ranks,
        scaling=arguments.scaling,
        growth=arguments.growth,
        agreement=arguments.agreement,
        tiny=arguments.tiny,
        overrides=tuple(arguments.overrides),
    )


def label_options(arguments: argparse.Namespace, work: Path) -> LabelOptions:
    return LabelOptions(
        work=work,
        images=arguments.num_images or 1000,
        reference_images=arguments.reference_images,
        presets=tuple(dict.fromkeys(arguments.presets.split(","))),
        names=arguments.names,
        overrides=tuple(arguments.overrides),
    )


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = command_line(__doc__, config="coco_vlplm")
    parser.add_argument(
        "--num-images", type=positive, metavar="N", help="images that the job scores, default 8; or labels, 1000"
    )
    parser.add_argument(
        "--reference-images",
        type=positive,
        metavar="N",
        help="images for the slow reference, default 8; with --label all",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="a folder of JPEGs instead of generated images")
    parser.add_argument(
        "--precisions",
        default="fp32,bf16,fp16",
        metavar="LIST",
        help="of fp32, bf16, fp16, or two of them, detector+CLIP; those that the machine lacks are left out",
    )
    parser.add_argument("--ranks", type=positive, metavar="R", help="default: one a core on a CPU, one on CUDA")
    parser.add_argument(
        "--scaling", type=numbers, nargs="?", const=(1, 2, 4), default=(), metavar="LIST", help="ranks; default 1,2,4"
    )
    parser.add_argument(
        "--growth",
        type=numbers,
        nargs="?",
        const=(1, 2),
        default=(),
        metavar="LIST",
        help="times N images; default 1,2",
    )
    parser.add_argument(
        "--agreement", action="store_true", help="compare each precision's boxes and labels with the first's"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny models instead of full-size ones")
    parser.add_argument("--label", action="store_true", help="time labelling, on a store drawn from a seed")
    parser.add_argument(
        "--presets",
        default="coco_vlplm,coco_marvelovd",
        metavar="LIST",
        help="with --label: configurations; the reference runs the first that is a recipe",
    )
    parser.add_argument(
        "--names",
        type=numbers,
        default=(),
        metavar="LIST",
        help="with --label: the first of them also with these numbers of novel names",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run's figures there")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="keep models, images and stores there; no earlier run of the same kind"
    )
    return parser.parse_intermixed_args(words)


def positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise ValueError
    return number


def numbers(word: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(positive(part) for part in word.split(",")))


if __name__ == "__main__":
    sys.exit(main())
