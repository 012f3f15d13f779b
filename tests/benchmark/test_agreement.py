"""How two precisions are compared: shares of boxes and of pseudo labels, from two stores."""

import numpy as np
import pytest
import torch

from plgen_ddp.benchmark.agreement import changed_labels, compare_stores, same_boxes
from plgen_ddp.benchmark.inputs import Inputs, preset
from plgen_ddp.encoders.loading import load_encoder
from plgen_ddp.records import PseudoLabels, Regions
from plgen_ddp.store import Manifest, RegionStore


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def test_same_boxes_is_a_share_over_all_images():
    expected = {1: boxes([0, 0, 100, 100], [50, 50, 80, 80]), 2: boxes(), 3: boxes([0, 0, 10, 10])}
    found = {1: boxes([0, 0, 100, 98], [50, 50, 80, 75]), 2: boxes([0, 0, 9, 9]), 3: boxes([0, 0, 10, 10])}
    assert same_boxes(expected, expected) == 1
    assert same_boxes(found, expected) == 2 / 4


def labels(image_ids, category_ids, boxes_xywh):
    zeros = np.zeros(len(image_ids))
    columns = np.array(boxes_xywh, np.float64).reshape(-1, 4)
    return PseudoLabels(
        np.array(image_ids, np.int64), np.array(category_ids, np.int64), columns, zeros, zeros, zeros, zeros
    )


def test_changed_labels_counts_both_sides():
    one = labels([1, 1, 2], [7, 8, 7], [[0, 0, 10, 10], [5, 5, 10, 10], [0, 0, 10, 10]])
    renamed = labels([1, 1, 2], [7, 9, 7], [[0, 0, 10, 10], [5, 5, 10, 10], [0, 0, 10, 10]])
    nothing = labels([], [], [])
    assert changed_labels(one, one) == 0
    assert changed_labels(renamed, one) == pytest.approx(2 / 6)
    assert changed_labels(nothing, one) == 1 and changed_labels(nothing, nothing) == 0


def test_stores_are_compared_by_their_boxes_and_by_the_labels_of_both_presets(tmp_path, tiny_models):
    (tmp_path / "names.yaml").write_text("novel: [cat, dog]\n")
    (tmp_path / "templates.txt").write_text("a photo of {article} {}.\n")
    words = (
        f"clip.model={tiny_models.clip}",
        f"label.vocabulary={tmp_path / 'names.yaml'}",
        f"label.templates={tmp_path / 'templates.txt'}",
    )
    encoder = load_encoder(preset("vlplm", words).clip, tiny_models.clip, torch.device("cpu"), "fp32")
    names = encoder.encode_texts(["a photo of a cat.", "a photo of a dog."]).numpy().astype(np.float16)

    def store(folder, second_box):
        store = RegionStore(tmp_path / folder)
        identity = {"dataset": {"digest": "", "images": 2}}
        store.open_for_scoring(Manifest(encoder.dim, encoder.similarity, identity, {}))
        # A cat of much objectness and a dog of little: VL-PLM labels the cat alone, MarvelOVD both.
        two_boxes = np.array([[0, 0, 50, 50], second_box], np.float32)
        scored = Regions(1, two_boxes, np.array([0.9, 0.5], np.float32), names)
        store.write_part([scored, Regions.failed(2, "decode", "not an image")])
        return store

    stores = {"fp32": store("fp32", [60, 60, 90, 90]), "bf16": store("bf16", [60, 60, 90, 80])}
    (found,) = compare_stores(Inputs(tmp_path, 2, 2, words), stores, "fp32")
    assert (found.precision, found.reference, found.boxes, found.same_boxes) == ("bf16", "fp32", 2, 0.5)
    assert found.labels == {"marvelovd": 2, "vlplm": 1}
    assert found.changed_labels == {"marvelovd": 0.5, "vlplm": 0.0}
