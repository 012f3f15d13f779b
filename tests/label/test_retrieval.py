"""The boxes of a whole store that are nearest to each name, and the classifiers that they train."""

import functools
import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from plgen_ddp.label import retrieval
from plgen_ddp.label.retrieval import NEAREST, merge, nearest_boxes, train_names


def store_like(seed, count, names=3, dim=4):
    random = np.random.default_rng(seed)
    return np.round(random.random((count, names)), 1), random.standard_normal((count, dim)).astype(np.float16)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 150), min_size=1, max_size=4))
def test_parts_merge_to_the_nearest_of_the_whole(seed, sizes):
    cosine, embeddings = store_like(seed, sum(sizes))
    ends = np.cumsum([0, *sizes])
    parts = [nearest_boxes(cosine[start:end], embeddings[start:end]) for start, end in itertools.pairwise(ends)]
    found = functools.reduce(merge, parts)
    for name in range(3):
        order = sorted(range(len(cosine)), key=lambda row: -cosine[row, name])[:NEAREST]  # of equal ones the earlier
        assert found.cosine[name].tolist() == cosine[order, name].tolist()
        np.testing.assert_array_equal(found.embeddings[name], embeddings[order])


def clusters(seed=0, each=40, dim=8):
    random = np.random.default_rng(seed)
    centres = np.eye(dim)[:3]
    rows = [centre + random.normal(0, 0.1, (each, dim)) for centre in centres]
    return [block / np.linalg.norm(block, axis=1, keepdims=True) for block in rows]


def test_a_classifier_knows_its_own_boxes_from_the_other_names():
    blocks = [block.astype(np.float16) for block in clusters()]
    owned = retrieval.NearestBoxes(tuple(np.ones(len(block)) for block in blocks), tuple(blocks))
    classifiers = train_names(owned)
    for name, unseen in enumerate(clusters(seed=1)):
        probability = classifiers(unseen.astype(np.float16))
        assert probability.shape == (40, 3)
        assert (probability.argmax(axis=1) == name).all() and probability[:, name].min() > 0.9
        assert np.delete(probability, name, axis=1).max() < 0.1
        plain = 1 / (
            1 + np.exp(-(unseen.astype(np.float16).astype(float) @ classifiers.weights.T + classifiers.biases))
        )
        np.testing.assert_allclose(probability, plain, atol=1e-6)


def test_a_box_does_not_depend_on_the_boxes_beside_it():
    blocks = [block.astype(np.float16) for block in clusters()]
    classifiers = train_names(retrieval.NearestBoxes(tuple(np.ones(40) for _ in blocks), tuple(blocks)))
    whole = classifiers(blocks[0])
    for count in (1, 2, 7, 33):
        np.testing.assert_array_equal(classifiers(blocks[0][:count]), whole[:count])


def test_names_without_boxes_and_a_name_without_others_are_never_likely():
    some, nothing = clusters()[0].astype(np.float16), np.empty((0, 8), np.float16)
    one = train_names(retrieval.NearestBoxes((np.ones(40), np.empty(0)), (some, nothing)))
    none = train_names(retrieval.NearestBoxes((np.empty(0), np.empty(0)), (nothing, nothing)))
    assert one(some).max() < 1e-6 and none(some).max() < 1e-6
