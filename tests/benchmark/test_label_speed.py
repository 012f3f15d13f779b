"""The benchmark of labelling, and the store it draws. Nothing here asserts a time."""

import json

import pytest
from commands import launcher

from plgen_ddp.benchmark.synthetic_store import write_synthetic_data, write_synthetic_json
from plgen_ddp.store import RegionStore

NAMES = ["cup", "dog", "cat"]


def test_each_run_is_a_row_and_the_reference_labels_as_many_boxes(tmp_path, capsys):
    words = ["--label", "--num-images", "70", "--presets", "coco_vlplm,coco_sasdet", "--names", "20"]
    launcher("benchmark").main([*words, "--json", str(tmp_path / "rows.json"), "--work", str(tmp_path / "work")])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["name"], row["names"], row["images"]) for row in rows] == [
        ("reference", 17, 70),
        ("coco_vlplm", 17, 70),
        ("coco_sasdet", 17, 70),
        ("coco_vlplm", 20, 70),
    ]
    reference, vlplm, sasdet, more_names = rows
    assert reference["labels"] == vlplm["labels"] > 70
    assert 0 < more_names["labels"] < vlplm["labels"] != sasdet["labels"] > 0, "other names take their share"
    assert all(row["seconds"] > 0 and row["processor_seconds"] > 0 for row in rows)
    assert reference["peak_memory"] > 2 * vlplm["peak_memory"] > 10**8, "only the reference needs torch"
    printed = capsys.readouterr().out
    assert "coco_vlplm from computed scores, on all images" in printed
    for row in rows:
        assert f"{row['labels'] / 70:.2f}" in printed and f"{row['images'] / row['seconds']:.4g}" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--presets", "coco_vlpm"], "coco_vlpm"),
        (["label.nms_iou=2"], "label.nms_iou is 2.0"),
        (["--work", "{folder}"], "--work: {folder} is not empty"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(tmp_path, capsys, words, message):
    (tmp_path / "kept").touch()
    words = [word.format(folder=tmp_path) for word in words]
    work = [] if "--work" in words else ["--work", str(tmp_path / "work")]
    with pytest.raises(SystemExit):
        launcher("benchmark").main(["--label", *work, *words])
    assert message.format(folder=tmp_path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_the_drawn_data_are_those_of_the_seed(tmp_path):
    stores = []
    for folder, seed in (("one", 3), ("same", 3), ("other", 4)):
        data = write_synthetic_data(tmp_path / folder, NAMES, 66, boxes=7, dim=8, seed=seed, other_names=["thing"])
        stores.append([data.annotations.read_bytes(), *(path.read_bytes() for path in data.store.part_paths())])
    assert stores[0] == stores[1] and len(stores[0]) == 3
    assert all(one != other for one, other in zip(stores[0], stores[2], strict=True))
    first = RegionStore(tmp_path / "one" / "store")
    rows = [row for path in first.part_paths() for row in first.read_part(path)]
    assert [row.image_id for row in rows] == list(range(1, 67))
    assert {row.embeddings.shape for row in rows} == {(7, 8)}


def test_the_json_of_the_first_images_is_the_start_of_the_whole_one(tmp_path):
    content = {}
    for count in (150, 70):
        write_synthetic_json(tmp_path / "made.json", NAMES, count, seed=1)
        content[count] = json.loads((tmp_path / "made.json").read_text())
    whole, first = content[150], content[70]
    assert first["images"] == whole["images"][:70] and first["categories"] == whole["categories"]
    assert first["annotations"] == [row for row in whole["annotations"] if row["image_id"] <= 70]
    assert len({row["id"] for row in whole["annotations"]}) == len(whole["annotations"]) > 150
