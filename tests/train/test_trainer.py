"""Training of the detector through the user's own command: base annotations only, synchronised, resumable, usable."""

import json
import logging
import os
import re
import signal
import subprocess
import threading
import time
from multiprocessing.process import BaseProcess

import pytest
import torch
from commands import REPOSITORY, command, run

from plgen_ddp.config import DetectorConfig
from plgen_ddp.demo.scenes import CATEGORIES, NOVEL
from plgen_ddp.score.mask_rcnn import MaskRcnn, find_weights, read_detector_config

NOVEL_IDS = {CATEGORIES[name] for name in NOVEL}


def final_weights(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def assert_same(one, other):
    assert list(one) == list(other)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_novel_annotations_change_nothing(words, dataset, launch, tmp_path):
    def without(data):
        data["annotations"] = [row for row in data["annotations"] if row["category_id"] not in NOVEL_IDS]

    def unreadable(data):
        for row in data["annotations"]:
            if row["category_id"] in NOVEL_IDS:
                row.update(bbox="never read", segmentation=7, iscrowd=None)

    for name, change in (("without", without), ("unreadable", unreadable)):
        options = [*words, *dataset(6, change, f"{name}.json"), f"run.output={tmp_path / name}", "train.steps=2"]
        launch("train_proposals", *options)
    assert_same(final_weights(tmp_path / "without"), final_weights(tmp_path / "unreadable"))


def test_any_number_of_workers_gives_the_same_weights_and_leaves_nothing_behind(
    words, dataset, launch, tmp_path, monkeypatch
):
    def refuse(*_):
        raise AssertionError("a process was started")

    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(BaseProcess, "start", refuse)
    threads = set(threading.enumerate())
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "plgen_ddp")]
    handlers = [list(logger.handlers) for logger in loggers]
    options = [*words, *dataset(8), "train.steps=4"]
    for workers in (0, 3):
        launch("train_proposals", *options, f"run.workers={workers}", f"run.output={tmp_path / str(workers)}")
        assert set(threading.enumerate()) == threads
        assert [logger.handlers for logger in loggers] == handlers
    launch("train_proposals", *options, "train.seed=1", f"run.output={tmp_path / 'other'}")
    assert_same(final_weights(tmp_path / "0"), final_weights(tmp_path / "3"))
    with pytest.raises(AssertionError):
        assert_same(final_weights(tmp_path / "0"), final_weights(tmp_path / "other"))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_a_few_dozen_steps_lower_the_loss_and_stage_one_takes_the_checkpoint(
    words, dataset, detector, scenes, tiny_models, launch, tmp_path, device
):
    validation = scenes / "annotations" / "instances_val.json"
    exported = tmp_path / "detector.pth"
    printed = launch(
        "train_proposals",
        *words,
        *dataset(40),
        *(f"run.device={device}", "train.steps=60", "recall.refine_steps=[0, 2]"),
        *(f"data.validation_annotations={validation}", "--export", exported),
    )
    losses = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    losses = {row["iteration"]: row["total_loss"] for row in losses if "total_loss" in row}
    assert losses[59] < 0.8 * losses[19]
    assert "Starting training from iteration 0" in (tmp_path / "out" / "log" / "rank-0.txt").read_text()
    assert re.search(r"recall after 0 passes.*\n.*base IoU 0.5 .*novel IoU 0.75\n( +\d+( +0\.\d{3}){4}\n){3}", printed)

    # Of the weights, not of what else the checkpoint holds.
    cfg = read_detector_config(detector, DetectorConfig())
    cpu = torch.device("cpu")
    whole = MaskRcnn(cfg, find_weights(str(tmp_path / "out" / "model_final.pth")), DetectorConfig(), cpu)
    small = MaskRcnn(cfg, find_weights(str(exported)), DetectorConfig(), cpu)
    for (name, value), other in zip(whole.model.state_dict().items(), small.model.state_dict().values(), strict=True):
        torch.testing.assert_close(other, value, rtol=2**-7, atol=float(value.abs().max()) * 2**-7, msg=name)
    for weights in (tmp_path / "out" / "model_final.pth", exported):
        printed = launch(
            "score",
            *("--config", REPOSITORY / "configs" / "coco_vlplm.yaml", f"run.output={tmp_path / weights.stem}"),
            *(f"detector.config={detector}", f"detector.weights={weights}", f"clip.model={tiny_models.clip}"),
            *(f"data.annotations={validation}", f"data.image_root={scenes}", "data.limit=2", "run.workers=0"),
            *("run.device=cpu", "--no-label"),
        )
        assert re.search(r"scored 2 images, [1-9]\d* boxes", printed)


def same_size(data):
    """Keeps two images of one size with base objects: nothing is padded, in whatever batch they are."""
    used = {row["image_id"] for row in data["annotations"] if row["category_id"] not in NOVEL_IDS}
    data["images"] = [image for image in data["images"] if (image["height"], image["width"]) == (240, 320)]
    data["images"] = [image for image in data["images"] if image["id"] in used][:2]
    assert len(data["images"]) == 2


def test_two_ranks_step_as_one_process(words, dataset, detector, launch, tmp_path):
    # Every anchor in the loss and no random augmentation: the RPN's loss is a plain mean over images.
    text = detector.read_text().replace("NMS_THRESH: 0.3", "NMS_THRESH: 0.3\n    BATCH_SIZE_PER_IMAGE: 1000000")
    detector.write_text(text.replace("MIN_SIZE_TRAIN: [96, 112, 128]", "MIN_SIZE_TRAIN: [128]\n  RANDOM_FLIP: none"))
    options = [*words, *dataset(40, same_size), "train.optimizer=sgd", "train.base_lr=0.5", "train.steps=1"]
    launch("train_proposals", *options, f"run.output={tmp_path / 'one'}")
    run(command("train_proposals.py", *options, "run.workers=2", f"run.output={tmp_path / 'two'}", ranks=2))
    one, two = final_weights(tmp_path / "one"), final_weights(tmp_path / "two")
    # The RPN's head takes gradients from the RPN's loss alone; the other losses weigh images by their boxes.
    heads = [name for name in one if name.startswith("proposal_generator.") and name.endswith("weight")]
    assert heads
    for name in heads:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-5)
    assert (tmp_path / "two" / "log" / "rank-1.txt").is_file()


def test_a_killed_training_goes_on_from_its_last_checkpoint(words, dataset, launch, refused, tmp_path):
    arguments = [*words, *dataset(6), "train.steps=20", "run.checkpoint_every=2", "run.workers=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    job = subprocess.Popen(command("train_proposals.py", *arguments), **quiet)
    folder = tmp_path / "out"
    deadline = time.monotonic() + 300
    while not (folder / "model_0000003.pth").is_file() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(job.pid, signal.SIGKILL)
    job.wait(timeout=120)
    assert not (folder / "model_final.pth").exists(), "killed in the middle"
    last = int(re.search(r"model_(\d+)\.pth", (folder / "last_checkpoint").read_text())[1])

    done = run(command("train_proposals.py", *arguments, ranks=2))
    assert f"Starting training from iteration {last + 1}" in done.stdout
    final = torch.load(folder / "model_final.pth", weights_only=True)
    assert final["trainer"]["iteration"] == 19
    steps = {int(state["step"]) for state in final["trainer"]["optimizer"]["state"].values()}
    assert steps == {20}, "the optimizer's own state went on too"
    stamp = (folder / "model_final.pth").stat().st_mtime_ns
    assert "Starting training" not in launch("train_proposals", *arguments)
    assert (folder / "model_final.pth").stat().st_mtime_ns == stamp, "a finished training is left as it is"

    assert "train.base_lr 0.002 -> 0.1" in refused(*arguments, "train.base_lr=0.1")


def test_ranks_that_cannot_share_a_step_are_an_error_once(words, dataset):
    done = run(command("train_proposals.py", *words, *dataset(2), "train.images_per_step=3", ranks=2), status=1)
    assert done.stderr.count("error: train.images_per_step is 3; 2 ranks cannot share it equally") == 1


def test_an_unreadable_image_is_left_out(words, dataset, scenes, launch, refused, tmp_path):
    def damaged(data):
        (tmp_path / "images").mkdir()
        for image in data["images"]:
            content = (scenes / "train" / image["file_name"]).read_bytes()
            (tmp_path / "images" / image["file_name"]).write_bytes(content)
            image.pop("coco_url")
        (tmp_path / "images" / data["images"][0]["file_name"]).write_text("<html>404</html>")

    options = [*dataset(4, damaged), f"data.image_root={tmp_path / 'images'}"]
    printed = launch("train_proposals", *words, *options, "train.steps=3")
    line = r"left out image 1: .*\.jpg: not an image of a known format"
    assert re.search(line, printed) and re.search(line, (tmp_path / "out" / "log" / "rank-0.txt").read_text())
    assert (tmp_path / "out" / "model_final.pth").is_file()

    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"")
    line = refused(*words, *options, "run.workers=2", f"run.output={tmp_path / 'none'}")
    assert "images in a row could not be read" in line


def test_help_is_the_manual(launch, capsys):
    with pytest.raises(SystemExit) as stopped:
        launch("train_proposals", "--help")
    assert stopped.value.code == 0
    assert "torchrun --nproc_per_node=8 launch/train_proposals.py" in capsys.readouterr().out
