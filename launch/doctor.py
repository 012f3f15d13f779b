"""Whether a run would go through, before GPUs are reserved: all problems at once, each with its remedy.

    python launch/doctor.py --config configs/coco_best.yaml data.annotations=... data.image_root=... run.output=...
    python launch/doctor.py ... --all               decodes every image, not a sample of 100
    python launch/doctor.py ... --ranks 8           for 8 ranks a node; one a GPU by default
    python launch/doctor.py ... --digests           also which images have the same bytes; reads all of them
    python launch/doctor.py ... --known-digests F   also which differ from a list that sha256sum wrote
    python launch/doctor.py ... --json              the findings as JSON
    torchrun --nnodes=2 ... launch/doctor.py ...    also whether every node sees one run.output

It takes the words of launch/score.py. Models are built on the CPU, and weights that are given by name are downloaded as
scoring would. Each line is `ok`, `warning` or `error`; the exit status is 1 where there is an error.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from plgen_ddp.command_line import command_line
from plgen_ddp.console import end_with, one_line_errors, print_line, print_text
from plgen_ddp.doctor.examination import examine
from plgen_ddp.doctor.findings import Finding
from plgen_ddp.doctor.shared_output import check_shared_output
from plgen_ddp.plurals import counted
from plgen_ddp.world import World


def main(words: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__)
    images = parser.add_mutually_exclusive_group()
    images.add_argument("--sample", type=int, default=100, metavar="N", help="images to decode (100)")
    images.add_argument("--all", action="store_true", help="decode every image")
    parser.add_argument("--ranks", type=int, metavar="N", help="ranks of a node; one a GPU by default")
    parser.add_argument("--digests", action="store_true", help="look for images with the same bytes")
    parser.add_argument("--known-digests", type=Path, metavar="FILE", help="compare images with sha256sum's list")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_intermixed_args(words)
    found: list[Finding] = []

    def report(finding: Finding) -> None:
        found.append(finding)
        if not options.json:
            print_line(finding.line())

    with one_line_errors(), World.from_env() as world:
        output = world.from_main(
            lambda: examine(
                options.config,
                options.overrides,
                report,
                sample=None if options.all else max(options.sample, 0),
                ranks=options.ranks,
                digests=options.digests,
                known_digests=options.known_digests,
            )
        )
        if world.size > 1 and output is not None:
            finding = check_shared_output(world, output)
            if world.is_main:
                report(finding)
    if not world.is_main:
        return 0
    errors, warnings = (sum(finding.level == level for finding in found) for level in ("error", "warning"))
    if options.json:
        print_text(json.dumps([dataclasses.asdict(finding) for finding in found], indent=1))
    else:
        print_line(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}")
    return 1 if errors else 0


if __name__ == "__main__":
    end_with(main)
