"""Thresholds from base names, against trying every threshold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plgen_ddp.label.thresholds import ChosenThreshold, best_f_beta, lowest_with_precision

LABELS = st.lists(st.tuples(st.integers(1, 20), st.booleans()), max_size=12)


def arrays(labels):
    return np.array([score / 20 for score, _ in labels], np.float64), np.array([right for _, right in labels], bool)


def above(threshold, scores, right):
    """(right labels, all labels) with a score above it, as labelling keeps them."""
    return int(right[scores > threshold].sum()), int((scores > threshold).sum())


def assert_says_what_it_does(chosen, scores, right, objects):
    found, made = above(chosen.threshold, scores, right)
    assert chosen.precision == pytest.approx(found / max(made, 1))
    assert chosen.recall == pytest.approx(found / max(objects, 1))


@given(LABELS, st.integers(0, 5), st.sampled_from([0.25, 0.5, 1.0, 2.0]))
def test_no_threshold_has_a_better_f_beta(labels, missed, beta):
    scores, right = arrays(labels)
    objects = int(right.sum()) + missed
    chosen = best_f_beta(scores, right, objects, beta)

    def quality(threshold):
        found, made = above(threshold, scores, right)
        precision, recall = found / max(made, 1), found / max(objects, 1)
        return (1 + beta**2) * precision * recall / max(beta**2 * precision + recall, 1e-12)

    assert quality(chosen.threshold) == pytest.approx(max(map(quality, [0.0, *scores])), abs=1e-9)
    assert_says_what_it_does(chosen, scores, right, objects)


@given(LABELS, st.integers(0, 5), st.sampled_from([0.3, 0.5, 0.75, 0.9, 1.0]))
def test_no_lower_threshold_has_the_wanted_precision(labels, missed, wanted):
    scores, right = arrays(labels)
    objects = int(right.sum()) + missed
    chosen = lowest_with_precision(scores, right, objects, wanted)
    assert_says_what_it_does(chosen, scores, right, objects)
    counts = {threshold: above(threshold, scores, right) for threshold in [0.0, *scores]}
    precisions = {threshold: found / made for threshold, (found, made) in counts.items() if made}
    good = [threshold for threshold, precision in precisions.items() if precision >= wanted]
    if good:
        assert above(chosen.threshold, scores, right) == counts[min(good)]
    else:
        assert chosen.precision == pytest.approx(max(precisions.values(), default=0))


def test_of_no_labels_the_threshold_keeps_none():
    nothing = np.empty(0), np.empty(0, bool)
    for chosen in (best_f_beta(*nothing, 3, 1.0), lowest_with_precision(*nothing, 3, 0.9)):
        assert chosen == ChosenThreshold(1.0, 0.0, 0.0)


def test_a_threshold_lies_half_way_to_the_next_score():
    scores, right = np.array([0.9, 0.5, 0.1]), np.array([True, True, False])
    assert best_f_beta(scores, right, 2, 1.0).threshold == pytest.approx(0.3)
    assert lowest_with_precision(scores, right, 2, 0.6).threshold == pytest.approx(0.1, abs=1e-6)
