"""The second round: pseudo labels of an audited file teach boxes and no masks, and novel annotations nothing at all."""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import REPOSITORY
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from plgen_ddp.coco import CocoFile
from plgen_ddp.demo.scenes import BASE, CATEGORIES, NOVEL
from plgen_ddp.errors import UserError
from plgen_ddp.options import load_structured
from plgen_ddp.records import PseudoLabels
from plgen_ddp.train.checkpoints import open_output
from plgen_ddp.train.config import ProposalTrainingConfig
from plgen_ddp.train.data import read_training_data
from plgen_ddp.train.detector import build_detector, training_cfg
from plgen_ddp.train.images import TrainingImages

BASE_IDS = {CATEGORIES[name] for name in BASE}
NOVEL_IDS = {CATEGORIES[name] for name in NOVEL}
LIMIT = 0.4


def label(annotations: Path, output: Path, *, novel=NOVEL, image_ids=None, confidence=(0.2, 0.4, 0.9)):
    """Labels a JSON with its own novel objects, each cut short, with confidences in turn; returns the labels."""
    coco = CocoFile(annotations, "source")
    rows = [row for row in coco.annotations(NOVEL_IDS) if image_ids is None or row.image_id in image_ids]
    boxes = np.array([row.bbox for row in rows]) * [1, 1, 0.875, 0.875]
    scores = np.resize(confidence, len(rows))
    category_ids = np.array([row.category_id for row in rows])
    labels = PseudoLabels(
        np.array([row.image_id for row in rows]), category_ids, boxes, scores, scores, scores, scores
    ).sorted_by_image()
    record = {"label": {"novel": list(novel), "base": list(BASE)}, "pseudo_labels": len(rows)}
    coco.write_labelled(output, BASE_IDS, labels, record, image_ids)
    return labels


def most_novel(data):
    """The id of the image with most novel objects: at least two, so that one of their labels is confident."""
    counts = Counter(row["image_id"] for row in data["annotations"] if row["category_id"] in NOVEL_IDS)
    (image_id, count), *_ = counts.most_common(1)
    assert count > 1
    return image_id


def one_image_without_base(data):
    bare = most_novel(data)
    data["annotations"] = [
        row for row in data["annotations"] if row["image_id"] != bare or row["category_id"] in NOVEL_IDS
    ]


@pytest.fixture
def second(words, dataset, tmp_path):
    """The words of a second round on twelve scenes, in one of which all objects are novel."""
    given = dataset(12, one_image_without_base)
    label(tmp_path / "data.json", tmp_path / "labels.json")
    return [*words, *given, f"data.pseudo_labels={tmp_path / 'labels.json'}", f"data.min_confidence={LIMIT}"]


def plant(tmp_path, change):
    path = tmp_path / "labels.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_confident_labels_are_objects_without_masks(second, configuration, tmp_path):
    labels = label(tmp_path / "data.json", tmp_path / "labels.json")
    kept = labels.scores >= LIMIT
    assert 0 < kept.sum() < len(labels)
    data = read_training_data(configuration(second), with_masks=True)
    alone = read_training_data(configuration([*second, "data.pseudo_labels=null"]), with_masks=True)
    bare = most_novel(json.loads((tmp_path / "data.json").read_text()))
    assert bare not in {image.image_id for image in alone.images}, "an image of novel objects teaches nothing alone"
    before = {image.image_id: [item.box_xywh for item in image.objects] for image in alone.images}
    for image in data.images:
        own = before.get(image.image_id, [])
        boxes, masks = [item.box_xywh for item in image.objects], [item.mask for item in image.objects]
        learned = labels.boxes_xywh[kept & (labels.image_ids == image.image_id)]
        assert boxes == own + [tuple(box) for box in learned.tolist()]
        assert None not in masks[: len(own)] and set(map(type, masks[len(own) :])) <= {type(None)}
    assert {image.image_id for image in data.images} == set(before) | set(labels.image_ids[kept].tolist())
    assert (data.pseudo_labels, alone.pseudo_labels) == (int(kept.sum()), 0)


def with_novel(data):
    data["annotations"].append({"id": 10**6, "image_id": 2, "category_id": min(NOVEL_IDS), "bbox": [5, 5, 9, 9]})


def with_another_image(data):
    data["images"][3]["width"] += 1


def without_the_record(data):
    del data["info"]["plgen_ddp"]


def without_confidence(data):
    for row in data["annotations"]:
        if row["id"] < 0:
            row["confidence"] = 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_novel, "annotation 1000000 in image 2 is of the novel name .* and is no pseudo label"),
        (with_another_image, "leaks against .*data.json: image 4 is not as in the source; launch/audit.py"),
        (without_the_record, "its `info` does not say which annotations are pseudo labels"),
        (without_confidence, r"none of the \d+ pseudo labels of .* of data.min_confidence=0.4 or more"),
    ],
)
def test_a_file_that_leaks_or_teaches_nothing_is_refused(second, configuration, tmp_path, change, message):
    plant(tmp_path, change)
    with pytest.raises(UserError, match=f"(?s).*{message}") as caught:
        read_training_data(configuration(second), with_masks=True)
    assert "\n" not in str(caught.value)


def test_a_copied_novel_annotation_is_refused(second, configuration, tmp_path):
    annotations = json.loads((tmp_path / "data.json").read_text())["annotations"]
    copied = next(
        row
        for row in annotations
        if row["category_id"] in NOVEL_IDS and min(row["bbox"][:2]) > 1 and row["bbox"][0] + row["bbox"][2] < 310
    )

    def change(data):
        cut = [copied["bbox"][0], copied["bbox"][1]]
        own = next(row for row in data["annotations"] if row["id"] < 0 and row["bbox"][:2] == cut)
        own["bbox"] = copied["bbox"]

    plant(tmp_path, change)
    with pytest.raises(UserError, match=f"pseudo label .* in image {copied['image_id']} has IoU 1.0000"):
        read_training_data(configuration(second), with_masks=True)


def test_labels_for_other_names_or_fewer_images_are_refused(second, configuration, tmp_path):
    source, labels = tmp_path / "data.json", tmp_path / "labels.json"
    label(source, labels, novel=(*NOVEL, BASE[0]))
    with pytest.raises(UserError, match=f"was made for {BASE[0]!r}, which is not a novel name of data.vocabulary"):
        read_training_data(configuration(second), with_masks=True)
    label(source, labels, image_ids=[1, 2, 3])
    with pytest.raises(UserError, match=r"has 3 of the 12 images of data.annotations"):
        read_training_data(configuration(second), with_masks=True)
    with pytest.raises(UserError, match=r"data.min_confidence is 1.5"):
        configuration([*second, "data.min_confidence=1.5"])


def test_a_novel_name_of_the_training_alone_must_not_be_there_either(second, configuration, tmp_path):
    """Labels that were made for fewer names keep the annotations of the others, which this training must not see."""
    only = NOVEL[0]
    source, labels = tmp_path / "data.json", tmp_path / "labels.json"
    coco = CocoFile(source, "source")
    nothing = PseudoLabels.concatenate([])
    record = {"label": {"novel": [only], "base": "all others"}, "pseudo_labels": 0}
    coco.write_labelled(labels, BASE_IDS | NOVEL_IDS - {CATEGORIES[only]}, nothing, record)
    with pytest.raises(UserError, match=r"is of the novel name .* and is no pseudo label"):
        read_training_data(configuration(second), with_masks=True)


def test_a_training_with_other_labels_is_not_resumed(second, configuration, tmp_path):
    def start(*others, words=second):
        config = configuration([*words, *others])
        open_output(config, read_training_data(config, with_masks=True), None)

    start()
    (tmp_path / "out" / "last_checkpoint").write_text("model_0000001.pth")
    start()
    with pytest.raises(UserError, match=r"other options: data.min_confidence 0.4 -> 0.3; use"):
        start("data.min_confidence=0.3")
    with pytest.raises(UserError, match=r"data.pseudo_labels \w+... -> None"):
        start("data.pseudo_labels=null")
    label(tmp_path / "data.json", tmp_path / "labels.json", confidence=(0.5,))
    with pytest.raises(UserError, match=r"other options: data.pseudo_labels \w+... -> \w+...; use"):
        start()

    # A training that began before there were pseudo labels goes on.
    first = [*second, "data.pseudo_labels=null", f"run.output={tmp_path / 'old'}"]
    start(words=first)
    record = tmp_path / "old" / "training.json"
    before = json.loads(record.read_text())
    del before["data.pseudo_labels"], before["data.min_confidence"]
    record.write_text(json.dumps(before))
    (tmp_path / "old" / "last_checkpoint").write_text("model_0000001.pth")
    start(words=first)


@pytest.fixture
def model(second, configuration):
    torch.manual_seed(0)
    cfg = training_cfg(configuration(second), torch.device("cpu"), run_lengths=False, boxes_alone=True)
    return build_detector(cfg, None).train(), cfg


def test_the_mask_head_learns_of_masks_alone(model):
    heads = model[0].roi_heads
    boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0], [30.0, 20.0, 90.0, 60.0]])
    triangle = [np.array([8.0, 8.0, 40.0, 8.0, 8.0, 40.0])]
    channels = next(heads.mask_head.parameters()).shape[1]
    features = {
        name: torch.randn(1, channels, 96 // 2**level, 96 // 2**level, generator=torch.Generator().manual_seed(level))
        for level, name in enumerate(heads.mask_in_features, start=2)
    }

    def loss(rows, has_mask, second_mask):
        item = Instances((96, 96))
        item.proposal_boxes = Boxes(boxes[rows])
        item.gt_classes = torch.zeros(len(rows), dtype=torch.int64)
        item.gt_masks = PolygonMasks([[triangle, second_mask][row] for row in rows])
        item.gt_has_mask = torch.tensor([has_mask[row] for row in rows])
        with EventStorage():
            return heads._forward_mask(features, [item])["loss_mask"]

    outline = [np.array([30.0, 20.0, 90.0, 20.0, 90.0, 60.0, 30.0, 60.0])]
    alone = loss([0], [True, False], outline)
    assert alone > 0
    assert torch.equal(loss([0, 1], [True, False], outline), alone)
    assert not torch.equal(loss([0, 1], [True, True], outline), alone)
    nothing = loss([1], [True, False], outline)
    nothing.backward()
    assert nothing == 0 and all(not parameter.grad.any() for parameter in heads.mask_head.parameters())


def test_a_label_teaches_boxes_in_whatever_form_masks_are(model, second, configuration):
    detector, cfg = model
    images = read_training_data(configuration(second), with_masks=True).images
    image = next(image for image in images if all(item.mask is None for item in image.objects))
    for mask_format in ("bitmask", "polygon"):
        cfg.INPUT.MASK_FORMAT = mask_format
        item = TrainingImages([image], cfg, seed=0)[(0, 0)]
        assert item is not None and len(item["instances"]) == len(image.objects)
        assert not item["instances"].gt_has_mask.any()
    with EventStorage():
        losses = detector([item])
    sum(losses.values()).backward()
    assert losses["loss_mask"] == 0 and losses["loss_box_reg"] > 0 and losses["loss_rpn_loc"] > 0
    assert all(not parameter.grad.any() for parameter in detector.roi_heads.mask_head.parameters())
    assert detector.roi_heads.box_predictor.bbox_pred.weight.grad.any()


def test_heads_that_cannot_leave_masks_out_are_refused(second, configuration, detector):
    detector.write_text(detector.read_text().replace("NAME: StandardROIHeads", "NAME: CascadeROIHeads"))
    device, config = torch.device("cpu"), configuration(second)
    training_cfg(config, device, run_lengths=False, boxes_alone=False)
    with pytest.raises(UserError, match=r"MODEL.ROI_HEADS.NAME of detector.config is 'CascadeROIHeads'"):
        training_cfg(config, device, run_lengths=False, boxes_alone=True)


def test_the_command_trains_on_labels_and_names_the_file(second, launch, refused, tmp_path):
    printed = launch("train_proposals", *second, "train.steps=2")
    labelled = json.loads((tmp_path / "labels.json").read_text())["annotations"]
    confident = sum(row.get("confidence", 0) >= LIMIT for row in labelled)
    base = sum("confidence" not in row for row in labelled)
    assert f"learning {base} base annotations and {confident} pseudo labels on " in printed
    assert (tmp_path / "out" / "model_final.pth").is_file()
    began = json.loads((tmp_path / "out" / "training.json").read_text())
    content = (tmp_path / "labels.json").read_bytes()
    assert began["data.pseudo_labels"] == hashlib.sha256(content).hexdigest()
    assert began["data.min_confidence"] == LIMIT
    plant(tmp_path, with_novel)
    assert "leaks against" in refused(*second, "train.steps=2", f"run.output={tmp_path / 'other'}")
    assert not (tmp_path / "other" / "training.json").exists()


def test_the_packaged_second_round_is_the_first_with_labels(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    first, second = (
        load_structured(ProposalTrainingConfig, name) for name in ("train_proposals", "train_proposals_second_round")
    )
    assert second == replace(first, data=replace(first.data, min_confidence=LIMIT))
    header = (REPOSITORY / "configs" / "train_proposals_second_round.yaml").read_text()
    assert "data.pseudo_labels=" in header and "not yet measured on a GPU" in header
