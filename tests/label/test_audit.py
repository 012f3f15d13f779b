"""The leakage audit: a labelling passes it, every planted leak is a line, and a labelling that leaks writes nothing."""

import json
import re

import numpy as np
import pytest
from commands import call, refused

from plgen_ddp.boxes import ious, paired_ious
from plgen_ddp.coco import CocoFile
from plgen_ddp.label.audit import audit, audit_files
from plgen_ddp.label.labelled_file import read_labelled
from plgen_ddp.records import PseudoLabels

SOURCE = {
    "info": {"year": 2017},
    "images": [
        {"id": number, "file_name": f"{number}.jpg", "height": 100, "width": 200, "odd": 1.50} for number in (4, 9, 12)
    ],
    "categories": [
        {"id": 3, "name": "cat"},
        {"id": 7, "name": "dog", "supercategory": "animal"},
        {"id": 8, "name": "bus"},
        {"id": 9, "name": "cup"},
    ],
    "annotations": [
        {"id": 1, "image_id": 4, "category_id": 3, "bbox": [0, 0, 9, 9], "segmentation": [[0.10, 1, 2, 3, 4, 5]]},
        {"id": 2, "image_id": 9, "category_id": 7, "bbox": [20.5, 30.25, 40.0, 35.5], "iscrowd": 0},
        {"id": 3, "image_id": 9, "category_id": 3, "bbox": [1, 1, 5, 5], "iscrowd": 1},
        {"id": 4, "image_id": 12, "category_id": 8, "bbox": [1, 1, 5, 5]},
        {"id": 5, "image_id": 12, "category_id": 9, "bbox": [2, 2, 50, 60]},
        {"id": 6, "image_id": 12, "category_id": 7, "bbox": [0, 0, 200, 100]},
        {"id": 7, "image_id": 12, "category_id": 7, "bbox": "unreadable"},
    ],
}
NOVEL, BASE = 7, 3


def write(folder, boxes, *, source=SOURCE, base=(3, 8), image_ids=None, novel=("dog",)):
    """Writes the source, and labels of dogs with these boxes (image id, x, y, width, height)."""
    (folder / "source.json").write_text(json.dumps(source))
    rows = np.array(boxes, np.float64).reshape(-1, 5)
    column = np.full(len(rows), 0.5)
    labels = PseudoLabels(
        rows[:, 0].astype(np.int64), np.full(len(rows), NOVEL), rows[:, 1:], column, column, column, column
    )
    names = {category["id"]: category["name"] for category in source["categories"]}
    record = {
        "label": {"novel": list(novel), "base": [names[number] for number in base]},
        "pseudo_labels": len(rows),
    }
    coco = CocoFile(folder / "source.json", "source")
    coco.write_labelled(folder / "labels.json", set(base), labels, record, image_ids)


def leaks(folder):
    return audit_files(folder / "labels.json", folder / "source.json").leaks


LABELS = [(4, 10.25, 10.5, 60.75, 70.125), (9, 21.125, 30.5, 40.5, 35.75), (12, 0.0, 0.0, 200.0, 100.0)]


@pytest.fixture
def labelled(tmp_path):
    """The folder of a labelling, and a function that plants something in its labels."""
    write(tmp_path, LABELS)

    def plant(change):
        path = tmp_path / "labels.json"
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))
        return leaks(tmp_path)

    return plant


def test_a_labelling_may_leave_out_add_embeddings_and_be_rewritten(labelled, tmp_path):
    found = audit_files(tmp_path / "labels.json", tmp_path / "source.json")
    assert (found.leaks, found.images, found.pseudo_labels, found.base_annotations) == ((), 3, 3, 3)
    assert found.unjudged == 1, "a box that is the whole image says nothing"

    def embeddings(data):
        for category in data["categories"]:
            category["text_emb"] = [0.5, 1e-9]

    assert labelled(embeddings) == ()
    write(tmp_path, [row for row in LABELS if row[0] != 9], image_ids=[4, 12])
    assert leaks(tmp_path) == ()
    write(tmp_path, [], base=())
    assert leaks(tmp_path) == ()


def test_a_new_category_may_only_be_a_novel_name_behind_all_others(tmp_path):
    write(tmp_path, LABELS, novel=("dog", "unicorn"))
    path = tmp_path / "labels.json"
    data = json.loads(path.read_text())
    for new, leaking in (
        ({"id": 10, "name": "unicorn"}, False),
        ({"id": 6, "name": "unicorn"}, True),
        ({"id": 10, "name": "x"}, True),
    ):
        path.write_text(json.dumps(data | {"categories": [*data["categories"], new]}))
        assert bool(leaks(tmp_path)) == leaking


def with_novel(data):
    data["annotations"].append(SOURCE["annotations"][1])


def with_novel_that_looks_like_a_label(data):
    data["annotations"].append(data["annotations"][-1] | {"id": 50})


def with_other(data):
    data["annotations"].append(SOURCE["annotations"][4])


def with_copy(data):
    data["annotations"][-2]["bbox"] = SOURCE["annotations"][1]["bbox"]


def with_near_copy(data):
    data["annotations"][-2]["bbox"] = [20.505, 30.25, 40.0, 35.5]


def with_a_key(data):
    data["novel_annotations"] = SOURCE["annotations"][1:2]


def with_another_image(data):
    data["images"][1]["width"] = 201


def with_a_foreign_image(data):
    data["images"][0]["id"] = 77


def without_an_image(data):
    del data["images"][0]


def with_another_category(data):
    data["categories"][0]["supercategory"] = "fish"


def without_a_category(data):
    del data["categories"][2]


def with_another_box(data):
    data["annotations"][0]["bbox"][0] = 1


def with_another_mask(data):
    data["annotations"][0]["segmentation"][0][0] = 0.11


def without_base(data):
    del data["annotations"][0]


def with_new_base(data):
    data["annotations"].append(data["annotations"][0] | {"id": 60})


def with_id_twice(data):
    data["annotations"].append(data["annotations"][0])


def with_label_id_twice(data):
    data["annotations"].append(data["annotations"][-1])


def outside(data):
    data["annotations"][-2]["bbox"][0] = 160


def empty(data):
    data["annotations"][-2]["bbox"][2] = 0


def of_base(data):
    data["annotations"][-2]["category_id"] = BASE


def elsewhere(data):
    data["annotations"][-2]["image_id"] = 5


def without_confidence(data):
    del data["annotations"][-2]["confidence"]


def unlisted(data):
    del data["annotations"][-2]


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (with_novel, ["annotation 2 in image 9 is of the novel name 'dog' and is no pseudo label"]),
        (
            with_novel_that_looks_like_a_label,
            ["annotation 50 in image 12 is of the novel name 'dog' and is no pseudo label"],
        ),
        (with_other, ["annotation 5 in image 12 is of 'cup', which is no base name"]),
        (with_copy, ["pseudo label -2 in image 9 has IoU 1.0000 with a novel annotation of the source"]),
        (with_near_copy, ["pseudo label -2 in image 9 has IoU 0.999. with a novel annotation of the source"]),
        (with_a_key, ["the key 'novel_annotations' is not in the source"]),
        (with_another_image, ["image 9 is not as in the source"]),
        (
            with_a_foreign_image,
            ["image 77 is not in the source", "base annotation 1 .*", "pseudo label -1 .* not there"],
        ),
        (without_an_image, ["there are 2 images, and info says 3", "base annotation 1 .*", "pseudo label -1 .*there"]),
        (with_another_category, [r"category 3 \('cat'\) is not as in the source"]),
        (without_a_category, ["category 8 of the source is missing", "annotation 4 .* is no base name"]),
        (with_another_box, ["base annotation 1 in image 4 is not as in the source"]),
        (with_another_mask, ["base annotation 1 in image 4 is not as in the source"]),
        (without_base, ["base annotation 1 in image 4 of the source is missing"]),
        (with_new_base, ["base annotation 60 in image 4 is not in the source"]),
        (with_id_twice, ["base annotation 1 in image 4 is not in the source", "id 1 is that of 2 annotations"]),
        (with_label_id_twice, ["id -3 is that of 2 annotations", "there are 4 pseudo labels, and info says 3"]),
        (outside, ["pseudo label -2 in image 9 lies outside its image"]),
        (empty, ["pseudo label -2 in image 9 lies outside its image"]),
        (of_base, ["pseudo label -2 in image 9 is not of a novel name"]),
        (elsewhere, ["pseudo label -2 in image 5 is in an image that is not there"]),
        (without_confidence, ["pseudo label -2 in image 9 lacks a box or a confidence"]),
        (unlisted, ["there are 2 pseudo labels, and info says 3"]),
    ],
)
def test_each_planted_leak_is_a_line(labelled, change, lines):
    found = labelled(change)
    assert len(found) == len(lines)
    for line, expected in zip(found, lines, strict=True):
        assert re.fullmatch(expected, line), line


def test_of_many_leaks_of_a_kind_the_first_are_listed(labelled):
    def many(data):
        data["annotations"] += [SOURCE["annotations"][1] | {"id": 100 + number} for number in range(30)]

    found = labelled(many)
    assert found[:2] == tuple(
        f"annotation {number} in image 9 is of the novel name 'dog' and is no pseudo label" for number in (100, 101)
    )
    assert len(found) == 11 and found[-1] == "and 20 more like the last"


def test_ids_that_the_source_repeats_are_its_own(tmp_path):
    twice = [row | {"id": min(row["id"], 3)} for row in SOURCE["annotations"]]
    write(tmp_path, LABELS, source=SOURCE | {"annotations": twice})
    assert leaks(tmp_path) == ()


def test_annotations_of_images_that_the_source_lacks_stay_or_go_with_the_limit(tmp_path):
    orphan = SOURCE["annotations"][0] | {"id": 70, "image_id": 999}
    source = SOURCE | {"annotations": [*SOURCE["annotations"], orphan]}
    write(tmp_path, LABELS, source=source)
    assert b'"image_id":999' in (tmp_path / "labels.json").read_bytes().replace(b" ", b"")
    assert leaks(tmp_path) == ()
    write(tmp_path, LABELS[:1], source=source, image_ids=[4])
    assert leaks(tmp_path) == ()


def test_labels_of_an_earlier_labelling_are_no_annotations(tmp_path):
    write(tmp_path, LABELS)
    write(tmp_path, LABELS, source=json.loads((tmp_path / "labels.json").read_text()))
    labels, source = (CocoFile(tmp_path / name, name) for name in ("labels.json", "source.json"))
    assert audit(read_labelled(labels), source).leaks == ()


def test_whole_pixels_agree_by_chance_unless_most_of_them_do(tmp_path):
    objects = [
        {"id": number, "image_id": 4, "category_id": NOVEL, "bbox": [10 + 30 * number, 20, 25, 25]}
        for number in range(5)
    ]
    source = SOURCE | {"annotations": objects}
    near = [(4, *row["bbox"][:3], 24) for row in objects]
    equal = [(4, *row["bbox"]) for row in objects]
    write(tmp_path, [*equal[:1], *near[1:]], source=source)
    found = audit_files(tmp_path / "labels.json", tmp_path / "source.json")
    assert (found.leaks, found.unjudged) == ((), 1)
    write(tmp_path, [*equal[:3], *near[3:]], source=source)
    assert len(leaks(tmp_path)) == 3


def test_paired_overlaps_are_the_diagonal_of_all():
    corners = np.random.default_rng(0).random((2, 30, 4))
    corners[:, :, 2:] += corners[:, :, :2]
    np.testing.assert_array_equal(paired_ious(*corners), np.diag(ious(*corners)))


def test_the_command_lists_leaks_and_fails(labelled, tmp_path, capsys):
    paths = (tmp_path / "labels.json", tmp_path / "source.json")
    call("audit", *paths)
    assert capsys.readouterr().out == (
        "audited 3 pseudo labels and 3 base annotations of 3 images: no leak; "
        "1 label equals a novel annotation by chance\n"
    )
    labelled(with_novel)
    call("audit", *paths, status=1)
    assert capsys.readouterr().err.splitlines() == [
        "leak: annotation 2 in image 9 is of the novel name 'dog' and is no pseudo label",
        f"error: {paths[0]} leaks",
    ]
    line = refused(capsys, "audit", (paths[1], paths[1]))
    assert "its `info` does not say which annotations are pseudo labels" in line


def test_labels_are_no_source_to_compare_with(labelled, tmp_path, capsys):
    """Against itself, a file never leaks: not even one with a novel annotation."""
    labelled(with_novel)
    line = refused(capsys, "audit", [tmp_path / "labels.json"] * 2)
    assert "labels.json is a file of pseudo labels; give the JSON that was labelled" in line


def test_a_labelling_that_leaks_is_an_error_and_replaces_nothing(two_rank_run, tmp_path, capsys):
    """The same labels again, but the JSON now has one of them as a novel annotation."""
    source = CocoFile(
        next(word for word in two_rank_run.words if word.startswith("data.annotations=")).split("=")[1], ""
    )
    call("audit", two_rank_run.output / "labels.json", source.path)
    made = json.loads((two_rank_run.output / "labels.json").read_text())
    label = next(
        row
        for row in made["annotations"]
        if row["id"] < 0 and min(row["bbox"][:2]) > 2 and row["bbox"][0] + row["bbox"][2] < 300
    )
    planted = json.loads(source.path.read_text())
    planted["annotations"].append(
        {key: label[key] for key in ("image_id", "category_id", "bbox")} | {"id": 10**6, "iscrowd": 0}
    )
    (tmp_path / "planted.json").write_text(json.dumps(planted))
    output = tmp_path / "labels.json"
    output.write_text("as it was")
    words = [*two_rank_run.words, f"run.output={two_rank_run.output}", f"label.output={output}"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        call("label", *words, f"label.annotations={tmp_path / 'planted.json'}")
    leak, error = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert leak.startswith("leak: pseudo label ") and f"in image {label['image_id']} has IoU " in leak
    assert error.startswith("error: the labels leak") and str(output) in error
    assert output.read_text() == "as it was"

    call("label", *words, f"label.annotations={source.path}")
    assert json.loads(output.read_text())["annotations"]


def test_a_category_that_is_neither_novel_nor_base_may_be_left_out(labelled, tmp_path):
    assert labelled(lambda data: data["categories"].pop(3)) == ()
    write(tmp_path, LABELS, base=(3, 8, 9))
    assert "category 9 of the source is missing" in labelled(lambda data: data["categories"].pop(3))
