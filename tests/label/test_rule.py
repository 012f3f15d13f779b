"""Each family of rules against a plain reading of its formula, box by box."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plgen_ddp.config import LabelConfig
from plgen_ddp.errors import UserError
from plgen_ddp.label.box_scores import fuse
from plgen_ddp.label.class_scores import hierarchical
from plgen_ddp.label.labels import kept_boxes
from plgen_ddp.label.rule import Rule, ScoredBoxes, name_table
from plgen_ddp.label.vocabulary import Vocabulary
from plgen_ddp.records import Regions, Similarity

TEMPERATURE, DIM, EXTENT = 0.1, 5, (100, 80)
CLIP = Similarity("softmax", TEMPERATURE)
BASE = ("cat", "dog")
NAMES = Vocabulary(
    novel=("bus", "cup", "key"),
    base=BASE,
    distractors=("grass",),
    supers={name: (f"{name} thing", "object") for name in ("bus", "cup", "key", *BASE)},
    subs={
        name: tuple(f"{name} {number}" for number in range(count))
        for name, count in zip(("bus", "cup", "key", *BASE), (1, 3, 2, 2, 4), strict=True)
    },
)
RULES = [
    LabelConfig(class_score="novel"),
    LabelConfig(class_score="all"),
    LabelConfig(class_score="all", require_novel=True),
    LabelConfig(class_score="hierarchy"),
    LabelConfig(class_score="hierarchy", threshold="f_beta_base"),
]
SEEDS = st.integers(0, 2**32 - 1)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def regions_of(seed, count):
    """Boxes of one image with all evidence."""
    random = np.random.default_rng(seed)
    low = random.uniform(0, 50, (count, 2))
    boxes = np.concatenate([low, low + random.uniform(2, 30, (count, 2))], axis=1).astype(np.float32)
    objectness, *evidence = random.random((5, count)).astype(np.float32)
    return Regions(seed, boxes, objectness, unit(random.standard_normal((count, DIM))).astype(np.float16), *evidence)


def rule_of(options, seed):
    """A rule, and the text embedding of each word."""
    table = name_table(NAMES, BASE, options)
    known = {}
    random = np.random.default_rng(seed)
    for words in table.words:
        known.setdefault(words[0], unit(random.standard_normal((1, DIM)))[0].astype(np.float32))
    return Rule(options, table, np.stack([known[words[0]] for words in table.words]), CLIP), known


def softmax(embedding, words, known):
    """Probability of each word, by its name. Words that are given twice share what they get."""
    row = embedding.astype(float) / math.sqrt(sum(float(value) ** 2 for value in embedding))
    weight = [math.exp(float(row @ known[word].astype(float)) / TEMPERATURE) for word in words]
    return [value / sum(weight) for value in weight]


def plain_class_scores(embedding, options, known, names):
    """Probability of each of the names that are asked for."""
    others = [*({*NAMES.novel, *BASE} - set(names)), *NAMES.distractors]
    if options.class_score == "novel":
        return softmax(embedding, [*names, *NAMES.distractors], known)[: len(names)]
    if options.class_score == "all":
        found = softmax(embedding, [*names, *others], known)
        asked = found[: len(names)]
        return [0.0] * len(names) if options.require_novel and max(found) > max(asked) else asked
    p = softmax(embedding, [*names, *NAMES.distractors], known)[: len(names)]
    r = [0.0] * len(names)
    for level in (NAMES.supers, NAMES.subs):
        words = [(place, word) for place, name in enumerate(names) for word in level[name]]
        of_word = softmax(embedding, [word for _, word in words], known)
        z = [
            max(value for (owner, _), value in zip(words, of_word, strict=True) if owner == place)
            for place in range(len(names))
        ]
        total = sum(one * other for one, other in zip(p, z, strict=True))
        r = [value + one * other / total / 2 for value, one, other in zip(r, p, z, strict=True)]
    return r


@settings(deadline=None)
@given(SEEDS, st.integers(0, 4), st.sampled_from(RULES))
def test_names_and_class_scores_are_the_plain_formulas(seed, count, options):
    rule, known = rule_of(options, seed)
    image = regions_of(seed, count)
    groups = {"novel": NAMES.novel} | ({"base": BASE} if rule.table.base else {})
    for group, names in groups.items():
        scored = rule.score(image, rule.cosines(image), EXTENT, group)
        assert len(scored.name) == len(scored.class_score) == count
        for box in range(count):
            expected = plain_class_scores(image.embeddings[box], options, known, names)
            assert scored.class_score[box] == pytest.approx(max(expected), rel=1e-5)
            if max(expected) > 0:
                assert expected[scored.name[box]] == pytest.approx(max(expected), rel=1e-5)
        np.testing.assert_array_equal(scored.box_score, image.objectness.astype(float))


@settings(deadline=None)
@given(SEEDS, st.integers(0, 3), st.sampled_from(["novel", "base"]))
def test_what_verified_knows_of_a_boxs_name_is_the_plain_formula(seed, count, group):
    rule, known = rule_of(LabelConfig(box_score="verified"), seed)
    words = len(rule.table.words)
    rule = replace(rule, cosine_mean=np.zeros(words), cosine_deviation=np.ones(words))
    image = regions_of(seed, count)
    asked, others = (NAMES.novel, BASE) if group == "novel" else (BASE, NAMES.novel)
    names = [*asked, *others]
    named = rule.named(rule.cosines(image), group)
    for box in range(count):
        p = softmax(image.embeddings[box], [*names, *NAMES.distractors], known)
        best = max(range(len(asked)), key=lambda place: p[place])
        assert p[named.name[box]] == pytest.approx(p[best], rel=1e-5)
        assert named.probability[box] == pytest.approx(p[best], rel=1e-5)
        assert named.share[box] == pytest.approx(p[best], rel=1e-5)
        assert named.of_group[box] == pytest.approx(sum(p[: len(asked)]), rel=1e-5)
        assert named.runner_up[box] == pytest.approx(max(p[:best] + p[best + 1 :]), rel=1e-5)
        for level, found in zip((NAMES.supers, NAMES.subs), named.levels, strict=True):
            owned = [(name, word) for name in names for word in level[name]]
            of_word = softmax(image.embeddings[box], [word for _, word in owned], known)
            z = [max(q for (name, _), q in zip(owned, of_word, strict=True) if name == one) for one in names]
            total = sum(one * other for one, other in zip(p, z, strict=False))
            assert found[box] == pytest.approx(p[best] * z[best] / total, rel=1e-5)


def test_only_boxes_whose_likeliest_name_is_novel_count_where_that_is_required():
    free, _ = rule_of(LabelConfig(class_score="all"), 3)
    strict = replace(free, options=LabelConfig(class_score="all", require_novel=True))
    image = regions_of(3, 60)
    cosine = free.cosines(image)
    novel = cosine.argmax(axis=1) < 3
    assert novel.any() and not novel.all()
    one, other = free.score(image, cosine, EXTENT), strict.score(image, cosine, EXTENT)
    np.testing.assert_array_equal(other.class_score, np.where(novel, one.class_score, 0))


def test_the_hierarchy_rises_where_levels_agree_and_falls_where_they_do_not():
    owner = np.arange(2)
    p = np.array([[0.6, 0.4]])
    agree, differ = np.array([[0.8, 0.2]]), np.array([[0.2, 0.8]])
    both = hierarchical(p, agree, owner, agree, owner)[0, 0]
    neither = hierarchical(p, differ, owner, differ, owner)[0, 0]
    split = hierarchical(p, agree, owner, differ, owner)[0, 0]
    assert both == pytest.approx(0.48 / 0.56) and neither == pytest.approx(0.12 / 0.44)
    assert neither < 0.6 < both and split == pytest.approx((both + neither) / 2)
    flat = np.array([[0.5, 0.5]])
    np.testing.assert_allclose(hierarchical(p, flat, owner, flat, owner), p)


def test_names_without_super_or_sub_words_are_refused_when_it_is_planned():
    hierarchy, chooses = (
        LabelConfig(class_score="hierarchy"),
        LabelConfig(class_score="hierarchy", threshold="precision"),
    )
    without = replace(NAMES, subs={name: words for name, words in NAMES.subs.items() if name != "cup"})
    with pytest.raises(
        UserError, match=r"^label.class_score is hierarchy, and 1 of 3 novel names have no sub words: 'cup'; add them"
    ):
        name_table(without, BASE, hierarchy)
    novel_only = replace(NAMES, supers={name: NAMES.supers[name] for name in NAMES.novel})
    with pytest.raises(UserError, match=r"2 of 2 base names have no super words: 'cat', 'dog'; .*threshold precision"):
        name_table(novel_only, BASE, chooses)
    table = name_table(novel_only, BASE, hierarchy)
    assert set(table.levels) == {"novel"} and table.base == 0


@pytest.mark.parametrize(
    ("options", "names", "others"),
    [
        ({}, 3, 1),
        ({"box_score": "learned"}, 3, 1),  # it knows boxes and base annotations, and no name
        ({"box_score": "verified"}, 5, 1 + 10 + 12),  # where every name has both levels
        ({"threshold": "f_beta_base"}, 5, 1),
        ({"class_score": "all"}, 5, 1),
        ({"class_score": "retrieved"}, 5, 1),
        ({"class_score": "hierarchy", "box_score": "learned"}, 3, 1 + 6 + 6),
        ({"class_score": "hierarchy", "threshold": "precision"}, 5, 1 + 10 + 12),
        ({"class_score": "hierarchy", "box_score": "verified"}, 5, 1 + 10 + 12),
    ],
)
def test_a_rule_embeds_only_the_words_that_it_looks_at(options, names, others):
    assert len(name_table(NAMES, BASE, LabelConfig(**options)).words) == names + others


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_fusions_are_the_plain_formulas(c, b, w):
    def fused(fusion):
        return float(fuse(np.array([c]), np.array([b]), fusion, w)[0])

    def logit(p):
        p = min(max(p, 1e-6), 1 - 1e-6)
        return math.log(p / (1 - p))

    assert fused("mean") == pytest.approx(w * b + (1 - w) * c)
    assert fused("geometric") == pytest.approx(b**w * c ** (1 - w))
    assert fused("logits") == pytest.approx(1 / (1 + math.exp(-(w * logit(b) + (1 - w) * logit(c)))))
    assert fused("class_only") == c


@pytest.mark.parametrize("name", ["objectness", "foreground", "agreement", "none"])
def test_a_box_score_is_a_column_of_the_store_or_one(name):
    rule, _ = rule_of(LabelConfig(box_score=name, objectness_weight=1.0), 0)
    image = regions_of(4, 10)
    scored = rule.score(image, rule.cosines(image), EXTENT)
    np.testing.assert_array_equal(scored.score, np.ones(10) if name == "none" else getattr(image, name))
    np.testing.assert_array_equal(scored.score, scored.box_score)


@pytest.mark.parametrize("name", ["foreground", "agreement"])
def test_evidence_that_a_store_lacks_is_named(name):
    rule, _ = rule_of(LabelConfig(box_score=name), 0)
    image = replace(regions_of(4, 10), foreground=None, agreement=None)
    with pytest.raises(UserError, match=f"^label.box_score is {name}, and the boxes of this store have no such"):
        rule.score(image, rule.cosines(image), EXTENT)


def overlap(one, other):
    return max(min(one[2], other[2]) - max(one[0], other[0]), 0) * max(min(one[3], other[3]) - max(one[1], other[1]), 0)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def iou(one, other):
    return overlap(one, other) / (area(one) + area(other) - overlap(one, other))


def plainly_kept(boxes, scored, base, options, threshold):
    """Box by box, the best first: what is kept. A box is inside a better one of those that NMS has left."""
    boxes, base = boxes.astype(float).tolist(), base.tolist()
    left = []
    for place in sorted(range(len(boxes)), key=lambda place: -scored.score[place]):
        box = boxes[place]
        if scored.score[place] <= threshold or scored.box_score[place] < options.box_threshold:
            continue
        if "base_iou" in options.suppress and any(iou(box, other) > options.base_iou for other in base):
            continue
        if "base_inside" in options.suppress and any(overlap(box, other) / area(box) > 0.8 for other in base):
            continue
        better = [boxes[other] for other in left if scored.name[other] == scored.name[place]]
        if all(iou(box, other) <= options.nms_iou for other in better):
            left.append(place)
    if "inside" not in options.suppress:
        return left
    return [
        place
        for rank, place in enumerate(left)
        if not any(
            scored.name[other] == scored.name[place] and overlap(boxes[place], boxes[other]) / area(boxes[place]) > 0.8
            for other in left[:rank]
        )
    ]


@settings(deadline=None)
@given(
    SEEDS,
    st.integers(0, 12),
    st.integers(0, 3),
    st.sets(st.sampled_from(["inside", "base_iou", "base_inside"])),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, 0.5]),
)
def test_what_is_kept_is_what_a_plain_loop_keeps(seed, count, base, suppress, box_threshold, threshold):
    random = np.random.default_rng(seed)

    def some(rows):
        low = random.integers(0, 6, (rows, 2))
        return np.concatenate([low, low + random.integers(1, 8, (rows, 2))], axis=1)

    boxes, base_boxes = some(count).astype(np.float32), some(base).astype(np.float64)
    score, box_score = random.permutation(count) / max(count, 1), np.round(random.random(count), 1)
    scored = ScoredBoxes(random.integers(0, 2, count), score, box_score, score)
    options = LabelConfig(suppress=tuple(suppress), box_threshold=box_threshold, base_iou=0.4)
    expected = plainly_kept(boxes, scored, base_boxes, options, threshold)
    assert kept_boxes(boxes, scored, base_boxes, options, threshold).tolist() == expected


@pytest.mark.parametrize(
    ("suppress", "kept"),
    [
        ((), [0, 1, 2, 3]),
        (("inside",), [0, 2, 3]),
        (("base_iou",), [0, 1, 3]),
        (("base_inside",), [0, 1]),
        (("inside", "base_iou", "base_inside"), [0]),
    ],
)
def test_each_suppression_drops_what_it_is_named_for(suppress, kept):
    boxes = np.array([[0, 0, 40, 40], [5, 5, 20, 20], [100, 100, 140, 138], [110, 110, 120, 120]], np.float32)
    base = np.array([[100.0, 100, 140, 140]])
    score = np.array([0.9, 0.8, 0.7, 0.6])
    scored = ScoredBoxes(np.array([0, 0, 0, 1]), score, score, score)
    assert kept_boxes(boxes, scored, base, LabelConfig(suppress=suppress), 0.1).tolist() == kept
