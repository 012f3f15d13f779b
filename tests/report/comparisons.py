"""Comparisons made by hand, for tests of the table and the picture."""

from pathlib import Path

import numpy as np

from plgen_ddp.label.base_annotations import BaseBoxes
from plgen_ddp.label_quality import LabelQuality
from plgen_ddp.records import Evaluation
from plgen_ddp.report.comparison import Comparison, RuleResult
from plgen_ddp.report.judging import Objects


def boxes_of(image_ids):
    """One box for each of these image ids."""
    ids = np.sort(np.array(image_ids, np.int64))
    return BaseBoxes(ids, np.tile([0.0, 0.0, 10.0, 10.0], (len(ids), 1)), np.zeros(len(ids), np.int64))


def objects_of(image_ids, names=("cat", "dog")):
    """Novel objects in these images."""
    return Objects(Path("truth.json"), frozenset(image_ids), tuple(names), boxes_of(image_ids), boxes_of([]))


def result_of(preset, *, labels=10, precision=0.5, recall=0.5, on_nothing=0.2, seconds=1.0, reliability=()):
    """One rule's figures; those that no test looks at are the same for all."""
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    quality = LabelQuality(
        labels, 8, 4, precision, recall, f1, on_nothing, 0.1, 0.05, on_nothing - 0.15, 0.01, 0.0, reliability
    )
    metrics = Evaluation(0.3, 0.5, 0.3, -1.0, 0.3, -1.0, 0.4, labels / 4, labels, 4, {"cat": 0.5, "dog": 0.5})
    return RuleResult(preset, Path(f"{preset}.json"), 0.5, metrics, quality, seconds)


def comparison_of(*results, left_out=None, stand_ins=False):
    return Comparison(objects_of([1, 2, 3, 4]), stand_ins, results, left_out or {})
