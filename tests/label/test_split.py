"""The novel-only split: the reference's annotations and images, byte for byte, and no other."""

import json

import pytest
from commands import REPOSITORY, call, refused
from omegaconf import OmegaConf
from small_datasets import SCENES_JSON, SCENES_VOCABULARY

from plgen_ddp.evaluation import evaluate


@pytest.fixture
def source(tmp_path):
    """Scenes, the second image without a novel object, the third with a crowd alone, in falling ids."""
    data = json.loads(SCENES_JSON.read_text())
    data["images"] = sorted(data["images"], key=lambda image: -image["id"])[:12]
    ids = [image["id"] for image in data["images"]]
    names = {category["id"]: category["name"] for category in data["categories"]}
    novel = {category_id for category_id, name in names.items() if name in novel_names()}
    rows = [row for row in data["annotations"] if row["image_id"] in ids]
    rows = [row for row in rows if row["category_id"] not in novel or row["image_id"] not in ids[1:3]]
    rows.append({"id": 10**6, "image_id": ids[2], "category_id": min(novel), "bbox": [0.10, 0, 9, 9], "iscrowd": 1})
    data["annotations"] = rows
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(data))
    return path, novel


def novel_names():
    return list(OmegaConf.load(SCENES_VOCABULARY).novel)


def test_the_split_keeps_novel_annotations_and_the_images_that_have_one(source, tmp_path, capsys):
    path, novel = source
    output = tmp_path / "novel.json"
    call("split", "--config", "demo", f"data.annotations={path}", "--output", output)
    before, after = json.loads(path.read_text()), json.loads(output.read_text())
    rows = [row for row in before["annotations"] if row["category_id"] in novel]
    kept = {row["image_id"] for row in rows}
    assert after["annotations"] == rows
    assert after["images"] == [image for image in before["images"] if image["id"] in kept]
    assert 5 < len(after["images"]) < 12 and before["images"][1] not in after["images"]
    assert before["images"][2] in after["images"], "an image that has only a crowd of a novel name stays"
    assert after["categories"] == before["categories"]
    assert after["info"]["plgen_ddp"]["split"]["novel"] == novel_names()
    assert capsys.readouterr().out.startswith(f"wrote {output}: {len(rows)} annotations on {len(kept)} images (")


def test_labels_are_evaluated_on_the_split_as_on_the_whole_with_images_of_novel_objects(source, tmp_path):
    path, novel = source
    output, labels = tmp_path / "novel.json", tmp_path / "labels.json"
    call("split", "--config", "demo", f"data.annotations={path}", "--output", output)
    data = json.loads(path.read_text())
    for row in data["annotations"][::2]:
        row.update({"confidence": 0.9, "iscrowd": 0} if row["category_id"] in novel else {})
    data["info"] = {"plgen_ddp": {"label": {"novel": novel_names()}}}
    labels.write_text(json.dumps(data))
    whole = evaluate(labels, path, only_images_with_novel=True)
    split = evaluate(labels, output)
    assert (whole.AP, whole.images, whole.pseudo_labels) == (split.AP, split.images, split.pseudo_labels)
    assert whole.quality.precision == split.quality.precision and split.base_objects == 0 < whole.base_objects


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["label.vocabulary=[no_such_name]"], "1 of its names are not categories of the JSON"),
        ([], "is data.annotations; choose another name"),
    ],
)
def test_mistakes_are_one_line(source, capsys, words, message):
    path, _ = source
    content = path.read_text()
    output = path.with_name("novel.json") if words else path
    with pytest.raises(SystemExit):
        call("split", "--config", "demo", f"data.annotations={path}", "--output", output, *words)
    assert message in capsys.readouterr().err and path.read_text() == content


def test_a_json_without_novel_annotations_is_a_mistake(source, capsys, tmp_path):
    path, novel = source
    data = json.loads(path.read_text())
    data["annotations"] = [row for row in data["annotations"] if row["category_id"] not in novel]
    path.write_text(json.dumps(data))
    with pytest.raises(SystemExit):
        call("split", "--config", "demo", f"data.annotations={path}", "--output", tmp_path / "novel.json")
    assert "has no annotation of the novel names" in capsys.readouterr().err
    assert not (tmp_path / "novel.json").exists()


def test_pseudo_labels_make_no_validation_set(source, capsys, tmp_path):
    """Labels that are evaluated on a split of themselves would have AP 1."""
    path, novel = source
    labels, output = tmp_path / "labels.json", tmp_path / "novel.json"
    data = json.loads(path.read_text())
    for row in data["annotations"]:
        row.update({"confidence": 0.9} if row["category_id"] in novel else {})
    data["info"] = {"plgen_ddp": {"label": {"novel": novel_names()}}}
    labels.write_text(json.dumps(data))
    line = refused(capsys, "split", ["--config", "demo", f"data.annotations={labels}", "--output", output])
    assert "data.annotations: " in line and "labels.json is a file of pseudo labels; give real annotations" in line
    assert not output.exists()


def test_on_real_annotations_too(coco_mini, tmp_path):
    path, output = coco_mini / "annotations" / "instances_val2017.json", tmp_path / "novel.json"
    call("split", "--config", "coco_vlplm", f"data.annotations={path}", "--output", output)
    before, after = json.loads(path.read_text()), json.loads(output.read_text())
    novel = set(OmegaConf.load(REPOSITORY / "configs" / "vocabularies" / "coco_ovd.yaml").novel)
    ids = {category["id"] for category in before["categories"] if category["name"] in novel}
    assert after["annotations"] == [row for row in before["annotations"] if row["category_id"] in ids] != []
    assert {image["id"] for image in after["images"]} == {row["image_id"] for row in after["annotations"]}
