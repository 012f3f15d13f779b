"""Comparisons made by hand, for tests of the table and the picture."""

from collections import Counter
from pathlib import Path

import numpy as np

from plgen_ddp.figures import Evaluation
from plgen_ddp.label_quality import ImageBoxes, LabelQuality
from plgen_ddp.report.comparison import Comparison, RuleResult
from plgen_ddp.report.judging import NovelObjects


def objects_of(image_ids, names=("cat", "dog")):
    """A novel object for each of these image ids, which may be repeated."""
    counts = Counter(image_ids)
    some = {id: ImageBoxes(np.zeros((n, 4)), np.zeros(n, np.int64), np.ones(n)) for id, n in counts.items()}
    return NovelObjects(Path("truth.json"), tuple(names), some)


def result_of(preset, *, labels=10, precision=0.5, recall=0.5, on_nothing=0.2, seconds=1.0, reliability=()):
    """One rule's figures; those that no test looks at are the same for all."""
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    quality = LabelQuality(
        labels, 8, 4, precision, recall, f1, on_nothing, 0.1, 0.05, on_nothing - 0.15, 0.01, 0.0, reliability
    )
    metrics = Evaluation(
        *(0.3, 0.5, 0.3, -1.0, 0.3, -1.0, 0.4, labels / 4, labels, 4, {"cat": 0.5, "dog": 0.5}),
        score_threshold=0.5,
        quality=quality,
        base_objects=8,
        store=None,
        published=None,
    )
    return RuleResult(preset, Path(f"{preset}.json"), metrics, seconds)


def comparison_of(*results, left_out=None, stand_ins=False):
    return Comparison(objects_of([1, 2, 3, 4]), stand_ins, results, left_out or {})
