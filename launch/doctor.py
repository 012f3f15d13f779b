"""Whether a run would go through, before GPUs are reserved: all problems at once, each with its remedy.

    python launch/doctor.py --config configs/coco_best.yaml data.annotations=... data.image_root=... run.output=...
    python launch/doctor.py ... --all               decodes every image, not a sample of 100
    python launch/doctor.py ... --ranks 8           for 8 ranks a node; one a GPU by default
    python launch/doctor.py ... --json              the findings as JSON

It takes the words of launch/score.py. Models are built on the CPU, and weights that are given by name are downloaded as
scoring would. Each line is `ok`, `warning` or `error`; the exit status is 1 where there is an error.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence

import torch

from plgen_ddp.command_line import command_line
from plgen_ddp.console import one_line_errors, print_line, print_text
from plgen_ddp.doctor.findings import Finding
from plgen_ddp.doctor.inputs import check_data, check_models, check_names
from plgen_ddp.doctor.machine import check_machine, check_room
from plgen_ddp.doctor.settings import read_settings


def main(words: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__)
    images = parser.add_mutually_exclusive_group()
    images.add_argument("--sample", type=int, default=100, metavar="N", help="images to decode (100)")
    images.add_argument("--all", action="store_true", help="decode every image")
    parser.add_argument("--ranks", type=int, metavar="N", help="ranks of a node; one a GPU by default")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_intermixed_args(words)
    found: list[Finding] = []

    def report(finding: Finding) -> None:
        found.append(finding)
        if not options.json:
            print_line(finding.line())

    with one_line_errors():
        config, lacking, findings = read_settings(options.config, options.overrides)
        for finding in findings:
            report(finding)
        if config is not None:
            for finding in check_data(config, lacking, None if options.all else max(options.sample, 0)):
                report(finding)
            encoder = check_models(config, lacking, report)
            for finding in check_names(config, lacking):
                report(finding)
            for finding in check_machine(config, options.ranks or max(torch.cuda.device_count(), 1)):
                report(finding)
            for finding in check_room(config, lacking, encoder):
                report(finding)
    errors, warnings = (sum(finding.level == level for finding in found) for level in ("error", "warning"))
    if options.json:
        print_text(json.dumps([dataclasses.asdict(finding) for finding in found], indent=1))
    else:
        print_line(f"{errors} errors, {warnings} warnings")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
