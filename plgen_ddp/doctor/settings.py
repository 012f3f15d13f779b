"""The configuration: every wrong word and every missing option, not only the first."""

from collections.abc import Sequence

from plgen_ddp.config import Config, load_config
from plgen_ddp.doctor.findings import Finding
from plgen_ddp.errors import UserError
from plgen_ddp.label.plan import LABELLING_REQUIRES
from plgen_ddp.score.job import scoring_requires


def read_settings(name_or_path: str, words: Sequence[str]) -> tuple[Config | None, set[str], list[Finding]]:
    """The configuration without the words that are wrong, the options that it lacks, and what was found.

    Returns:
        None for the configuration where the config file itself cannot be read.
    """
    findings = []
    try:
        load_config(name_or_path, words)
        good = list(words)
    except UserError:
        good = []
        for word in words:
            try:
                load_config(name_or_path, [*good, word], effective=False)  # a later word may give it an effect
                good.append(word)
            except UserError as error:
                findings.append(Finding("config", "error", str(error), "correct it in the config or the command"))
        try:
            load_config(name_or_path, good)
        except UserError as error:
            findings.append(Finding("config", "error", str(error), "correct it in the config or the command"))
    try:
        config = load_config(name_or_path, good, effective=False)
    except UserError:  # the config file's own mistake, which every word has met
        unique = {finding.message: finding for finding in findings}
        return None, set(), list(unique.values())
    lacking = set()
    for key in dict.fromkeys((*scoring_requires(config), *LABELLING_REQUIRES)):
        try:
            load_config(name_or_path, good, (key,), effective=False)
        except UserError as error:
            lacking.add(key)
            findings.append(Finding("config", "error", str(error), "it is needed for scoring and labelling"))
    return config, lacking, findings or [Finding("config", "ok", "every option is known, nothing is missing")]
