"""What wrong labels are: one scene with one label of each kind, and shares that add up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plgen_ddp.label_quality import ImageBoxes, label_quality

CAT, DOG = 0, 1


def boxes(*rows):
    """Rows of (x0, y0, x1, y1, name, score)."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return ImageBoxes(table[:, :4], table[:, 4].astype(np.int64), table[:, 5])


NOVEL = boxes((0, 0, 40, 40, CAT, 1), (100, 0, 140, 40, DOG, 1), (200, 0, 240, 40, CAT, 1))
BASE = boxes((0, 100, 40, 140, 0, 1))
LABELS = {
    "right": (0, 0, 40, 36, CAT, 0.95),
    "duplicate": (0, 0, 40, 38, CAT, 0.9),
    "wrong_name": (100, 0, 140, 38, CAT, 0.8),
    "base_object": (0, 100, 40, 138, CAT, 0.7),
    "part": (210, 10, 225, 25, CAT, 0.6),
    "background": (300, 300, 340, 340, CAT, 0.5),
}


@pytest.mark.parametrize("kind", LABELS)
def test_a_wrong_label_is_of_one_kind(kind):
    found = label_quality([(boxes(*LABELS.values()), NOVEL, BASE)])
    assert (found.labels, found.objects, found.images) == (6, 3, 1)
    assert getattr(found, "precision" if kind == "right" else kind) == pytest.approx(1 / 6)
    assert found.on_nothing == pytest.approx(3 / 6) and found.recall == pytest.approx(1 / 3)
    assert found.f1 == pytest.approx(2 / 9)  # one right label of six, three objects
    kinds = dict(LABELS)
    del kinds[kind]
    if kind != "right":
        without = label_quality([(boxes(*kinds.values()), NOVEL, BASE)])
        assert getattr(without, kind) == 0 and without.precision == pytest.approx(1 / 5)


def test_the_higher_score_is_the_right_one_whatever_the_order():
    two = [LABELS["duplicate"], LABELS["right"]]
    for rows in (two, two[::-1]):
        found = label_quality([(boxes(*rows), NOVEL, BASE)])
        assert (found.precision, found.duplicate) == (0.5, 0.5)
        assert found.reliability == ((2, pytest.approx(0.925), 0.5),)


def test_reliability_is_of_each_tenth_of_the_confidence():
    rows = [(*LABELS["right"][:5], 1.0), (*LABELS["background"][:5], 0.31), (*LABELS["part"][:5], 0.39)]
    assert label_quality([(boxes(*rows), NOVEL, BASE)]).reliability == (
        (2, pytest.approx(0.35), 0.0),
        (1, pytest.approx(1.0), 1.0),
    )
    found = label_quality([(boxes(*rows), NOVEL, BASE)])
    assert found.confidence_off_by == pytest.approx((0.35 + 0) / 2), "each tenth counts once"
    assert label_quality([]).confidence_off_by == 0


@pytest.mark.parametrize("images", [[], [(boxes(), boxes(), boxes())]])
def test_nothing_is_not_a_mistake(images):
    found = label_quality(images)
    assert (found.labels, found.precision, found.recall, found.f1, found.reliability) == (0, 0, 0, 0, ())


@given(st.integers(0, 2**32 - 1), st.integers(0, 8), st.integers(0, 4), st.integers(0, 3))
def test_shares_add_up_to_one(seed, labels, novel, base):
    random = np.random.default_rng(seed)

    def some(count):
        low = random.integers(0, 6, (count, 2))
        corners = np.concatenate([low, low + random.integers(1, 6, (count, 2))], axis=1)
        return ImageBoxes(corners.astype(np.float64), random.integers(0, 2, count), np.round(random.random(count), 1))

    images = [(some(labels), some(novel), some(base)) for _ in range(2)]
    found = label_quality(images)
    assert found.on_nothing == pytest.approx(found.base_object + found.part + found.background)
    total = found.precision + found.duplicate + found.wrong_name + found.on_nothing
    assert total == pytest.approx(1 if labels else 0)
    assert sum(count for count, _, _ in found.reliability) == found.labels == 2 * labels
    assert found.precision * found.labels == pytest.approx(found.recall * found.objects)
