"""A user's mistake is one line that says what to write, before any model is built, and exit status 2."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import plgen_ddp.scoring
import pytest
import torch
from conftest import REPOSITORY, needs_compiler

from plgen_ddp.store import RegionStore


def launcher(name):
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "launch" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def words(coco_mini, tiny_models, tmp_path):
    return [
        "--config",
        str(REPOSITORY / "configs" / "coco_marvelovd.yaml"),
        *tiny_models.overrides(),
        f"data.annotations={coco_mini}/annotations/instances_val2017.json",
        f"data.image_root={coco_mini}",
        f"run.output={tmp_path}/out",
        "run.workers=0",
        "data.limit=2",
    ]


def refused(capsys, script, words):
    """The line that a command prints when it stops with status 2."""
    with pytest.raises(SystemExit) as stopped:
        launcher(script).main(words)
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed.err
    return printed.err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("label.score_treshold=1", "did you mean 'label.score_threshold'"),
        ("data.annotations=nowhere.json", "data.annotations: cannot read nowhere.json: No such file"),
        ("data.annotations=null", "data.annotations is not set"),
        ("data.image_root=nowhere", "data.image_root: no folder at nowhere"),
        ("detector.config=nowhere.yaml", "detector.config: no file at nowhere.yaml"),
        ("detector.weights=nowhere.pth", "detector.weights: no file at nowhere.pth"),
        ("detector.weights=null", "detector.weights is not set"),
        ("clip.model=ViT-B/23", "clip.model: 'ViT-B/23' is neither a file nor one of .*did you mean 'ViT-B/"),
        ("run.device=cuda", "torch sees no GPU here"),
        ("label.vocabulary=[cat, dogg]", "'dogg'; did you mean 'dog'"),
        ("label.vocabulary=[cat, cat]", "given twice: cat"),
        ("label.vocabulary=nowhere.yaml", "label.vocabulary: no file at nowhere.yaml"),
        ("label.templates=['no place']", "label.templates: 'no place' must hold"),
        ("label.annotations=nowhere.json", "label.annotations: cannot read nowhere.json"),
        (
            "label.templates=['" + "very " * 80 + "long {}']",
            "label.vocabulary, label.templates: too long for CLIP.*'very very",
        ),
        ("label.output=/dev/null/labels.json", "label.output: cannot write into /dev/null"),
        ("label.output=/", "label.output: / is a folder"),
        ("label.output={clip}", "label.output: .* is clip.model"),
        ("label.vocabulary=" + ",".join(f"name{number}" for number in range(60)), "cannot use .*: File name too long"),
        ("detector.weights=" + "x" * 300, "cannot use .*: File name too long"),
    ],
)
def test_before_any_model_is_built(words, word, message, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(plgen_ddp.scoring, "MaskRcnn", None)  # building one would be another error
    clip = next(given for given in words if given.startswith("clip.model=")).partition("=")[2]
    line = refused(capsys, "score", [*words, word.replace("{clip}", clip)])
    assert re.search(message, line), line
    assert not (tmp_path / "out" / "labels.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a checkpoint of tensors"),
        (b"not a checkpoint", "is not a checkpoint of tensors"),
        ({"model": {"fc.weight": torch.zeros(2)}}, "no proposal_generator"),
        ([1, 2], "no proposal_generator"),
    ],
)
def test_a_wrong_checkpoint_is_seen_before_any_model_is_built(words, content, message, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(plgen_ddp.scoring, "MaskRcnn", None)
    path = tmp_path / "wrong.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    assert message in refused(capsys, "score", [*words, f"detector.weights={path}"])


def test_a_pickle_is_refused_and_never_run(words, capsys, tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harmed"), "w"))

    for name in ("weights.pkl", "weights.pth"):
        torch.save({"model": Harm()}, tmp_path / name)
        assert "detector.weights" in refused(capsys, "score", [*words, f"detector.weights={tmp_path / name}"])
    torch.save({"state": Harm()}, tmp_path / "clip.pt")
    assert "is not a CLIP checkpoint" in refused(capsys, "score", [*words, f"clip.model={tmp_path / 'clip.pt'}"])
    assert not (tmp_path / "harmed").exists()


def test_a_checkpoint_of_another_shape_is_named(words, tiny_models, capsys, tmp_path):
    state = torch.load(tiny_models.weights, weights_only=True)
    name = "roi_heads.box_predictor.bbox_pred.weight"
    state["model"][name] = torch.cat([state["model"][name]] * 20)
    torch.save(state, tmp_path / "eighty.pth")
    line = refused(capsys, "score", [*words, f"detector.weights={tmp_path / 'eighty.pth'}"])
    assert f"{name} of" in line and "(80, " in line and "(4, " in line
    del state["model"][name]
    torch.save(state, tmp_path / "lacking.pth")
    assert "lacks 1 of" in refused(capsys, "score", [*words, f"detector.weights={tmp_path / 'lacking.pth'}"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("NUM_CLASSES: 1", "NUM_CLASSES: 80"), "ROI_HEADS.NUM_CLASSES of .* is 80"),
        (
            ("META_ARCHITECTURE: GeneralizedRCNN", "META_ARCHITECTURE: RetinaNet"),
            "META_ARCHITECTURE of .* is 'RetinaNet'",
        ),
        (("MASK_ON", "MASK_ONN"), "is not a detectron2 config"),
        (("VERSION: 2", "VERSION: !!python/object/apply:os.system [true]"), "is not a detectron2 config"),
    ],
)
def test_a_detector_that_stage_one_cannot_run_is_refused(words, tiny_models, capsys, tmp_path, change, message):
    path = tmp_path / "detector.yaml"
    text = tiny_models.config.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    assert re.search(message, refused(capsys, "score", [*words, f"detector.config={path}"]))


def test_another_setting_on_an_existing_store_is_refused_with_the_difference(words, coco_mini, capsys, tmp_path):
    score = launcher("score")
    assert score.main([*words, "--no-label"]) == 0
    manifest = (tmp_path / "out" / "store" / "manifest.json").read_bytes()
    capsys.readouterr()
    for word, difference in [
        ("detector.refine_steps=2", "detector.refine_steps: 10, now 2"),
        ("clip.crop_scales=[1.0]", r"clip.crop_scales: [1.0, 1.5], now [1.0]"),
        ("clip.precision=bf16", "clip.precision: fp32, now bf16"),
        (f"data.annotations={coco_mini}/annotations/instances_train2017.json", "dataset.images: 79, now 80"),
    ]:
        assert difference in refused(capsys, "score", [*words, word])
    assert (tmp_path / "out" / "store" / "manifest.json").read_bytes() == manifest


@needs_compiler
def test_a_store_of_a_compiled_clip_is_another(words, capsys):
    assert launcher("score").main([*words, "clip.compile=true", "clip.batch_size=8", "--no-label"]) == 0
    capsys.readouterr()
    assert "clip.compile: True, now False" in refused(capsys, "score", [*words, "clip.batch_size=8"])


def test_labelling_with_another_clip_than_the_stores_is_refused(words, tiny_models, capsys, tmp_path):
    assert launcher("score").main([*words, "--no-label"]) == 0
    capsys.readouterr()
    other = tmp_path / "other.pt"
    shutil.copy(tiny_models.clip, other)
    with other.open("ab") as file:
        file.write(b"another")
    assert "is not the model that made this store" in refused(capsys, "label", [*words, f"clip.model={other}"])


def test_labelling_without_a_store_says_how_to_make_one(words, capsys):
    assert "no region store at" in refused(capsys, "label", words)


def test_a_json_without_annotations_is_no_mistake(words, coco_mini, tmp_path):
    data = json.loads((coco_mini / "annotations" / "instances_val2017.json").read_text())
    del data["annotations"]
    path = tmp_path / "images_val2017.json"
    path.write_text(json.dumps(data))
    assert launcher("score").main([*words, f"data.annotations={path}"]) == 0


def test_images_to_label_that_will_not_be_scored_are_named_before_scoring(words, coco_mini, capsys, tmp_path):
    data = json.loads((coco_mini / "annotations" / "instances_train2017.json").read_text())
    data["images"] = data["images"][:3]
    path = tmp_path / "other.json"
    path.write_text(json.dumps(data))
    line = refused(capsys, "score", [*words, "data.limit=null", f"label.annotations={path}"])
    assert "3 of 3 images of label.annotations are not in data.annotations" in line
    assert not (tmp_path / "out").exists()


def test_pruning_leaves_the_labels_as_they_are_and_refuses_settings_that_would_miss_boxes(words, capsys, tmp_path):
    score, label = launcher("score"), launcher("label")
    vlplm = ["label.objectness_weight=0.5", "label.score_threshold=0.8"]
    assert score.main([*words, *vlplm]) == 0
    pruned = [*words, *vlplm, f"run.output={tmp_path}/pruned", "run.prune_below=0.8"]
    assert score.main(pruned) == 0
    whole, less = (json.loads((tmp_path / name / "labels.json").read_text()) for name in ("out", "pruned"))
    made, kept = ([row for row in data["annotations"] if "confidence" in row] for data in (whole, less))
    for before, after in zip(made, kept, strict=True):
        # Other neighbours in a CLIP batch move an embedding's last bits, and nothing else.
        assert after == {
            **before,
            **{key: pytest.approx(before[key], abs=1e-5) for key in ("confidence", "clip_score")},
        }
    assert len(made) > 5
    stores = [RegionStore(tmp_path / name / "store") for name in ("out", "pruned")]
    rows = [[image for path in store.part_paths() for image in store.read_part(path)] for store in stores]
    for before, after in zip(*rows, strict=True):
        assert len(before.boxes_xyxy) == len(after.boxes_xyxy) == len(before.embeddings)
    assert sum(len(row.embeddings) for row in rows[1]) < sum(len(row.embeddings) for row in rows[0])
    capsys.readouterr()
    assert label.main([*pruned, "label.score_threshold=0.9"]) == 0
    capsys.readouterr()
    for word in ("label.score_threshold=0.79", "label.objectness_weight=0.4"):
        assert "could make labels of them" in refused(capsys, "label", [*pruned, word])
    line = refused(capsys, "score", [*words, "label.objectness_weight=0", "run.prune_below=0.5"])
    assert "run.prune_below needs label.objectness_weight above 0" in line


def test_the_json_to_label_is_never_written_over(words, coco_mini, capsys):
    annotations = coco_mini / "annotations" / "instances_val2017.json"
    before = annotations.read_bytes()
    assert "is the JSON to label" in refused(capsys, "score", [*words, f"label.output={annotations}"])
    assert annotations.read_bytes() == before


def test_options_under_which_a_crop_could_vanish_are_refused(words, capsys):
    for word in ("detector.min_box_size=1", "clip.crop_scales=[1.0, 0.2]"):
        assert "more than 1 pixel" in refused(capsys, "score", [*words, word])


def test_images_of_one_line_and_of_five_pixels_are_scored(small_coco, tiny_models, tmp_path):
    dataset = small_coco(1)
    data = dataset.read()
    for image_id, (height, width) in enumerate([(1, 3000), (3000, 1), (5, 5), (1, 1)], start=1):
        data["images"].append({"id": image_id, "file_name": f"{image_id}.png", "height": height, "width": width})
        pixels = np.random.default_rng(image_id).integers(0, 255, (height, width, 3), np.uint8)
        cv2.imwrite(str(dataset.root / "val2017" / f"{image_id}.png"), pixels)
    dataset.write(data)
    config = ["--config", str(REPOSITORY / "configs" / "coco_marvelovd.yaml"), "run.workers=0", "--no-label"]
    output = [*tiny_models.overrides(), *dataset.overrides(), f"run.output={tmp_path}/out"]
    assert launcher("score").main([*config, *output]) == 0
    assert len(RegionStore(tmp_path / "out" / "store").part_of_images()) == 5


def test_other_images_of_the_same_ids_are_noticed_by_their_sizes(words, coco_mini, capsys, tmp_path):
    assert launcher("score").main([*words, "--no-label"]) == 0
    data = json.loads((coco_mini / "annotations" / "instances_val2017.json").read_text())
    for image in data["images"]:
        image["file_name"], image["height"], image["width"] = "other.jpg", 40, 40
    other = tmp_path / "other.json"
    other.write_text(json.dumps(data))
    capsys.readouterr()
    line = refused(capsys, "label", [*words, f"data.annotations={other}"])
    assert "has other images than the store" in line
    with pytest.raises(SystemExit) as stopped:
        launcher("label").main([*words, f"label.annotations={other}"])
    assert stopped.value.code == 2
    assert "the store was made from other images" in capsys.readouterr().err.splitlines()[-1]


def test_a_file_name_that_no_disk_takes_is_a_failure(small_coco, tiny_models, tmp_path):
    dataset = small_coco(2)
    data = dataset.read()
    data["images"][0]["file_name"] = "x" * 300 + ".jpg"
    dataset.write(data)
    config = ["--config", str(REPOSITORY / "configs" / "coco_marvelovd.yaml"), "run.workers=0", "--no-label"]
    output = [*tiny_models.overrides(), *dataset.overrides(), f"run.output={tmp_path}/out"]
    assert launcher("score").main([*config, *output]) == 1
    assert [reason for _, _, reason in RegionStore(tmp_path / "out" / "store").failures()] == ["File name too long"]


@pytest.mark.parametrize("word", ["label.templates=5", "label.templates=['a {.x}']", "label.temperature=inf"])
def test_odd_values_are_one_line(words, word, capsys):
    assert word.split("=")[0] in refused(capsys, "score", [*words, word])


def test_what_nobody_reads_costs_no_labels(words, tmp_path):
    """The reader of stdout and stderr has gone, as `head` does."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(REPOSITORY / "launch" / "score.py"), *words]
    done = subprocess.run(command, stdout=writer, stderr=writer, timeout=300, check=False)
    os.close(writer)
    assert done.returncode == 0
    assert (tmp_path / "out" / "labels.json").is_file()


def test_failures_of_other_images_do_not_count(small_coco, tiny_models, tmp_path):
    dataset = small_coco(3)
    images = sorted(dataset.read()["images"], key=lambda image: image["id"])
    (dataset.root / "val2017" / images[2]["file_name"]).write_bytes(b"")
    config = ["--config", str(REPOSITORY / "configs" / "coco_marvelovd.yaml"), "run.workers=0", "--no-label"]
    output = [*tiny_models.overrides(), *dataset.overrides(), f"run.output={tmp_path}/out"]
    assert launcher("score").main([*config, *output]) == 1
    assert launcher("score").main([*config, *output, "data.limit=2"]) == 0


def test_a_world_without_torchrun_is_one_line(words, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "start this with torchrun, or unset WORLD_SIZE" in refused(capsys, "score", words)


def test_evaluation_does_not_write_over_its_input(capsys, tmp_path):
    path = tmp_path / "truth.json"
    path.write_text("{}")
    words = ["--labels", str(tmp_path / "labels.json"), "--ground-truth", str(path), "--json", str(path)]
    assert "is --ground-truth; choose another name" in refused(capsys, "evaluate", words)
    assert path.read_text() == "{}"
