"""`plgen_ddp.open_store` on the demo: frames, search and labels say what the store and the commands say."""

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import polars
import pytest
from commands import REPOSITORY

import plgen_ddp
from plgen_ddp.boxes import ious
from plgen_ddp.label.embed_names import embed_words
from plgen_ddp.records import EVIDENCE

TEXT = "a red umbrella"


@pytest.fixture(scope="module")
def opened(demo_run):
    return plgen_ddp.open_store(demo_run.output, "demo_best")


@pytest.fixture(scope="module")
def stored(demo_run):
    """Every image of the store as the store's own reader gives it, by id."""
    return {image.image_id: image for path in demo_run.store.part_paths() for image in demo_run.store.read_part(path)}


@pytest.fixture(scope="module")
def file_names(opened):
    images = json.loads(Path(opened.config.data.annotations).read_text())["images"]
    return {image["id"]: image["file_name"] for image in images}


def test_images_are_those_of_the_store_and_of_the_json(opened, stored, file_names):
    frame = opened.images()
    assert len(opened) == len(frame) == 48
    assert dict(zip(frame.image_id, frame.file_name, strict=True)) == file_names
    assert dict(zip(frame.image_id, frame.boxes, strict=True)) == {
        image_id: len(image.objectness) for image_id, image in stored.items()
    }
    assert frame.failure.isna().all() and (frame.width > 0).all()


def test_regions_are_one_image_with_its_embeddings(opened, stored):
    for image_id in (np.int64(1), 48):
        found, expected = opened.regions(image_id), stored[int(image_id)]
        assert found.image_id == image_id
        np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)
        np.testing.assert_array_equal(found.embeddings, expected.embeddings)


def test_the_frame_has_every_box_in_four_columns_with_its_file_and_its_evidence(opened, stored, file_names):
    frame = opened.to_pandas()
    assert frame.image_id.is_monotonic_increasing and set(frame.image_id) == set(stored)
    for image_id, rows in frame.groupby("image_id"):
        image = stored[image_id]
        assert set(rows.file_name) == {file_names[image_id]}
        assert rows.box.tolist() == list(range(len(image.objectness)))
        corners = image.boxes_xyxy.astype(np.float64)
        np.testing.assert_array_equal(rows[["x", "y"]], corners[:, :2])
        np.testing.assert_array_equal(rows[["width", "height"]], corners[:, 2:] - corners[:, :2])
        for name in ("objectness", *EVIDENCE):
            np.testing.assert_array_equal(rows[name], getattr(image, name))
    some = opened.to_pandas([9, 5])
    assert set(some.image_id) == {5, 9}
    assert some.equals(frame[frame.image_id.isin([5, 9])].reset_index(drop=True))


def test_polars_and_duckdb_read_the_arrow_table_as_it_is(opened):
    table, frame = opened.to_arrow(), opened.to_pandas()
    by_polars = polars.from_arrow(table)
    assert by_polars.shape == frame.shape and by_polars["file_name"].to_list() == frame.file_name.tolist()
    assert by_polars["width"].to_list() == frame.width.tolist()
    connection = duckdb.connect()
    connection.register("boxes", table)
    query = "SELECT file_name, count(*), max(width) FROM boxes GROUP BY file_name ORDER BY file_name"
    rows = connection.execute(query).fetchall()
    expected = frame.groupby("file_name").width.agg(["count", "max"])
    assert rows == [(name, *values) for name, values in zip(expected.index, expected.values.tolist(), strict=True)]


def reference_search(stored, embedding, k, iou):
    """The plain way: all boxes by falling cosine, each kept unless it overlaps a kept one of its image."""
    rows = []
    for image_id, image in stored.items():
        vectors = image.embeddings.astype(np.float64)
        cosines = (vectors @ embedding.astype(np.float64) / np.linalg.norm(vectors, axis=1)).astype(np.float32)
        rows += [(-cosine, image_id, place) for place, cosine in enumerate(cosines.tolist())]
    kept = []
    for cosine, image_id, place in sorted(rows):
        boxes = stored[image_id].boxes_xyxy.astype(np.float64)
        others = [other for _, same, other in kept if same == image_id]
        if not others or ious(boxes[[place]], boxes[others]).max() <= iou:
            kept.append((cosine, image_id, place))
    return [(image_id, place, -cosine) for cosine, image_id, place in kept[:k]]


@pytest.mark.parametrize("iou", [0.3, 0.6])
def test_a_search_finds_what_the_plain_way_finds(opened, stored, iou):
    found = opened.search(TEXT, k=60, nms_iou=iou)
    embedding = embed_words(opened.config, ("{}",), [(TEXT,)], opened._store)[0]
    expected = reference_search(stored, embedding, 60, iou)
    assert [*zip(found.image_id, found.box, strict=True)] == [row[:2] for row in expected]
    np.testing.assert_allclose(found.cosine, [row[2] for row in expected], atol=1e-6)
    for row in found.itertuples():
        corners = stored[row.image_id].boxes_xyxy[row.box].astype(np.float64)
        assert (row.x, row.y, row.width, row.height) == (*corners[:2], *(corners[2:] - corners[:2]))


def test_a_search_finds_distinct_boxes_and_more_of_them_is_a_longer_list(opened, file_names):
    copies = opened.search(TEXT, k=20, nms_iou=1)
    few, many = opened.search(TEXT, k=20), opened.search(TEXT, k=1000)
    overlaps = [overlap_in_image(frame) for frame in (copies, few, many)]
    assert overlaps[0] > 0.8, "without suppression there are copies, so this scene can show that they go"
    assert max(overlaps[1:]) <= 0.3
    assert few.equals(many[:20]) and len(many) > 200
    assert few.cosine.is_monotonic_decreasing
    assert few.file_name.tolist() == [file_names[image_id] for image_id in few.image_id]


def overlap_in_image(frame):
    """The largest IoU of two boxes of one image."""
    largest = 0.0
    for _, rows in frame.groupby("image_id"):
        low = rows[["x", "y"]].to_numpy()
        boxes = np.concatenate([low, low + rows[["width", "height"]].to_numpy()], axis=1)
        largest = max(largest, np.triu(ious(boxes, boxes), 1).max())
    return largest


def test_more_than_the_store_has_is_all_of_it(opened, stored):
    everything = opened.search(TEXT, k=10**6, nms_iou=1)
    boxes = {(image_id, place) for image_id, image in stored.items() for place in range(len(image.objectness))}
    assert {*zip(everything.image_id, everything.box, strict=True)} == boxes and len(everything) == len(boxes)


def test_without_a_config_a_search_finds_the_encoder_that_the_manifest_names(opened, demo_run):
    assert plgen_ddp.open_store(demo_run.output).search("a blue key", k=3).equals(opened.search("a blue key", k=3))
    assert plgen_ddp.open_store(demo_run.output / "store").search(TEXT, k=3).equals(opened.search(TEXT, k=3))


def test_labels_are_those_of_the_command(opened, demo_run):
    written = json.loads((demo_run.output / "labels.json").read_text())
    expected = [row for row in written["annotations"] if "confidence" in row]
    before = {path for path in demo_run.output.rglob("*") if "vocabulary" not in path.parts}
    labels = opened.label()
    assert {path for path in demo_run.output.rglob("*") if "vocabulary" not in path.parts} == before
    assert len(expected) > 20
    for column in ("image_id", "category_id"):
        assert labels[column].tolist() == [row[column] for row in expected]
    assert labels[["x", "y", "width", "height"]].to_numpy().tolist() == [row["bbox"] for row in expected]
    for column, key in (("score", "score"), ("clip_score", "clip_score"), ("rpn_score", "rpn_score")):
        assert labels[column].tolist() == [row[key] for row in expected]
    names = {category["id"]: category["name"] for category in written["categories"]}
    assert labels.name.tolist() == [names[row["category_id"]] for row in expected]


def test_options_of_labels_are_words_or_keywords(opened):
    names = ["heart", "key"]
    by_keyword = opened.label(vocabulary=names, threshold="fixed", score_threshold={"heart": 0.3, "default": 0.6})
    by_word = opened.label(
        "label.vocabulary=heart,key", "label.threshold=fixed", "label.score_threshold={heart: 0.3, default: 0.6}"
    )
    assert by_keyword.equals(by_word) and set(by_keyword.name) == set(names)
    assert by_keyword.score[by_keyword.name == "key"].min() > 0.6 > by_keyword.score.min()
    assert opened.label("label.vocabulary=fish,", vocabulary=("key",)).name.unique().tolist() == ["key"]


def test_importing_the_package_is_cheap():
    code = """
import sys, plgen_ddp
heavy = {"numpy", "pyarrow", "pandas", "torch", "omegaconf", "msgspec"} & set(sys.modules)
assert not heavy, heavy
assert plgen_ddp.open_store.__doc__
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
