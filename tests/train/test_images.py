"""Training batches: the endless order, detectron2's own transforms, and the same images from any number of threads."""

import itertools
import os
import threading
from multiprocessing.process import BaseProcess

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.structures import BitMasks, BoxMode

from plgen_ddp.errors import UserError
from plgen_ddp.score.mask_rcnn import read_detector_config
from plgen_ddp.train.data import read_training_data
from plgen_ddp.train.images import EndlessSampler, TrainingImages, training_batches


@pytest.fixture
def images(words, dataset, configuration):
    return read_training_data(configuration([*words, *dataset(16)]), with_masks=True).images


@pytest.fixture
def cfg(detector):
    return read_detector_config(detector)


def take(images, cfg, count, *, workers, size=2, seed=0, start=0):
    sampler = EndlessSampler(len(images), seed, start)
    with training_batches(images, cfg, sampler, size, seed, workers) as batches:
        return list(itertools.islice(batches, count))


def assert_equal(one, other):
    assert one["image_id"] == other["image_id"]
    assert torch.equal(one["image"], other["image"])
    assert torch.equal(one["instances"].gt_boxes.tensor, other["instances"].gt_boxes.tensor)
    assert torch.equal(one["instances"].gt_classes, other["instances"].gt_classes)
    masks = zip(one["instances"].gt_masks.polygons, other["instances"].gt_masks.polygons, strict=True)
    for first, second in masks:
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_order_is_endless_shuffled_and_shared_by_the_ranks():
    def first(count, **options):
        return list(itertools.islice(EndlessSampler(7, seed=3, **options), count))

    alone = first(28)
    assert [place for place, _ in alone] == list(range(28))
    passes = [[number for _, number in alone[start : start + 7]] for start in range(0, 28, 7)]
    assert all(sorted(numbers) == list(range(7)) for numbers in passes)
    assert len(set(map(tuple, passes))) > 1, "shuffled anew"
    for rank in range(3):
        assert first(5, rank=rank, ranks=3) == alone[rank::3][:5]
        assert first(4, rank=rank, ranks=3, start=6) == alone[6 + rank :: 3][:4], "a resumed training goes on"


def test_any_number_of_threads_gives_the_same_batches(images, cfg, monkeypatch):
    def refuse(*_):
        raise AssertionError("a process was started")

    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(BaseProcess, "start", refuse)
    threads = set(threading.enumerate())
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    alone = take(images, cfg, 20, workers=0)
    for workers in (1, 3):
        threaded = take(images, cfg, 20, workers=workers)
        for one, other in zip(itertools.chain(*alone), itertools.chain(*threaded), strict=True):
            assert_equal(one, other)
    assert set(threading.enumerate()) == threads, "no thread is left"
    assert np.random.get_state()[1].tolist() == state, "the caller's random numbers are its own"  # noqa: NPY002

    sizes = {min(item["image"].shape[1:]) for batch in alone for item in batch}
    assert sizes == {96, 112, 128}, "sizes are drawn"
    by_image = {}
    for item in itertools.chain(*alone):
        if min(item["image"].shape[1:]) == 128:
            by_image.setdefault(item["image_id"], []).append(item["image"])
    pairs = [pair for seen in by_image.values() for pair in itertools.combinations(seen, 2)]
    flipped = [torch.equal(one, other.flip(2)) for one, other in pairs]
    assert {True, False} == set(flipped), "flips are drawn"


def test_another_seed_draws_other_augmentations(images, cfg):
    def sizes(seed):
        found = TrainingImages(images, cfg, seed)
        return [tuple(found[place, 0]["image"].shape) for place in range(12)]

    assert sizes(0) == sizes(0) != sizes(1)


def test_a_batch_is_wide_or_high(images, cfg):
    shapes = [[item["width"] > item["height"] for item in batch] for batch in take(images, cfg, 12, workers=0)]
    assert {len(set(wide)) for wide in shapes} == {1}
    assert {wide[0] for wide in shapes} == {True, False}
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    order = [number for _, number in itertools.islice(EndlessSampler(len(images), 0), 24)]
    found = [item["image_id"] for batch in take(images, cfg, 12, workers=2) for item in batch]
    assert found == [images[number].image_id for number in order]


@pytest.mark.parametrize("colours", ["BGR", "RGB"])
def test_an_image_is_what_detectron2_makes_of_it(words, dataset, configuration, detector, scenes, tmp_path, colours):
    def as_png(data):
        for image in data["images"]:  # whose pixels do not depend on the decoder
            pixels = cv2.imread(str(scenes / "train" / image["file_name"]))
            image["file_name"] = image["file_name"].replace(".jpg", ".png")
            assert cv2.imwrite(str(tmp_path / image["file_name"]), pixels)

    options = [*dataset(4, as_png), f"data.image_root={tmp_path}"]
    images = read_training_data(configuration([*words, *options]), with_masks=True).images
    cfg = read_detector_config(detector)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP, cfg.INPUT.FORMAT = [112], "none", colours
    theirs, ours = DatasetMapper(cfg, is_train=True), TrainingImages(images, cfg, seed=0)
    for number, image in enumerate(images):
        annotations = [
            {
                "bbox": list(item.box_xywh),
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 0,
                "segmentation": [polygon.tolist() for polygon in item.mask],
            }
            for item in image.objects
        ]
        record = {"file_name": str(image.path), "height": image.height, "width": image.width}
        expected = theirs(record | {"image_id": image.image_id, "annotations": annotations})
        assert_equal(ours[0, number], expected)


def test_run_lengths_become_bit_masks(words, dataset, configuration, cfg):
    boxes = []

    def change(data):
        for row in data["annotations"]:
            image = next(image for image in data["images"] if image["id"] == row["image_id"])
            x, y, width, height = row["bbox"]
            mask = np.zeros((image["height"], image["width"]), bool)
            mask[y : y + height, x : x + width] = True
            edges = np.flatnonzero(np.diff(mask.T.reshape(-1).astype(int), prepend=0, append=0))
            runs = np.diff([0, *edges, mask.size]).tolist()
            row["segmentation"] = {"size": list(mask.shape), "counts": runs}
            boxes.append(row["bbox"])

    images = read_training_data(configuration([*words, *dataset(3, change)]), with_masks=True).images
    cfg.INPUT.MASK_FORMAT = "bitmask"
    for number in range(len(images)):
        instances = TrainingImages(images, cfg, seed=0)[0, number]["instances"]
        assert isinstance(instances.gt_masks, BitMasks)
        # Masks fill their boxes, also after the transforms, up to the rounding of edges.
        found = instances.gt_masks.get_bounding_boxes().tensor
        torch.testing.assert_close(found, instances.gt_boxes.tensor.float(), atol=1.0, rtol=0)


def test_an_unreadable_image_is_left_out_and_only_such_ones_are_an_error(
    words, dataset, configuration, cfg, tmp_path, scenes, capsys
):
    def damaged(data):
        for image in data["images"]:
            (tmp_path / image["file_name"]).write_bytes((scenes / "train" / image["file_name"]).read_bytes())
            image.pop("coco_url")

    options = [*dataset(4, damaged), f"data.image_root={tmp_path}"]
    images = read_training_data(configuration([*words, *options]), with_masks=True).images
    images[1].path.write_text("<html>404</html>")
    images[2].path.unlink()
    batches = take(images, cfg, 10, workers=2)
    printed = capsys.readouterr().err
    assert {item["image_id"] for batch in batches for item in batch} == {images[0].image_id, images[3].image_id}
    for image in images[1:3]:
        assert f"left out image {image.image_id}: {image.path}" in printed
    with pytest.raises(UserError, match="2 images in a row could not be read"):
        take(images[1:3], cfg, 1, workers=2)
