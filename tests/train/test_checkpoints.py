"""What a training starts from and goes on from: arrays, files that would run code, the options it began with."""

import json
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from plgen_ddp.errors import UserError
from plgen_ddp.score.mask_rcnn import read_detector_config
from plgen_ddp.train.checkpoints import open_output
from plgen_ddp.train.data import read_training_data


def test_initial_weights_come_from_arrays_in_a_pickle(words, detector, dataset, launch, refused, tmp_path):
    cfg = read_detector_config(detector)
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(5)
    backbone = {
        name.removeprefix("backbone.bottom_up."): value.numpy()
        for name, value in build_model(cfg).state_dict().items()
        if name.startswith("backbone.bottom_up.")
    }
    path = tmp_path / "backbone.pkl"
    layout = {"model": OrderedDict(backbone), "__author__": "somebody", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(layout, protocol=2))
    options = [*words, *dataset(4), "train.steps=1", "train.base_lr=1e-9", "train.weight_decay=0"]
    launch("train_proposals", *options, f"detector.weights={path}")
    trained = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    for name, value in backbone.items():
        np.testing.assert_allclose(trained[f"backbone.bottom_up.{name}"], value, atol=1e-6)

    del layout["model"]["stem.conv1.weight"]
    path.write_bytes(pickle.dumps(layout))
    line = refused(*options, f"detector.weights={path}", f"run.output={tmp_path / 'other'}")
    assert "lacks 1 tensors" in line
    assert "stem.conv1.weight" in line


@pytest.mark.parametrize("name", ["weights.pkl", "weights.pth"])
def test_a_file_that_runs_code_is_refused_and_never_run(words, dataset, refused, tmp_path, name):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harmed"), "w"))

    if name.endswith(".pkl"):
        (tmp_path / name).write_bytes(pickle.dumps({"model": {"a": Harm()}, "__author__": "x"}))
    else:
        torch.save({"model": {"a": Harm()}}, tmp_path / name)
    line = refused(*words, *dataset(2), f"detector.weights={tmp_path / name}")
    assert "is not a checkpoint of tensors" in line
    assert not (tmp_path / "harmed").exists()


def test_a_checkpoint_of_another_shape_is_named(words, dataset, tiny_models, refused, tmp_path):
    state = torch.load(tiny_models.weights, weights_only=True)
    name = "roi_heads.box_predictor.bbox_pred.weight"
    state["model"][name] = torch.cat([state["model"][name]] * 20)
    torch.save(state, tmp_path / "eighty.pth")
    line = refused(*words, *dataset(2), f"detector.weights={tmp_path / 'eighty.pth'}")
    assert f"{name} has shape (80, " in line
    assert "needed is (4, " in line
    assert "1 tensors differ" in line


@pytest.fixture
def opened(words, dataset, configuration, detector, tmp_path):
    """Opens the output of a training that began with some words; the function opens it again with others."""
    (tmp_path / "weights.pth").write_bytes(b"weights")
    given = [*words, *dataset(3), f"detector.weights={tmp_path / 'weights.pth'}"]

    def start(*others):
        config = configuration([*given, *others])
        open_output(config, read_training_data(config, with_masks=True), Path(config.detector.weights))

    start()
    (tmp_path / "out" / "last_checkpoint").write_text("model_0000001.pth")
    start()
    return start


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("train.seed=7", "train.seed 0 -> 7"),
        ("train.decay_at=[5]", "train.decay_at "),
        ("data.vocabulary=[heart, fish, mushroom, umbrella, key, cup, moon]", "data.vocabulary "),
    ],
)
def test_an_option_that_decides_the_weights_cannot_change(opened, word, named):
    with pytest.raises(UserError, match="holds a training with other options: ") as caught:
        opened(word)
    assert named in str(caught.value)
    assert str(caught.value).count(" -> ") == 1, "nothing else is said to have changed"


@pytest.mark.parametrize("name", ["weights.pth", "detector.yaml", "data.json"])
def test_a_file_that_decides_the_weights_cannot_change(opened, tmp_path, name):
    path = tmp_path / name
    if name == "data.json":
        data = json.loads(path.read_text())
        data["annotations"][0]["bbox"][0] += 1
        path.write_text(json.dumps(data))
    else:
        path.write_text(path.read_text() + "\n")
    named = {"weights.pth": "detector.weights", "detector.yaml": "detector.config", "data.json": "data.annotations"}
    with pytest.raises(UserError, match=f"other options: {named[name]} "):
        opened()


def test_other_options_and_places_may_change(opened, dataset, scenes, tmp_path):
    moved = tmp_path / "moved.pth"
    moved.write_bytes((tmp_path / "weights.pth").read_bytes())
    (tmp_path / "images").symlink_to(scenes)
    opened(
        *(f"detector.weights={moved}", f"data.image_root={tmp_path / 'images'}"),
        *dataset(3, name="moved.json")[:1],
        *("run.workers=3", "run.checkpoint_every=1", "recall.every=5"),
        f"data.validation_annotations={scenes / 'annotations' / 'instances_val.json'}",
    )
