"""The rules of several presets on one region store, labelled and judged one after the other."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from plgen_ddp.config import Config, load_config
from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError
from plgen_ddp.evaluation import evaluate
from plgen_ddp.figures import Evaluation
from plgen_ddp.files import check_output
from plgen_ddp.label.embed_names import embed_names
from plgen_ddp.label.job import label_store
from plgen_ddp.label.plan import plan_labelling
from plgen_ddp.label.vocabulary import read_vocabulary
from plgen_ddp.options import given, packaged_configs, require
from plgen_ddp.report.judging import NovelObjects, read_novel_objects
from plgen_ddp.report.stand_ins import choose_stand_ins, with_stand_ins
from plgen_ddp.screen_text import visible_name
from plgen_ddp.store import store_of

# The packaged rules, the recipe first and the best last.
_RULES = ("marvelovd", "vlplm", "sasdet", "dstdet", "hcc", "aggdet", "lpovod", "best")


@dataclass(frozen=True, slots=True)
class RuleResult:
    """One rule's labels and what they are worth.

    Attributes:
        preset: its name.
        labels: the labelled JSON.
        seconds: of labelling; text embeddings had been made before.
    """

    preset: str
    labels: Path
    evaluation: Evaluation
    seconds: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rules on one store.

    Attributes:
        objects: what the labels are compared with.
        stand_ins: whether base names were labelled in the place of the novel ones.
        results: in the order of the presets.
        left_out: presets that cannot label this store with these names, and why.
    """

    objects: NovelObjects
    stand_ins: bool
    results: tuple[RuleResult, ...]
    left_out: dict[str, str]

    def figures(self) -> dict[str, Any]:
        """All figures as plain values, for a JSON file."""
        return {
            "ground_truth": self.objects.path.name,
            "names": list(self.objects.names),
            "stand_ins": self.stand_ins,
            "left_out": self.left_out,
            "rules": {
                result.preset: asdict(result.evaluation)
                | {
                    "seconds": round(result.seconds, 2),
                    "confidence_off_by": result.evaluation.quality.confidence_off_by,
                }
                for result in self.results
            },
        }


def default_presets(config_name: str) -> list[str]:
    """The packaged presets that belong to a config: demo_vlplm and so on for demo, else those of COCO."""
    configs = packaged_configs()
    family = Path(config_name).stem.partition("_")[0]
    for prefix in (family, "coco"):
        found = [f"{prefix}_{rule}" for rule in _RULES if (configs / f"{prefix}_{rule}.yaml").is_file()]
        if found:
            return found
    raise AssertionError("the presets of COCO are packaged")


def compare(
    config: Config,
    overrides: Sequence[str],
    presets: Sequence[str],
    *,
    ground_truth: Path | None = None,
    stand_ins: bool = False,
    folder: Path | None = None,
) -> Comparison:
    """Labels the store of a config by each preset's rule, and compares the labels with the ground truth.

    A preset gives its section `label`. Dataset, store, encoder and templates are the config's, and so are the names: a
    preset's own vocabulary is taken where it has the same novel names, for its hierarchy or its words for background.

    Args:
        overrides: the words that changed the config; those of `label` change every preset.
        presets: packaged configs or files.
        ground_truth: a JSON with annotations of the novel names; the JSON that is labelled by default.
        stand_ins: label base names in the place of the novel ones, and take their own annotations as ground truth.
        folder: gets the labelled JSONs, named by preset; by default `run.output`/comparison, or `run.output`/stand_ins.

    Raises:
        UserError: a mistake in the options, a ground truth without novel objects, or no preset can label the store.
    """
    folder = folder or Path(given(config.run.output), "stand_ins" if stand_ins else "comparison")
    configs = {Path(preset).stem: _with_rule(config, preset, overrides, folder) for preset in presets}
    if len(configs) < len(presets):
        raise UserError(f"--presets: two of {', '.join(presets)} have the same name")
    configs, objects = _with_objects(configs, ground_truth, stand_ins=stand_ins)
    results, left_out = [], {}
    for preset, configured in configs.items():
        try:
            results.append(_label(preset, configured, objects))
        except UserError as error:
            left_out[preset] = str(error)
            if len(left_out) == len(configs):
                raise
    return Comparison(objects, stand_ins, tuple(results), left_out)


def _with_rule(config: Config, preset: str, overrides: Sequence[str], folder: Path) -> Config:
    """The configuration with the preset's rule."""
    label = load_config(preset, [word for word in overrides if word.startswith("label.")], effective=False).label
    own = config.label
    configured = replace(
        config,
        label=replace(
            label,
            annotations=own.annotations or label.annotations,
            vocabulary=label.vocabulary or own.vocabulary,
            templates=own.templates or label.templates,
            allow_partial=own.allow_partial or label.allow_partial,
            output=str(folder / f"{Path(preset).stem}.json"),
        ),
    )
    for key in ("label.vocabulary", "label.templates"):
        require(configured, key)
    if not own.vocabulary:
        return configured
    theirs, ours = read_vocabulary(configured), read_vocabulary(config)
    if (theirs.novel, theirs.novel_where) != (ours.novel, ours.novel_where):
        return replace(configured, label=replace(configured.label, vocabulary=own.vocabulary))
    return configured


def _with_objects(
    configs: dict[str, Config], ground_truth: Path | None, *, stand_ins: bool
) -> tuple[dict[str, Config], NovelObjects]:
    """The configurations, with stand-ins if they are asked for, and the objects to find."""
    first = next(iter(configs))
    plain = configs[first]  # the rule decides nothing here, and a hierarchy may not be there
    plan = plan_labelling(replace(plain, label=replace(plain.label, class_score="novel", box_score="none")))
    vocabularies = {preset: read_vocabulary(configured).of_json(plan.coco) for preset, configured in configs.items()}
    for preset, vocabulary in vocabularies.items():
        if set(vocabulary.novel) != set(vocabularies[first].novel):
            raise UserError(f"--presets: {preset} and {first} label other names; set label.vocabulary for all of them")
    check_output(plan.output, "--output", {"--ground-truth": ground_truth})
    if not stand_ins:
        return configs, read_novel_objects(ground_truth or plan.coco.path, plan.vocabulary.novel)
    names = choose_stand_ins(plan.coco, plan.vocabulary)
    print_line(f"{len(names)} base names stand in for novel ones: {', '.join(map(visible_name, names))}", error=True)
    changed = {
        preset: with_stand_ins(configured, plan.coco, vocabularies[preset], names)
        for preset, configured in configs.items()
    }
    return changed, read_novel_objects(ground_truth or plan.coco.path, names)


def _label(preset: str, config: Config, objects: NovelObjects) -> RuleResult:
    plan = plan_labelling(config)
    if store_of(config).manifest().vocabulary is None:  # imported scores have no embeddings
        embed_names(plan)
    start = time.perf_counter()
    summary = label_store(plan)
    seconds = time.perf_counter() - start
    print_line(f"{preset}: {summary.pseudo_labels} labels in {seconds:.1f} s", error=True)
    return RuleResult(preset, summary.path, evaluate(summary.path, objects.path), seconds)
