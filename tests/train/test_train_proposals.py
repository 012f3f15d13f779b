"""Training of the detector through the user's own command: base annotations only, synchronised, resumable, usable."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections import OrderedDict

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, command, run, take_images
from detectron2.modeling import build_model
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from plgen_ddp.benchmark.seeded_models import TINY_DETECTOR_YAML
from plgen_ddp.config import DetectorConfig, load_structured
from plgen_ddp.errors import UserError
from plgen_ddp.score.mask_rcnn import MaskRcnn, fetch_weights, read_detector_config
from plgen_ddp.train.recall import recalled
from plgen_ddp.train.training import ProposalTrainingConfig, read_training_data
from plgen_ddp.train.weights import save_small

CONFIG = REPOSITORY / "configs" / "train_proposals.yaml"
SPLIT = REPOSITORY / "configs" / "vocabularies" / "coco_ovd.yaml"
# The published schedule's shape in miniature.
SHORT = ["train.images_per_step=2", "train.base_lr=0.002", "train.warmup_steps=0", "train.optimizer=adamw"]


@pytest.fixture
def detector(tmp_path):
    """A tiny detector's configuration, for small images."""
    path = tmp_path / "detector.yaml"
    path.write_text(f"{TINY_DETECTOR_YAML}  MIN_SIZE_TRAIN: [128]\n  MAX_SIZE_TRAIN: 192\n")
    return path


@pytest.fixture
def dataset(coco_mini, tmp_path):
    """Makes a dataset of the first so many train2017 images, their JSON changed; returns the options that name it."""

    def make(count, change=lambda data: None, name="instances_train2017.json"):
        data = take_images(coco_mini, "train2017", count)
        change(data)
        path = tmp_path / name
        path.write_text(json.dumps(data))
        return [f"data.annotations={path}", f"data.image_root={coco_mini}"]

    return make


@pytest.fixture
def words(detector, tmp_path):
    return [
        "--config",
        CONFIG,
        f"detector.config={detector}",
        "detector.weights=null",
        f"run.output={tmp_path / 'out'}",
        "run.workers=0",
        "run.device=cpu",
        *SHORT,
    ]


def configuration(words):
    given = [str(word) for word in words]
    return load_structured(ProposalTrainingConfig, given[1], given[2:])


def refused(words):
    """The line that the command prints when it stops with status 2."""
    done = run(command("train_proposals.py", *words), status=2)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def novel_ids(data):
    names = set(re.findall(r"[\w ]+", SPLIT.read_text().split("base:")[0].split("novel:")[1]))
    names = {name.strip() for name in names}
    ids = {category["id"] for category in data["categories"] if category["name"] in names}
    assert len(ids) == 17
    return ids


def final_weights(tmp_path, name="out"):
    return torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"]


def test_records_are_the_base_annotations_as_one_class(words, dataset, coco_mini):
    source = take_images(coco_mini, "train2017", 80)
    kept = configuration([*words, *dataset(80)])
    records = read_training_data(kept).records
    names = {category["id"]: category["name"] for category in source["categories"]}
    base = set(re.findall(r"\w[\w ]*", SPLIT.read_text().split("base:")[1]))
    wanted = {}
    for row in source["annotations"]:
        if names[row["category_id"]] in base:
            wanted.setdefault(row["image_id"], []).append(row)
    wanted = {key: rows for key, rows in wanted.items() if any(not row["iscrowd"] for row in rows)}
    assert {record["image_id"] for record in records} == set(wanted)
    assert len(records) < 80, "some image has novel objects only"
    crowds = 0
    for record in records:
        rows = wanted[record["image_id"]]
        assert [entry["bbox"] for entry in record["annotations"]] == [row["bbox"] for row in rows]
        assert [entry["iscrowd"] for entry in record["annotations"]] == [row["iscrowd"] for row in rows]
        assert {entry["category_id"] for entry in record["annotations"]} == {0}
        for entry, row in zip(record["annotations"], rows, strict=True):
            crowds += row["iscrowd"]
            assert ("segmentation" in entry) == (not row["iscrowd"])
    assert crowds > 0, "there is a crowd to look at"


def test_novel_annotations_change_nothing(words, dataset, tmp_path):
    def without(data):
        data["annotations"] = [row for row in data["annotations"] if row["category_id"] not in novel_ids(data)]

    def unreadable(data):
        ids = novel_ids(data)
        for row in data["annotations"]:
            if row["category_id"] in ids:
                row.update(bbox="never read", segmentation=7, iscrowd=None)

    weights = []
    for name, change in (("without", without), ("unreadable", unreadable)):
        output = f"run.output={tmp_path / name}"
        run(command("train_proposals.py", *words, *dataset(6, change, f"{name}.json"), output, "train.steps=2"))
        weights.append(final_weights(tmp_path, name))
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_a_few_dozen_steps_lower_the_loss_and_stage_one_takes_the_checkpoint(
    words, dataset, detector, coco_mini, tiny_models, tmp_path, device
):
    validation = coco_mini / "annotations" / "instances_val2017.json"
    exported = tmp_path / "detector.pth"
    done = run(
        command(
            "train_proposals.py",
            *words,
            *dataset(40),
            *(f"run.device={device}", "train.steps=60"),
            "recall.refine_steps=[0, 2]",
            f"data.validation_annotations={validation}",
            "--export",
            exported,
        )
    )
    losses = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    losses = {row["iteration"]: row["total_loss"] for row in losses if "total_loss" in row}
    assert losses[59] < 0.8 * losses[19]
    assert re.search(
        r"recall after 0 passes.*\n.*base IoU 0.5 .*novel IoU 0.75\n( +\d+( +0\.\d{3}){4}\n){3}", done.stdout
    )

    # Of the weights, not of what else the checkpoint holds.
    cfg = read_detector_config(detector, DetectorConfig())
    cpu = torch.device("cpu")
    whole = MaskRcnn(cfg, fetch_weights(str(tmp_path / "out" / "model_final.pth")), DetectorConfig(), cpu)
    small = MaskRcnn(cfg, fetch_weights(str(exported)), DetectorConfig(), cpu)
    for (name, value), other in zip(whole.model.state_dict().items(), small.model.state_dict().values(), strict=True):
        torch.testing.assert_close(other, value, rtol=2**-7, atol=float(value.abs().max()) * 2**-7, msg=name)
    for weights in (tmp_path / "out" / "model_final.pth", exported):
        scored = run(
            command(
                "score.py",
                *["--config", REPOSITORY / "configs" / "coco_vlplm.yaml", f"run.output={tmp_path / weights.stem}"],
                *tiny_models.overrides(),
                *[f"data.annotations={validation}", f"data.image_root={coco_mini}", "data.limit=2", "run.workers=0"],
                *[f"detector.config={detector}", f"detector.weights={weights}", "--no-label"],
            )
        )
        assert re.search(r"scored 2 images, [1-9]\d* boxes", scored.stdout)


def same_size(data):
    """Keeps the two images of one size with most base objects: nothing is padded, in whatever batch they are."""
    by_size = {}
    for image in data["images"]:
        by_size.setdefault((image["height"], image["width"]), []).append(image)
    data["images"] = max(by_size.values(), key=len)[:2]
    assert len(data["images"]) == 2


def test_two_ranks_step_as_one_process(words, dataset, detector, tmp_path):
    # Every anchor in the loss and no random augmentation: the RPN's loss is a plain mean over images.
    text = detector.read_text().replace("NMS_THRESH: 0.3", "NMS_THRESH: 0.3\n    BATCH_SIZE_PER_IMAGE: 1000000")
    detector.write_text(text + "  RANDOM_FLIP: none\n")
    options = [*words, *dataset(80, same_size), "train.optimizer=sgd", "train.base_lr=0.5", "train.steps=1"]
    states = {}
    for name, ranks in (("one", None), ("two", 2)):
        run(command("train_proposals.py", *options, f"run.output={tmp_path / name}", ranks=ranks))
        states[name] = final_weights(tmp_path, name)
    # The RPN's head takes gradients from the RPN's loss alone; the other losses weigh images by their boxes.
    heads = [name for name in states["one"] if name.startswith("proposal_generator.") and name.endswith("weight")]
    assert heads
    for name in heads:
        one, two = states["one"][name], states["two"][name]
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


def test_a_killed_training_goes_on_from_its_last_checkpoint(words, dataset, tmp_path):
    arguments = [*words, *dataset(6), "train.steps=12", "run.checkpoint_every=2"]
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
    assert final["trainer"]["iteration"] == 11
    steps = {int(state["step"]) for state in final["trainer"]["optimizer"]["state"].values()}
    assert steps == {12}, "the optimizer's own state went on too"
    stamp = (folder / "model_final.pth").stat().st_mtime_ns
    assert "Starting training" not in run(command("train_proposals.py", *arguments)).stdout
    assert (folder / "model_final.pth").stat().st_mtime_ns == stamp, "a finished training is left as it is"

    assert "train.base_lr 0.002 -> 0.1" in refused([*arguments, "train.base_lr=0.1"])


def test_initial_weights_come_from_arrays_in_a_pickle(words, detector, dataset, tmp_path):
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
    run(command("train_proposals.py", *options, f"detector.weights={path}"))
    trained = final_weights(tmp_path)
    for name, value in backbone.items():
        np.testing.assert_allclose(trained[f"backbone.bottom_up.{name}"], value, atol=1e-6)

    del layout["model"]["stem.conv1.weight"]
    path.write_bytes(pickle.dumps(layout))
    other = f"run.output={tmp_path / 'other'}"
    line = refused([*options, f"detector.weights={path}", other])
    assert "lacks 1 tensors" in line and "stem.conv1.weight" in line


def test_a_pickle_that_runs_code_is_refused_and_never_run(words, dataset, tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harmed"), "w"))

    (tmp_path / "weights.pkl").write_bytes(pickle.dumps({"model": {"a": Harm()}, "__author__": "x"}))
    torch.save({"model": {"a": Harm()}}, tmp_path / "weights.pth")
    for name in ("weights.pkl", "weights.pth"):
        line = refused([*words, *dataset(2), f"detector.weights={tmp_path / name}"])
        assert "is not a checkpoint of tensors" in line
    assert not (tmp_path / "harmed").exists()


def test_a_checkpoint_of_another_shape_is_named(words, dataset, tiny_models, tmp_path):
    state = torch.load(tiny_models.weights, weights_only=True)
    name = "roi_heads.box_predictor.bbox_pred.weight"
    state["model"][name] = torch.cat([state["model"][name]] * 20)
    torch.save(state, tmp_path / "eighty.pth")
    line = refused([*words, *dataset(2), f"detector.weights={tmp_path / 'eighty.pth'}"])
    assert f"{name} has shape (80, " in line and "needed is (4, " in line and "1 tensors differ" in line


def only_novel(data):
    ids = novel_ids(data)
    data["annotations"] = [row for row in data["annotations"] if row["category_id"] in ids]


def only_crowds(data):
    for row in data["annotations"]:
        row["iscrowd"] = 1


def without_masks(data):
    for row in data["annotations"]:
        row["segmentation"] = []


def without_one_file(data):
    data["images"][0]["file_name"] = "gone.jpg"


def without_files(data):
    for image in data["images"]:
        image["file_name"] = "gone.jpg"


def without_corners(data):
    for row in data["annotations"]:
        row["bbox"] = row["bbox"][2:]


def without_annotations(data):
    del data["annotations"]


def misnamed(data):
    data["categories"][0]["name"] = "humans"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (only_novel, r"has no annotation of a base category"),
        (only_crowds, r"every base annotation of .* is a crowd"),
        (without_masks, r"no base annotation of .* has a mask .*MODEL.MASK_ON: false"),
        (without_one_file, r"data.image_root: 1 of \d+ images have no file, the first is .*gone.jpg"),
        (without_files, r"data.image_root: none of the images is under"),
        (misnamed, r"data.vocabulary: 1 of its names are not categories of the JSON: 'person'"),
        (without_annotations, r"has no annotations"),
        (without_corners, r"data.annotations: .*bbox"),
    ],
)
def test_a_dataset_that_teaches_nothing_is_refused(words, dataset, change, message):
    with pytest.raises(UserError) as caught:
        read_training_data(configuration([*words, *dataset(4, change)]))
    assert re.search(message, str(caught.value)) and "\n" not in str(caught.value)


def test_ranks_that_cannot_share_a_step_are_told_once(words, dataset):
    done = run(command("train_proposals.py", *words, *dataset(2), "train.images_per_step=3", ranks=2), status=1)
    assert done.stderr.count("error: train.images_per_step is 3; 2 ranks cannot share it equally") == 1


def test_an_unreadable_image_is_left_out(words, dataset, coco_mini, tmp_path):
    def damaged(data):
        broken = tmp_path / "images" / data["images"][0]["file_name"]
        broken.parent.mkdir()
        for image in data["images"]:
            content = (coco_mini / "train2017" / image["file_name"]).read_bytes()
            (broken.parent / image["file_name"]).write_bytes(content)
            image.pop("coco_url", None)
        broken.write_text("<html>404</html>")

    options = [*dataset(4, damaged), f"data.image_root={tmp_path / 'images'}"]
    done = run(command("train_proposals.py", *words, *options, "train.steps=3"))
    assert re.search(r"left out image \d+: .*\.jpg", done.stdout + done.stderr)
    assert (tmp_path / "out" / "model_final.pth").is_file()


def test_recall_is_cocos():
    generator = np.random.default_rng(0)
    limits, ious = (5, 10, 30), (0.5, 0.75)
    images, truths, results = [], [], []
    ours = torch.zeros(len(limits), len(ious), dtype=torch.int64)
    for image_id in range(1, 41):
        images.append({"id": image_id})
        count = int(generator.integers(0, 7))
        corners = generator.uniform(0, 100, (count, 2))
        truth = np.concatenate([corners, corners + generator.uniform(20, 60, (count, 2))], axis=1)
        noise = generator.normal(0, 8, (30, 4)) if count else generator.uniform(0, 50, (30, 4))
        boxes = truth[generator.integers(0, count, 30)] + noise if count else noise
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        ours += recalled(torch.from_numpy(boxes), torch.from_numpy(truth), limits, ious)
        for box in truth:
            size = box[2:] - box[:2]
            row = {"id": len(truths) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0}
            truths.append(row | {"bbox": [*box[:2], *size], "area": float(size.prod())})
        for rank, box in enumerate(boxes):
            row = {"image_id": image_id, "category_id": 1, "score": 1 - rank / 100}
            results.append(row | {"bbox": [*box[:2], *(box[2:] - box[:2])]})
    coco = COCO()
    coco.dataset = {"images": images, "annotations": truths, "categories": [{"id": 1, "name": "object"}], "info": {}}
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
    evaluation.params.maxDets, evaluation.params.iouThrs = list(limits), np.array(ious)
    evaluation.evaluate()
    evaluation.accumulate()
    theirs = evaluation.eval["recall"][:, 0, 0, :].T
    np.testing.assert_allclose(ours.numpy() / len(truths), theirs, atol=1e-9)
    assert theirs.min() > 0.05 and theirs.max() < 1, "neither nothing nor everything is found"
    assert recalled(torch.empty(0, 4), torch.ones(3, 4), limits, ious).sum() == 0


def test_compact_files_are_small_and_close(tmp_path):
    torch.manual_seed(0)
    state = {
        "conv.weight": torch.randn(64, 32, 3, 3) * torch.logspace(-6, 1, 64).view(-1, 1, 1, 1),
        "norm.running_var": torch.rand(64) + 0.1,
        "norm.num_batches_tracked": torch.tensor(900),
        "nothing.weight": torch.zeros(4, 4),
    }
    save_small(state, tmp_path / "a" / "small.pth")
    save_small(state, tmp_path / "again.pth")
    assert (tmp_path / "a" / "small.pth").read_bytes() == (tmp_path / "again.pth").read_bytes()
    loaded = torch.load(tmp_path / "again.pth", weights_only=True)
    assert loaded["norm.num_batches_tracked"].equal(state["norm.num_batches_tracked"])
    torch.testing.assert_close(loaded["norm.running_var"].float(), state["norm.running_var"], rtol=1e-3, atol=0)
    rows, given = loaded["conv.weight"].float().flatten(1), state["conv.weight"].flatten(1)
    error = (rows - given).abs().amax(dim=1) / given.abs().amax(dim=1)
    assert error[given.abs().amax(dim=1) > 2**-14].max() <= 1 / 127
    torch.save({name: value.half() for name, value in state.items()}, tmp_path / "half.pth")
    assert (tmp_path / "again.pth").stat().st_size < 0.7 * (tmp_path / "half.pth").stat().st_size


def test_help_is_the_manual():
    done = subprocess.run(
        [sys.executable, REPOSITORY / "launch" / "train_proposals.py", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "torchrun --nproc_per_node=8 launch/train_proposals.py" in done.stdout
