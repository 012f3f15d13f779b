"""All checks that one process can make, in the order in which they are printed."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from plgen_ddp.doctor.digests import check_digests
from plgen_ddp.doctor.findings import Finding
from plgen_ddp.doctor.inputs import check_data, check_models, check_names
from plgen_ddp.doctor.machine import check_machine, check_room
from plgen_ddp.doctor.settings import read_settings


def examine(
    name_or_path: str,
    words: Sequence[str],
    report: Callable[[Finding], None],
    *,
    sample: int | None = 100,
    ranks: int | None = None,
    digests: bool = False,
    known_digests: Path | None = None,
) -> Path | None:
    """Checks the run that a config and `section.key=value` words describe, and reports each finding when it is made.

    Args:
        sample: how many images are decoded; None: all.
        ranks: processes that a node shall run; None: one a GPU.
        digests: whether images with the same bytes are looked for. It reads all of them.
        known_digests: a list of `sha256sum` to compare the images with.

    Returns:
        `run.output`; None where the configuration cannot be read or has none.
    """
    config, lacking, findings = read_settings(name_or_path, words)
    for finding in findings:
        report(finding)
    if config is None:
        return None
    for finding in check_data(config, lacking, sample):
        report(finding)
    if digests or known_digests is not None:
        for finding in check_digests(config, lacking, known_digests):
            report(finding)
    encoder = check_models(config, lacking, report)
    for finding in check_names(config, lacking):
        report(finding)
    for finding in check_machine(config, ranks or max(torch.cuda.device_count(), 1)):
        report(finding)
    for finding in check_room(config, lacking, encoder):
        report(finding)
    return None if config.run.output is None else Path(config.run.output)
