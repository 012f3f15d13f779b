"""Overlaps and one-to-one matches, against loops over pairs of boxes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from plgen_ddp.boxes import areas, covered, intersections, ious, match_one_to_one

SIDE = st.integers(0, 4)
BOXES = st.lists(
    st.tuples(SIDE, SIDE, SIDE, SIDE).map(lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])), max_size=6
).map(lambda rows: np.array(rows, np.float64).reshape(-1, 4))


def cells(box):
    """The unit squares of a box with whole corners."""
    left, top, right, bottom = box.astype(int).tolist()
    return {(x, y) for x in range(left, right) for y in range(top, bottom)}


@given(BOXES, BOXES)
def test_overlaps_are_counts_of_unit_squares(boxes, others):
    assert areas(boxes).tolist() == [len(cells(box)) for box in boxes]
    found = intersections(boxes, others), ious(boxes, others), covered(boxes, others)
    assert {array.shape for array in found} == {(len(boxes), len(others))}
    for row, box in enumerate(boxes):
        for column, other in enumerate(others):
            shared, union = cells(box) & cells(other), cells(box) | cells(other)
            expected = len(shared), len(shared) / max(len(union), 1), len(shared) / max(len(cells(box)), 1)
            np.testing.assert_allclose([array[row, column] for array in found], expected, rtol=1e-12)


def plain_matches(overlap, same_name, iou):
    taken, right = set(), []
    for label in range(len(overlap)):
        free = [place for place in range(overlap.shape[1]) if place not in taken and same_name[label, place]]
        best = max(free, key=lambda place: overlap[label, place], default=None)
        right.append(best is not None and overlap[label, best] >= iou)
        if right[-1]:
            taken.add(best)
    return right


@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.integers(0, 5))
def test_each_label_takes_the_free_object_that_it_overlaps_most(seed, labels, objects):
    random = np.random.default_rng(seed)
    overlap = np.round(random.random((labels, objects)), 1)  # with ties
    same_name = random.random((labels, objects)) < 0.7
    assert match_one_to_one(overlap, same_name, 0.5).tolist() == plain_matches(overlap, same_name, 0.5)


def test_an_object_is_found_once_and_a_second_label_takes_its_second_best():
    everything = np.ones((3, 2), bool)
    overlap = np.array([[0.9, 0.6], [0.8, 0.7], [0.9, 0.9]])
    assert match_one_to_one(overlap, everything, 0.5).tolist() == [True, True, False]
    assert match_one_to_one(overlap[:, :1], everything[:, :1], 0.5).tolist() == [True, False, False]
