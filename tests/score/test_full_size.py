"""The published sizes once: R50-FPN at 800 pixels and ViT-B/32, seeded weights, two scenes. It takes minutes."""

import json
import re

import numpy as np
import pytest
import torch
from commands import REPOSITORY, command, run
from small_datasets import SCENES, SCENES_JSON

from plgen_ddp.benchmark.seeded_models import write_full_clip, write_full_detector
from plgen_ddp.store import RegionStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def full_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    return *write_full_detector(folder), write_full_clip(folder)


def test_weights_have_the_published_form(full_models):
    _, detector, clip = full_models
    state = torch.load(detector, weights_only=True)["model"]
    assert state["backbone.bottom_up.res5.2.conv3.weight"].shape == (2048, 512, 1, 1)
    assert state["roi_heads.box_predictor.bbox_pred.weight"].shape == (4, 1024)
    assert state["roi_heads.box_predictor.cls_score.weight"].shape == (2, 1024)
    parameters = torch.load(clip, weights_only=True)
    assert parameters["visual.conv1.weight"].shape == (768, 3, 32, 32)
    assert parameters["text_projection"].shape == (512, 512)
    assert parameters["visual.conv1.weight"].dtype == torch.float16
    counted = [name for name in parameters if name not in ("input_resolution", "context_length", "vocab_size")]
    assert sum(parameters[name].numel() for name in counted) == 151_277_313  # ViT-B/32 as published


@pytest.mark.parametrize("photos", [False, True], ids=["scenes", "photos"])
def test_the_real_preset_scores_and_labels(full_models, request, tmp_path, photos):
    _, detector, clip = full_models
    root, annotations, names = SCENES, SCENES_JSON, "heart, fish"
    if photos:  # an extra
        root, names = request.getfixturevalue("coco_mini"), "cat, dog"
        annotations = root / "annotations" / "instances_val2017.json"
    done = run(
        command(
            "score.py",
            *("--config", REPOSITORY / "configs" / "coco_marvelovd.yaml"),
            *(f"data.annotations={annotations}", f"data.image_root={root}"),
            *("data.limit=2", f"run.output={tmp_path}"),
            *(f"detector.weights={detector}", f"clip.model={clip}", f"label.vocabulary=[{names}]"),
            *("label.templates=['a photo of {article} {}.']", "clip.precision=fp32", "detector.precision=fp32"),
            ranks=2,
        )
    )
    store = RegionStore(tmp_path / "store")
    assert store.manifest().dim == 512
    images = [image for path in store.part_paths() for image in store.read_part(path)]
    assert len(images) == 2
    for image in images:
        assert 20 < len(image.boxes_xyxy) <= 100
        assert image.embeddings.shape == (len(image.boxes_xyxy), 512)
        np.testing.assert_allclose(np.linalg.norm(image.embeddings.astype(np.float32), axis=1), 1, atol=2e-3)
    assert len(json.loads((tmp_path / "labels.json").read_text())["images"]) == 2
    memory = float(re.search(r"peak memory of a rank ([\d.]+) GB", done.stdout).group(1))
    assert 1.0 < memory < 4.0, "both models are 0.8 GB in float32; activations of one image at a time come on top"
