"""What a training reads of its JSON: base annotations as one class, and nothing of the novel ones."""

import re

import numpy as np
import pytest
from pycocotools import mask as run_lengths

from plgen_ddp.demo.scenes import BASE, CATEGORIES, NOVEL
from plgen_ddp.errors import UserError
from plgen_ddp.train.data import read_training_data

BASE_IDS = {CATEGORIES[name] for name in BASE}
NOVEL_IDS = {CATEGORIES[name] for name in NOVEL}


def some_crowds(data):
    """The base objects of image 1 become crowds, and one of those of image 4; run lengths, as COCO's."""
    base = [row for row in data["annotations"] if row["category_id"] in BASE_IDS]
    fourth = [row for row in base if row["image_id"] == 4]
    assert len(fourth) > 1
    for row in [*(row for row in base if row["image_id"] == 1), fourth[0]]:
        row.update(iscrowd=1, segmentation={"size": [240, 320], "counts": [0, 240 * 320]})


def read_with_masks(config):
    return read_training_data(config, with_masks=True)


def test_objects_are_the_base_annotations_without_crowds(words, dataset, configuration):
    kept = {}

    def change(data):
        some_crowds(data)
        for row in data["annotations"]:
            if row["image_id"] == 3:
                row["category_id"] = min(NOVEL_IDS)
        for row in data["annotations"]:
            if row["category_id"] in BASE_IDS and not row["iscrowd"]:
                kept.setdefault(row["image_id"], []).append(row)

    data = read_with_masks(configuration([*words, *dataset(12, change)]))
    assert [image.image_id for image in data.images] == sorted(kept)
    assert set(range(1, 13)) - set(kept) >= {1, 3}, "one image has crowds only, one novel objects only"
    assert 4 in kept
    for image in data.images:
        rows = kept[image.image_id]
        assert [list(item.box_xywh) for item in image.objects] == [row["bbox"] for row in rows]
        for item, row in zip(image.objects, rows, strict=True):
            assert [polygon.tolist() for polygon in item.mask] == row["segmentation"]
    assert not data.has_run_lengths

    without = read_training_data(configuration([*words, *dataset(12, change)]), with_masks=False)
    assert {item.mask for image in without.images for item in image.objects} == {None}


def test_run_lengths_of_both_kinds_are_masks(words, dataset, configuration):
    masks = []

    def change(data):
        sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
        data["annotations"] = [row for row in data["annotations"] if row["category_id"] in BASE_IDS][:2]
        for row in data["annotations"]:
            packed = run_lengths.merge(run_lengths.frPyObjects(row["segmentation"], *sizes[row["image_id"]]))
            masks.append(run_lengths.decode(packed))
            row["segmentation"] = {"size": packed["size"], "counts": packed["counts"].decode()}
        # The second one uncompressed: how long each run is, column by column, zeros first.
        flat = masks[1].T.reshape(-1)
        edges = np.flatnonzero(np.diff(flat, prepend=0, append=0))
        runs = np.diff([0, *edges, *([] if flat[-1] else [len(flat)])])
        data["annotations"][1]["segmentation"]["counts"] = [int(run) for run in runs]

    data = read_with_masks(configuration([*words, *dataset(4, change)]))
    assert data.has_run_lengths
    found = [run_lengths.decode(item.mask) for image in data.images for item in image.objects]
    assert len(found) == 2
    for mask, expected in zip(found, masks, strict=True):
        np.testing.assert_array_equal(mask, expected)


def test_validation_boxes_have_corners_and_no_crowds(words, dataset, configuration, scenes, tmp_path):
    rows = []

    def change(data):
        some_crowds(data)
        rows.extend(data["annotations"])

    options = [*dataset(2), f"data.validation_annotations={dataset(5, change, 'val.json')[0].partition('=')[2]}"]
    truth = read_with_masks(configuration([*words, *dataset(2), *options])).validation
    for found, ids in ((truth.base, BASE_IDS), (truth.novel, NOVEL_IDS)):
        kept = [row for row in rows if row["category_id"] in ids and not row["iscrowd"]]
        assert set(found) == {row["image_id"] for row in kept}
        for image_id, boxes in found.items():
            corners = np.array([row["bbox"] for row in kept if row["image_id"] == image_id], np.float32)
            corners[:, 2:] += corners[:, :2]
            np.testing.assert_array_equal(boxes, corners)


def only_novel(data):
    data["annotations"] = [row for row in data["annotations"] if row["category_id"] in NOVEL_IDS]


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
    next(category for category in data["categories"] if category["name"] == "circle")["name"] = "circles"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (only_novel, r"has no annotation of a base category"),
        (only_crowds, r"every base annotation of .* is a crowd"),
        (without_masks, r"no base annotation of .* has a mask .*MODEL.MASK_ON: false"),
        (without_one_file, r"data.image_root: 1 of \d+ images have no file, the first is .*gone.jpg"),
        (without_files, r"data.image_root: none of the images is under"),
        (misnamed, r"data.vocabulary: 1 of its names are not categories of the JSON: 'circle'"),
        (without_annotations, r"has no annotations"),
        (without_corners, r"data.annotations: .*bbox"),
    ],
)
def test_a_dataset_that_teaches_nothing_is_refused(words, dataset, configuration, change, message):
    with pytest.raises(UserError) as caught:
        read_with_masks(configuration([*words, *dataset(4, change)]))
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_novel_annotation_is_never_decoded(words, dataset, configuration):
    def unreadable(data):
        for row in data["annotations"]:
            if row["category_id"] in NOVEL_IDS:
                row.update(bbox="never read", segmentation=7, iscrowd=None)

    config = configuration([*words, *dataset(6)])
    before = read_with_masks(config)
    dataset(6, unreadable)
    after = read_with_masks(config)
    assert after.images
    assert [[item.box_xywh for item in image.objects] for image in after.images] == [
        [item.box_xywh for item in image.objects] for image in before.images
    ]
