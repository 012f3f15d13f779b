"""Reading COCO-format JSON, finding files, writing labels: what is not ours passes through unchanged."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from plgen_ddp.coco import CocoFile, Image
from plgen_ddp.errors import UserError
from plgen_ddp.image_files import dataset_digest, index_images
from plgen_ddp.records import PseudoLabels

DATA = {
    "info": {"year": 2017, "nested": {"kept": [1, 2]}},
    "licenses": [{"id": 1}],
    "images": [
        {
            "id": 9,
            "file_name": "b.jpg",
            "height": 40,
            "width": 60,
            "coco_url": "http://x/train2017/b.jpg",
            "extra": 1.50,
        },
        {"id": 4, "file_name": "a.jpg", "height": 40, "width": 60, "coco_url": "http://x/train2017/a.jpg"},
    ],
    "categories": [
        {"id": 3, "name": "cat", "text_emb": [0.1, 1e-9]},
        {"id": 7, "name": "d\u00f6g", "supercategory": "animal"},
        {"id": 8, "name": "bus"},
    ],
    "annotations": [
        {
            "id": 5,
            "image_id": 4,
            "category_id": 3,
            "bbox": [0, 0, 9, 9],
            "iscrowd": 0,
            "segmentation": [[0.10, 1, 2, 3, 4, 5]],
        },
        {"id": -20, "image_id": 9, "category_id": 7, "bbox": [0, 0, 9, 9], "iscrowd": 0, "area": 81, "odd": None},
        {"id": 6, "image_id": 9, "category_id": 3, "bbox": [1, 1, 5, 5], "iscrowd": 1, "segmentation": {"counts": "x"}},
        {"id": 7, "image_id": 9, "category_id": 8, "bbox": [1, 1, 5, 5], "iscrowd": 0, "area": 25},
    ],
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "instances_train2017.json"
    path.write_text(json.dumps(DATA, ensure_ascii=False), encoding="utf-8")
    return path


def labels(*image_ids):
    count = len(image_ids)
    return PseudoLabels(
        np.array(image_ids, np.int64),
        np.full(count, 7, np.int64),
        np.tile([1.0, 2.0, 3.5, 4.0], (count, 1)),
        np.full(count, 0.9),
        np.full(count, 0.8),
        np.full(count, 0.6),
        np.full(count, 0.7),
    )


def test_written_file_keeps_base_annotations_and_every_extra_key(path, tmp_path):
    out = tmp_path / "out" / "labels.json"
    kept = CocoFile(path, "data.annotations").write_labelled(out, {3, 8}, labels(4, 9), {"version": "1"})
    written = json.loads(out.read_text(encoding="utf-8"))
    assert kept == 3
    assert written["annotations"][:3] == [DATA["annotations"][position] for position in (0, 2, 3)]
    for name in ("licenses", "images", "categories"):
        assert written[name] == DATA[name]
    made = {"version": "1", "images": 2, "pseudo_label_ids": [-21, -22]}
    assert written["info"] == {**DATA["info"], "plgen_ddp": made}
    assert CocoFile(out, "labels").provenance() == made and CocoFile(path, "source").provenance() is None
    assert b"1.5" in out.read_bytes() and b"[[0.1, 1, 2, 3, 4, 5]]" in out.read_bytes()  # the source's own bytes


def test_pseudo_labels_carry_what_the_training_loaders_read(path, tmp_path):
    out = tmp_path / "labels.json"
    CocoFile(path, "data.annotations").write_labelled(out, {3}, labels(4, 9), {})
    first, second = json.loads(out.read_text())["annotations"][2:]
    assert first == {
        "id": -21,
        "image_id": 4,
        "category_id": 7,
        "bbox": [1.0, 2.0, 3.5, 4.0],
        "area": 14.0,
        "confidence": 0.9,
        "score": 0.9,
        "clip_score": 0.8,
        "rpn_score": 0.7,
        "iscrowd": 0,
        "thing_isBase": False,
        "thing_isNovel": True,
        "segmentation": [[1.0, 2.0, 4.5, 2.0, 4.5, 6.0, 1.0, 6.0, 1.0]],
    }
    assert second["id"] == -22, "ids stay under the lowest of the file, -20, so they collide with none"
    coco = COCO(str(out))
    assert [annotation["id"] for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[4]))] == [5, -21]


def test_a_pseudo_label_is_no_mask_to_the_recipes_and_its_box_to_pycocotools(path, tmp_path):
    """Both training loaders take a non-empty list whose polygons are short or of an odd length as "no mask"."""
    out = tmp_path / "labels.json"
    CocoFile(path, "data.annotations").write_labelled(out, set(), labels(4, 9), {})
    coco = COCO(str(out))
    assert len(coco.anns) == 2
    for annotation in coco.anns.values():
        polygons = annotation["segmentation"]
        assert polygons and not [one for one in polygons if len(one) % 2 == 0 and len(one) >= 6]
        mask = coco.annToMask(annotation)  # x from 1 to 4.5, y from 2 to 6
        assert mask.shape == (40, 60) and mask[2:6, 1:4].all() and mask.sum() in (12, 16)


def test_pseudo_labels_in_their_thousands_are_numbered_without_a_gap(path, tmp_path):
    out, many = tmp_path / "labels.json", labels(*[4] * 20_003)
    CocoFile(path, "data.annotations").write_labelled(out, set(), many, {})
    ids = [row["id"] for row in json.loads(out.read_text())["annotations"]]
    assert ids == list(range(-21, -21 - 20_003, -1))


def test_no_annotations_at_all_and_a_choice_of_images(path, tmp_path):
    out = tmp_path / "labels.json"
    CocoFile(path, "data.annotations").write_labelled(out, set(), labels(), {}, image_ids=[9])
    written = json.loads(out.read_text())
    assert written["annotations"] == [] and [image["id"] for image in written["images"]] == [9]
    without = dict(DATA)
    del without["annotations"], without["info"]
    path.write_text(json.dumps(without))
    CocoFile(path, "data.annotations").write_labelled(out, {3}, labels(4), {"version": "1"})
    assert len(json.loads(out.read_text())["annotations"]) == 1


def test_a_file_that_cannot_be_written_is_a_users_error_and_leaves_nothing(path, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        CocoFile(path, "data.annotations").write_labelled(tmp_path / "file" / "labels.json", {3}, labels(), {})
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "instances_train2017.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a COCO-format JSON"),
        ("{", "not a COCO-format JSON"),
        ("[1]", "not a COCO-format JSON"),
        ('{"images": []}', "no categories"),
        ('{"images": [], "categories": []}', "has no images"),
        ('{"images": [{"id": 1, "file_name": "a"}], "categories": []}', "height"),
        ('{"images": [{"id": 1, "height": 1, "width": 1}], "categories": []}', "no `file_name`, and no `coco_url`"),
        (
            '{"images": [{"id": 9223372036854775808, "file_name": "a", "height": 1, "width": 1}], "categories": []}',
            "id",
        ),
        ('{"images": [{"id": 1, "file_name": "a", "height": 1, "width": 2147483648}], "categories": []}', "width"),
        ('{"images": [{"id": "1", "file_name": "a", "height": 1, "width": 1}], "categories": []}', "images.*id"),
        (
            '{"images": [{"id": 1, "file_name": "a", "height": 0, "width": 1}], "categories": []}',
            "image 1 has size 1 x 0",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a", "height": 1, "width": 1}, '
            '{"id": 1, "file_name": "b", "height": 1, "width": 1}], "categories": []}',
            "two images with id 1",
        ),
    ],
)
def test_a_json_that_is_not_coco_is_one_line(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        CocoFile(path, "data.annotations").images()
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_byte_order_mark_is_no_mistake_and_another_encoding_is_one_line(path):
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(CocoFile(path, "data.annotations").categories()) == 3
    path.write_bytes(json.dumps(DATA, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(UserError, match="not a COCO-format JSON"):
        CocoFile(path, "data.annotations").categories()


def test_categories_that_repeat_are_refused(path):
    for key in ("id", "name"):
        data = json.loads(path.read_text())
        data["categories"][1][key] = data["categories"][0][key]
        other = path.with_name("other.json")
        other.write_text(json.dumps(data))
        with pytest.raises(UserError, match=f"two categories with {key}"):
            CocoFile(other, "data.annotations").categories()


@pytest.mark.parametrize(
    "layout", ["train2017/{}", "images/train2017/{}", "{}", "images/{}"], ids=["root", "images", "flat", "images-flat"]
)
@pytest.mark.parametrize("url", [True, False])
def test_files_are_found_in_every_usual_layout(tmp_path, path, layout, url):
    images = CocoFile(path, "data.annotations").images()
    if not url:
        for image in images:
            image.coco_url = None
    root = tmp_path / "coco"
    for image in images:
        file = root / layout.format(image.file_name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    index = index_images(images, str(root), path)
    assert index.image_ids.tolist() == [4, 9]
    assert [index.path(position) for position in range(2)] == [
        root / layout.format(name) for name in ("a.jpg", "b.jpg")
    ]


def test_a_file_name_with_a_folder_is_found(tmp_path, path):
    images = [Image(1, 4, 4, "patch12/a.jpg", None)]
    (tmp_path / "patch12").mkdir()
    (tmp_path / "patch12" / "a.jpg").write_bytes(b"")
    assert index_images(images, str(tmp_path), path).path(0) == tmp_path / "patch12" / "a.jpg"


def test_the_layout_with_most_files_wins_and_a_missing_file_keeps_its_place(tmp_path, path):
    images = [Image(number, 4, 4, f"{number}.jpg", None) for number in range(5)]
    (tmp_path / "images").mkdir()
    for number in (1, 2, 4):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(b"")
    (tmp_path / "0.jpg").write_bytes(b"")
    index = index_images(images, str(tmp_path), path)
    assert index.path(3) == tmp_path / "images" / "3.jpg"


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../b.jpg"])
def test_no_path_leaves_the_image_root(tmp_path, path, name):
    with pytest.raises(UserError, match="image 1 leaves the image root"):
        index_images([Image(1, 4, 4, name, None)], str(tmp_path), path)


def test_a_url_cannot_lead_out_of_the_image_root_either(tmp_path, path):
    with pytest.raises(UserError, match="leaves the image root"):
        index_images([Image(1, 4, 4, "a.jpg", "http://x/../a.jpg")], str(tmp_path), path)


def test_no_file_anywhere_names_what_was_tried(tmp_path, path):
    images = CocoFile(path, "data.annotations").images()
    with pytest.raises(UserError, match=r"none of the images .*train2017/a\.jpg"):
        index_images(images, str(tmp_path), path)
    with pytest.raises(UserError, match="no folder at"):
        index_images(images, str(tmp_path / "nowhere"), path)


def test_digest_follows_what_stage_one_reads():
    images = [Image(1, 4, 5, "a.jpg", None), Image(2, 4, 5, "b.jpg", None)]
    same = [Image(1, 4, 5, "a.jpg", "http://elsewhere/x/a.jpg"), images[1]]
    assert dataset_digest(images) == dataset_digest(same)
    for changed in (Image(3, 4, 5, "b.jpg", None), Image(2, 4, 5, "c.jpg", None), Image(2, 5, 4, "b.jpg", None)):
        assert dataset_digest([images[0], changed]) != dataset_digest(images)


def test_lvis_names_its_files_by_their_url(tmp_path):
    path = tmp_path / "lvis_v1_val.json"
    url = "http://images.cocodataset.org/val2017/000000397133.jpg"
    image = {"id": 397133, "height": 4, "width": 6, "coco_url": url}
    path.write_text(json.dumps({"images": [image], "categories": []}))
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "000000397133.jpg").write_bytes(b"")
    images = CocoFile(path, "data.annotations").images()
    assert index_images(images, str(tmp_path), path).path(0) == tmp_path / "val2017" / "000000397133.jpg"
