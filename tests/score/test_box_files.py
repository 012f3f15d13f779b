"""Boxes from a file: what is read of it, what is refused, and the whole job without detectron2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from commands import REPOSITORY, command, run

from plgen_ddp.coco import Image
from plgen_ddp.config import DetectorConfig, load_config
from plgen_ddp.errors import UserError
from plgen_ddp.score.box_files import BoxFile, check_boxes, read_boxes
from plgen_ddp.score.images import ImageBatch
from plgen_ddp.score.job import fetch, load_models, plan_work, read_dataset, score_units
from plgen_ddp.store import RegionStore

CPU = torch.device("cpu")
DATA = REPOSITORY / "plgen_ddp" / "demo" / "data"
ANNOTATIONS = DATA / "annotations" / "instances_demo.json"
LIMIT, MAX_BOXES = 10, 6
IMAGES = [Image(3, 100, 200, "3.jpg"), Image(5, 80, 60, "5.jpg"), Image(9, 50, 50, "9.jpg")]


def result(image_id=3, bbox=(10, 20, 30, 40), score=0.5, **others):
    return {"image_id": image_id, "bbox": list(bbox), "score": score, **others}


def write_json(path, results):
    path.write_text(json.dumps(results))
    return path


def write_parquet(path, results, kind=None, **replaced):
    columns = {
        "score": pa.array([row["score"] for row in results], pa.float64()),
        "image_id": pa.array([row["image_id"] for row in results], pa.int64()),
        "bbox": pa.array([row["bbox"] for row in results], kind or pa.list_(pa.float64())),
        "category_id": pa.array([1] * len(results)),
    } | replaced
    pq.write_table(pa.table({name: column for name, column in columns.items() if column is not None}), path)
    return path


@pytest.fixture(scope="module")
def scene_results():
    """Boxes of the demo's scenes in no order: shifted objects and rubbish, on the third image none, on others many.

    Numbers are multiples of 1/64, the same in float32 and float64.
    """
    random = np.random.default_rng(0)
    data = json.loads(ANNOTATIONS.read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in data["images"]}
    empty = sorted(sizes)[2]
    results = []
    for annotation in data["annotations"]:
        if annotation["image_id"] != empty:
            shift = np.rint(random.normal(0, 3, 4) * 64) / 64
            box = np.array(annotation["bbox"]) + shift
            box[2:] = np.maximum(box[2:], 6)
            results.append(result(annotation["image_id"], box.tolist(), int(random.integers(65)) / 64, category_id=7))
    for image_id in sorted(sizes)[3:]:
        width, height = sizes[image_id]
        for score in (0.5, 0.5, 0.25):  # equal scores: the file's order decides
            low = random.integers(0, (width - 20, height - 20)).tolist()
            results.append(result(image_id, [*low, 300, 18], score))
    return [results[place] for place in random.permutation(len(results))]


def expected_boxes(results, image_id, width, height):
    """(boxes xyxy, scores) that the store should hold, found one by one."""
    own = sorted((row for row in results if row["image_id"] == image_id), key=lambda row: -row["score"])[:MAX_BOXES]
    kept = []
    for row in own:
        x, y, w, h = row["bbox"]
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        if x1 - x0 >= 5 and y1 - y0 >= 5:
            kept.append([x0, y0, x1, y1, row["score"]])
    table = np.array(kept, np.float32).reshape(-1, 5)
    return table[:, :4], table[:, 4]


# What is read.


def test_parquet_of_any_list_and_json_mean_the_same(tmp_path, scene_results):
    expected = read_boxes(write_json(tmp_path / "boxes.json", scene_results))
    assert expected.boxes_xyxy.dtype == expected.scores.dtype == np.float32
    np.testing.assert_array_equal(expected.image_ids, [row["image_id"] for row in scene_results])
    first = scene_results[0]["bbox"]
    assert expected.boxes_xyxy[0].tolist() == [first[0], first[1], first[0] + first[2], first[1] + first[3]]
    for number, kind in enumerate([pa.list_(pa.float64()), pa.list_(pa.float32(), 4), pa.large_list(pa.float32())]):
        found = read_boxes(write_parquet(tmp_path / f"{number}.parquet", scene_results, kind))
        for name in ("image_ids", "boxes_xyxy", "scores"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_file_without_boxes_is_read(tmp_path):
    for path in (write_json(tmp_path / "boxes.json", []), write_parquet(tmp_path / "boxes.parquet", [])):
        boxes = read_boxes(path)
        check_boxes(boxes, path, IMAGES)
        assert len(boxes) == 0 and boxes.boxes_xyxy.shape == (0, 4)


def test_each_image_has_its_first_boxes_by_score(tmp_path):
    results = [
        result(5, (1, 1, 6, 6), 0.5),
        result(9, (2, 2, 6, 6), 0.9),
        result(5, (3, 3, 6, 6), 0.75),
        result(5, (4, 4, 6, 6), 0.5),
        result(5, (5, 5, 6, 6), 0.5),
    ]
    source = BoxFile(write_json(tmp_path / "boxes.json", results), DetectorConfig(max_boxes=3), CPU)
    pixels = torch.zeros(3, 100, 200, 3, dtype=torch.uint8)
    nine, three, five = source(ImageBatch((9, 3, 5), pixels, (50, 100, 80), (50, 200, 60)))
    assert [found.image_id for found in (nine, three, five)] == [9, 3, 5]
    assert five.boxes_xyxy.tolist() == [[3, 3, 9, 9], [1, 1, 7, 7], [4, 4, 10, 10]]
    assert five.objectness.tolist() == [0.75, 0.5, 0.5]
    assert nine.boxes_xyxy.tolist() == [[2, 2, 8, 8]] and three.boxes_xyxy.shape == (0, 4)
    assert five.foreground is five.last_move is five.agreement is None
    assert source.padded_size(480, 640) == (512, 640)


def test_identity_is_the_content_and_what_chooses_among_it(tmp_path):
    one = write_json(tmp_path / "one.json", [result()])
    same = write_json(tmp_path / "same.json", [result()])
    other = write_json(tmp_path / "other.json", [result(score=0.25)])
    options = DetectorConfig()

    def identity(path, options):
        return BoxFile(path, options, CPU).identity()

    assert identity(one, options) == identity(same, options) != identity(other, options)
    assert identity(one, options) == identity(one, DetectorConfig(refine_steps=3, weights="some.pth"))
    for changed in ({"max_boxes": 7}, {"min_box_size": 9.0}, {"min_objectness": 0.5}):
        assert identity(one, options) != identity(one, DetectorConfig(**changed))


# What is refused.

RIGHT = [result(), result(5), result(9, (10, 20, 20, 20))]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([result(4), result(10), result(2)], r"3 of images that data.annotations lacks, the first \[10, .*of image 4"),
        ([result(score=float("nan"))], "1 NaN, null or infinite, the first .* with score nan of image 3"),
        ([result(bbox=(1, 2, float("inf"), 4)), result(bbox=(1, None, 3, 4))], "2 NaN, null or infinite"),
        ([result(bbox=(1e300, 2, 3, 4))], "1 NaN, null or infinite"),
        ([result(score=None)], "1 NaN, null or infinite"),
        ([result(bbox=(50, 50, -10, 4))], r"1 of a negative width or height, the first \[50, 50, -10, 4\]"),
        ([result(5, (60, 10, 5, 5)), result(5, (-9, 10, 9, 5))], "2 outside their image"),
        ([result(9, (10, 50.5, 5, 5)), result(9, (10, -9, 5, 9))], "2 outside their image"),
        (
            [result(score=3.25), result(score=-0.5)],
            r"2 with a score outside \[0, 1\] \(logits need a sigmoid\), .* 3.25",
        ),
        ([result(7), result(score=2.0)], r"1 of images .* of image 7; 1 with a score outside \[0, 1\]"),
    ],
)
def test_boxes_that_are_not_of_these_images_are_counted_on_one_line(tmp_path, wrong, message):
    for write, name in ((write_json, "boxes.json"), (write_parquet, "boxes.parquet")):
        path = write(tmp_path / name, RIGHT + wrong)
        with pytest.raises(UserError, match=f"^proposals.source: of {3 + len(wrong)} boxes in .*{message}") as raised:
            check_boxes(read_boxes(path), path, IMAGES)
        assert "\n" not in str(raised.value)


def test_boxes_over_the_edge_and_without_area_are_right(tmp_path, capsys):
    results = [result(5, (-3, -3, 10, 10)), result(5, (55, 70, 10, 12)), result(5, (60, 10, 0, 5)), *RIGHT * 4]
    path = write_json(tmp_path / "boxes.json", results)
    check_boxes(read_boxes(path), path, IMAGES)
    assert capsys.readouterr().err == ""


def test_many_boxes_over_the_edge_are_worth_a_note(tmp_path, capsys):
    """As corners instead of sizes would give them."""
    path = write_json(tmp_path / "boxes.json", [*RIGHT, result(9, (20, 30, 40, 45))])
    check_boxes(read_boxes(path), path, IMAGES)
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 of 4 boxes end beyond their image" in line and "[x, y, width, height]" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("[{", "malformed|truncated"),
        ('{"annotations": []}', "Expected `array`, got `object`"),
        ("[1]", "entry 0: Expected `object`"),
        ('[{"image_id": 3, "bbox": [1, 2, 3, 4]}]', "entry 0: .*missing required field `score`"),
        (json.dumps([result(), result(bbox=(1, 2, 3))]), "entry 1: .*length 4.*bbox"),
        (json.dumps([result(), result("000003")]), "entry 1: Expected `int`, got `str`.*image_id"),
        ('[{"image_id": NaN, "bbox": [1, 2, 3, 4], "score": 1}]', "entry 0: Expected `int`.*image_id"),
    ],
)
def test_a_json_of_something_else_is_named_with_the_first_wrong_entry(tmp_path, content, message):
    path = tmp_path / "boxes.json"
    path.write_text(content)
    with pytest.raises(UserError, match=f"^proposals.source: {path} is neither a COCO results list .*{message}"):
        read_boxes(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"score": None}, "no column score"),
        ({"score": None, "bbox": None}, "no column bbox, score"),
        ({"bbox": pa.array([[1.0, 2, 3]] * 3)}, "four numbers in bbox"),
        ({"bbox": pa.array([[1.0, 2, 3, 4], None, [1, 2, 3, 4]])}, "four numbers in bbox"),
        ({"bbox": pa.array([1.0, 2, 3])}, "bbox is double, not a list"),
        ({"bbox": pa.array([["a", "b", "c", "d"]] * 3)}, "."),
        ({"image_id": pa.array([1, None, 3])}, "needs an image_id"),
        ({"image_id": pa.array([1.5, 2.5, 3])}, "."),
    ],
)
def test_a_parquet_of_something_else_is_named_with_what_it_lacks(tmp_path, columns, message):
    path = write_parquet(tmp_path / "boxes.parquet", RIGHT, **columns)
    with pytest.raises(UserError, match=f"^proposals.source: {path} is neither .*: .*{message}"):
        read_boxes(path)


def test_a_damaged_parquet_is_one_line(tmp_path):
    path = write_parquet(tmp_path / "boxes.parquet", RIGHT)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"^proposals\.source: .*is neither"):
        read_boxes(path)


# The whole job.


@pytest.fixture(scope="module")
def words(tiny_models):
    return [
        *("--config", REPOSITORY / "configs" / "demo.yaml"),
        *(f"data.annotations={ANNOTATIONS}", f"data.image_root={DATA}", f"data.limit={LIMIT}"),
        *("detector.config=null", "detector.weights=null", f"detector.max_boxes={MAX_BOXES}"),
        *(f"clip.model={tiny_models.clip}", "run.images_per_part=4", "run.images_per_batch=3"),
        "label.templates=['a photo of a {}.']",
    ]


@pytest.fixture(scope="module")
def finished(words, scene_results, tmp_path_factory):
    """Output folder of a job on two ranks with a JSON of boxes."""
    folder = tmp_path_factory.mktemp("boxes")
    source = write_json(folder / "boxes.json", scene_results)
    run(command("score.py", *words, f"proposals.source={source}", f"run.output={folder / 'out'}", ranks=2))
    return folder / "out"


def test_two_ranks_store_and_label_the_boxes_of_the_file(finished, scene_results):
    store = RegionStore(finished / "store")
    stored = {image.image_id: image for path in store.part_paths() for image in store.read_part(path)}
    data = json.loads(ANNOTATIONS.read_text())
    images = sorted(data["images"], key=lambda image: image["id"])[:LIMIT]
    assert sorted(stored) == [image["id"] for image in images]
    counts = []
    for image in images:
        found = stored[image["id"]]
        boxes, scores = expected_boxes(scene_results, image["id"], image["width"], image["height"])
        np.testing.assert_array_equal(found.boxes_xyxy, boxes)
        np.testing.assert_array_equal(found.objectness, scores)
        assert found.failure is None and len(found.embeddings) == len(found.scale_cosine) == len(boxes)
        assert found.foreground is found.last_move is found.agreement is None
        counts.append(len(boxes))
    assert min(counts) == 0 and max(counts) == MAX_BOXES
    assert store.manifest().identity["detector"].keys() == {"source", "max_boxes", "min_box_size", "min_objectness"}
    assert len(json.loads((finished / "labels.json").read_text())["images"]) == LIMIT


def test_parquet_in_one_process_gives_the_bytes_of_json_in_two_ranks(finished, words, scene_results, tmp_path):
    source = write_parquet(tmp_path / "boxes.parquet", scene_results, pa.list_(pa.float32(), 4))
    config = load_config(words[1], [*words[2:], f"proposals.source={source}", f"run.output={tmp_path / 'out'}"])
    dataset = read_dataset(config)
    models = load_models(config, fetch(config), CPU)
    score_units(config, dataset.index, plan_work(config, dataset, models).units, models, lambda images: None)
    parts, expected = (RegionStore(folder / "store").part_paths() for folder in (tmp_path / "out", finished))
    # What a part says about itself names the file of boxes.
    rows = [{path.name: pq.read_table(path).replace_schema_metadata(None) for path in own} for own in (parts, expected)]
    assert rows[0] == rows[1] != {}


def test_a_file_for_another_dataset_is_refused_before_anything_is_built(words, scene_results, tmp_path):
    source = write_json(tmp_path / "boxes.json", [*scene_results, result(987654)])
    config = load_config(words[1], [*words[2:], f"proposals.source={source}", f"run.output={tmp_path / 'out'}"])
    with pytest.raises(UserError, match=r"1 of images .* lacks, the first .* of image 987654"):
        read_dataset(config)
    assert not (tmp_path / "out").exists()


WITHOUT_DETECTRON2 = """
import runpy, sys
sys.modules["detectron2"] = None  # as if it were not installed: importing it raises ModuleNotFoundError
main = runpy.run_path(sys.argv[1])["main"]
source, words = sys.argv[2], sys.argv[3:]
assert main([*words, f"proposals.source={source}"]) == 0
assert not [name for name in sys.modules if name.startswith("detectron2.")]
main([*words, "detector.config=some.yaml", "detector.weights=some.pth"])
"""


def test_boxes_from_a_file_need_no_detectron2_and_a_detector_says_that_it_does(words, scene_results, tmp_path):
    source = write_json(tmp_path / "boxes.json", scene_results)
    arguments = [sys.executable, "-c", WITHOUT_DETECTRON2, REPOSITORY / "launch" / "score.py", source]
    (tmp_path / "some.yaml").write_text("VERSION: 2\n")
    done = subprocess.run(
        list(map(str, [*arguments, *words, "data.limit=2", "--no-label", f"run.output={tmp_path / 'out'}"])),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *python_path()])},
        timeout=300,
    )
    assert "scored 2 images" in done.stdout, done.stderr
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: detectron2 is not installed") and "make setup" in last and "proposals.source" in last


def python_path() -> list[str]:
    """What the tests' own PYTHONPATH holds, made absolute: the command runs in another folder."""
    return [str(Path(part).resolve()) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
