"""Other arithmetic than the CPU's fp32 gives the same objects: learned models, drawn scenes, the job itself."""

import numpy as np
import pytest
import torch
from commands import REPOSITORY, call
from small_datasets import SCENES_JSON, scenes_words
from torchvision.ops import box_iou

from plgen_ddp.device import resolve_precision
from plgen_ddp.evaluation import evaluate
from plgen_ddp.store import RegionStore

WEIGHTS = REPOSITORY / "plgen_ddp" / "demo" / "weights"
WORDS = [
    *("--config", REPOSITORY / "configs" / "demo.yaml", *scenes_words()),
    *(f"detector.weights={WEIGHTS / 'detector.pth'}", f"clip.model={WEIGHTS / 'clip.pt'}"),
]


def images_of(store):
    return {image.image_id: image for path in store.part_paths() for image in store.read_part(path)}


def score(output, device, precision, *words):
    """Stored images by id, of the job on the scenes."""
    options = [f"run.device={device}", f"detector.precision={precision}", f"clip.precision={precision}"]
    call("score", *WORDS, *options, f"run.output={output}", f"label.output={output / 'labels.json'}", *words)
    return images_of(RegionStore(output / "store"))


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cpu", "bf16"),
        pytest.param("cuda", "fp32", marks=pytest.mark.cuda),
        pytest.param("cuda", "bf16", marks=pytest.mark.cuda),
        pytest.param("cuda", "fp16", marks=pytest.mark.cuda),
    ],
)
def test_objects_embeddings_and_labels_stay(demo_run, tmp_path, device, precision):
    assert demo_run.store.manifest().identity["clip"]["precision"] == "fp32", "the demo is the exact one"
    stored = images_of(demo_run.store)
    # A CPU without instructions for bf16 takes ten times as long.
    scenes = 16 if precision == "bf16" and resolve_precision("auto", torch.device(device)) == "fp32" else 48
    found = score(tmp_path, device, precision, "run.images_per_batch=8", f"data.limit={scenes}")
    stored = {image_id: stored[image_id] for image_id in sorted(stored)[:scenes]}
    assert found.keys() == stored.keys()
    objects = expected_objects = same = 0
    cosines = []
    for image_id, expected in stored.items():
        sure = found[image_id].objectness > 0.5
        overlap, nearest = box_iou(
            torch.from_numpy(found[image_id].boxes_xyxy[sure]), torch.from_numpy(expected.boxes_xyxy.copy())
        ).max(dim=1)
        near = (overlap > 0.95).numpy()
        objects, same = objects + len(near), same + int(near.sum())
        expected_objects += int((expected.objectness > 0.5).sum())
        embeddings = found[image_id].embeddings[sure][near].astype(np.float32)
        cosines += (embeddings * expected.embeddings[nearest.numpy()[near]].astype(np.float32)).sum(axis=1).tolist()
    # bf16 on a CPU, the coarsest of them: 98 % of 100 other scenes' boxes.
    assert expected_objects > 10 * scenes and abs(objects - expected_objects) <= 0.05 * expected_objects
    assert same >= 0.95 * objects
    # Two boxes of IoU 0.95 are two crops: a few embeddings differ by more than rounding.
    assert np.median(cosines) > 0.999 and np.quantile(cosines, 0.05) > 0.95
    exact = tmp_path / "exact.json"
    words = [f"run.output={demo_run.output}", f"label.output={exact}", f"data.limit={scenes}"]
    call("label", *WORDS, *words, "run.device=cpu")
    ap50 = [evaluate(labels, SCENES_JSON).AP50 for labels in (tmp_path / "labels.json", exact)]
    assert abs(ap50[0] - ap50[1]) < 0.04


@pytest.mark.cuda
def test_a_gpu_goes_on_from_what_is_stored(tmp_path):
    score(tmp_path, "cuda", "fp16", "data.limit=20")
    written = {path: path.stat().st_mtime_ns for path in RegionStore(tmp_path / "store").part_paths()}
    assert len(score(tmp_path, "cuda", "fp16")) == 48
    assert written and all(path.stat().st_mtime_ns == then for path, then in written.items()), (
        "what was there is not written again"
    )
