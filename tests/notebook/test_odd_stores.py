"""Stores without evidence, with failed images, of imported scores or without their JSON, and what a user gets wrong."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

import plgen_ddp
from plgen_ddp.coco import CocoFile
from plgen_ddp.config import ClipConfig
from plgen_ddp.encoders.loading import named_encoder
from plgen_ddp.errors import UserError
from plgen_ddp.image_files import dataset_digest
from plgen_ddp.label.text_embeddings import TextEmbeddings
from plgen_ddp.records import EVIDENCE, FixedVocabulary, Regions, Similarity
from plgen_ddp.store import Manifest, RegionStore

DIM = 8


def image(image_id, boxes, *, evidence=(), imported=False):
    generator = np.random.default_rng(image_id)
    low, size = generator.random((boxes, 2)) * 80, generator.random((boxes, 2)) * 20 + 1
    kind = np.float64 if imported else np.float32
    columns = {name: generator.random(boxes, np.float32) for name in evidence}
    if imported:
        columns |= {"top_name": np.arange(boxes, dtype=np.int32) % 2, "top_score": generator.random(boxes)}
    return Regions(
        image_id,
        np.concatenate([low, low + size], axis=1).astype(kind),
        np.sort(generator.random(boxes).astype(kind))[::-1].copy(),
        generator.standard_normal((boxes, 0 if imported else DIM)).astype(np.float16),
        **columns,
    )


@pytest.fixture
def make(tmp_path):
    """Makes a run's store of these parts, and a JSON of its images; returns run.output."""

    def made(*parts, vocabulary=None):
        ids = sorted(one.image_id for part in parts for one in part)
        images = [{"id": image_id, "file_name": f"ä {image_id}.jpg", "width": 100, "height": 101} for image_id in ids]
        annotations = tmp_path / "images.json"
        annotations.write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "cat"}]}))
        digest = dataset_digest(CocoFile(annotations, "").images())
        identity = {"dataset": {"digest": digest, "images": len(ids)}, "clip": {"weights": "0" * 64}}
        store = RegionStore(tmp_path / "out" / "store")
        store.open_for_scoring(
            Manifest(DIM, Similarity("softmax", 0.01), identity, {}, str(annotations), vocabulary=vocabulary)
        )
        for part in parts:
            store.write_part(part)
        return tmp_path / "out"

    return made


@pytest.fixture
def small(make):
    """Two parts, their images not in order: one failed, one without a box, one without some evidence."""
    return make(
        [image(5, 4, evidence=EVIDENCE), Regions.failed(7, "decode", "empty file")],
        [image(2, 3, evidence=("agreement",)), image(6, 0)],
    )


def test_images_that_failed_or_have_no_box_are_rows_of_images_alone(small):
    opened = plgen_ddp.open_store(small)
    frame = opened.images()
    assert frame.image_id.tolist() == [2, 5, 6, 7] and frame.boxes.tolist() == [3, 4, 0, 0]
    assert frame.failure.tolist()[3] == "decode: empty file" and frame.failure[:3].isna().all()
    assert frame.file_name.tolist() == [f"ä {image_id}.jpg" for image_id in (2, 5, 6, 7)]
    assert opened.to_pandas().image_id.tolist() == [2] * 3 + [5] * 4
    assert opened.regions(7).failure.reason == "empty file" and len(opened.to_pandas([6, 7])) == 0


def test_evidence_that_a_box_lacks_is_null(small):
    table = plgen_ddp.open_store(small).to_arrow()
    assert table.column("foreground").to_pylist()[:3] == [None] * 3
    assert None not in table.column("agreement").to_pylist()
    assert table.column("foreground").null_count == 3


def test_a_table_of_one_image_takes_its_id_alone(small):
    opened = plgen_ddp.open_store(small)
    expected = opened.to_pandas([5])
    assert len(expected) == 4
    for image_id in (5, np.int64(5), np.array(5)):
        assert opened.to_pandas(image_id).equals(expected)


def test_imported_scores_have_the_name_of_each_box(make):
    names = FixedVocabulary(("cat", "dog"), (), {}, "0" * 64)
    opened = plgen_ddp.open_store(make([image(1, 3, imported=True)], vocabulary=names))
    frame = opened.to_pandas()
    assert frame.top_name.tolist() == ["cat", "dog", "cat"]
    np.testing.assert_array_equal(frame.top_score, image(1, 3, imported=True).top_score)
    assert "foreground" not in frame and frame.file_name.tolist() == ["ä 1.jpg"] * 3


def test_without_the_json_file_names_are_null_and_a_note_says_so(small, capsys):
    json_file = small.parent / "images.json"
    other = json_file.rename(small.parent / "moved.json")
    opened = plgen_ddp.open_store(small)
    assert opened.images().file_name.isna().all() and opened.to_arrow().column("file_name").null_count == 7
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"no file names: the JSON that was scored is not at {json_file}" in said
    again = plgen_ddp.open_store(small, None, f"data.annotations={other}")
    assert again.images().file_name.notna().all() and capsys.readouterr().err == ""


def test_a_json_of_other_images_gives_no_file_names(small, capsys):
    path = small.parent / "images.json"
    path.write_text(path.read_text().replace("101", "102"))
    assert plgen_ddp.open_store(small).images().file_name.isna().all()
    assert "has changed since it was scored" in capsys.readouterr().err
    with pytest.raises(UserError, match="has other images than the store"):
        plgen_ddp.open_store(small, None, f"data.annotations={path}").images()


def test_a_text_that_the_store_knows_is_searched_without_an_encoder(small):
    """The store is of no encoder at all. Its two nearest boxes are copies of the box that the text means."""
    best = image(5, 4, evidence=EVIDENCE)
    text = best.embeddings[2].astype(np.float32)
    text /= np.linalg.norm(text)
    TextEmbeddings(small / "store" / "vocabulary", ("{}",), DIM).embed([("a cat",)], lambda: lambda _: text[None])
    found = plgen_ddp.open_store(small).search("a cat", k=3)
    assert found.loc[0, ["image_id", "box"]].tolist() == [5, 2] and found.cosine[0] == pytest.approx(1, abs=1e-3)
    assert found.file_name[0] == "ä 5.jpg"


def test_many_copies_of_the_best_box_do_not_hide_the_others(make):
    """The best 300 boxes of a part are copies of one: far more than are looked at first for two results."""
    copies = image(1, 300)
    text = np.eye(1, DIM, dtype=np.float32)
    near = replace(
        copies,
        boxes_xyxy=np.tile(np.array([[10, 10, 50, 50]], np.float32), (300, 1)),
        embeddings=np.tile(text.astype(np.float16), (300, 1)),
    )
    # Of another image, so its place does not matter.
    far = replace(image(2, 1), boxes_xyxy=near.boxes_xyxy[:1], embeddings=np.full((1, DIM), 0.1, np.float16))
    output = make([near, far])
    TextEmbeddings(output / "store" / "vocabulary", ("{}",), DIM).embed([("a cat",)], lambda: lambda _: text)
    found = plgen_ddp.open_store(output).search("a cat", k=2)
    assert found[["image_id", "box"]].to_numpy().tolist() == [[1, 0], [2, 0]]


MISTAKES = [
    (lambda at: at().regions(3), "image 3 is not in .*, whose 4 images have ids from 2 to 7; images() lists them"),
    (lambda at: at().to_pandas(["a.jpg"]), "image 'a.jpg': expected an image id, a whole number; images() has them"),
    (lambda at: at().to_arrow([2, 99]), "image 99 is not in "),
    (lambda at: at().to_arrow(99), "image 99 is not in "),
    (lambda at: at().to_pandas("25"), "image '25': expected an image id, a whole number; images() has them"),
    (lambda at: at().to_pandas(2.5), "image 2.5: expected an image id, a whole number; images() has them"),
    (lambda at: plgen_ddp.open_store(None), "open_store: output is None; expected the folder of a run, its run.output"),
    (lambda at: at().search("  "), "search: the text is '  '; expected a prompt such as 'a red umbrella'"),
    (lambda at: at().search(["cat"]), "search: the text is ['cat']; expected a prompt"),
    (lambda at: at().search("cat", k=0), "search: k is 0; expected a whole number from 1"),
    (lambda at: at().search("cat", k=2.5), "search: k is 2.5; expected a whole number from 1"),
    (lambda at: at().search("cat", nms_iou=50), "search: nms_iou is 50; expected a number from 0 to 1"),
    (lambda at: at().label(), "label: vocabulary is not set; give label(vocabulary=...), or open_store a config"),
    (lambda at: at().label(vocabulary=["cat"]), "label: templates is not set; give label(templates=...)"),
    (lambda at: at().label(score_treshold=1), "label: no option 'score_treshold'; did you mean 'score_threshold'?"),
    (lambda at: at().label(output="a.json"), "label: it returns labels and writes no file"),
    (lambda at: at().label(nms_iou=object()), "label: expected numbers, texts, lists or mappings; got "),
    (lambda at: at().label(nms_iou=2), "label.nms_iou is 2.0; expected a number from 0 to 1"),
    (lambda at: at().label("nms_iou=1"), "unknown key nms_iou"),
    (lambda at: at("coco_bets"), "no config file at coco_bets, and no packaged config has that name; did you mean"),
    (lambda at: at(None, "clip.modle=x"), "unknown key clip.modle"),
    (lambda at: at(None, "clip.model=none.pt").search("cat"), "clip.model"),
]


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_a_mistake_is_one_line(small, number):
    mistake, line = MISTAKES[number]
    with pytest.raises(UserError) as raised:
        mistake(lambda *arguments: plgen_ddp.open_store(small, *arguments))
    message = str(raised.value)
    beginning, _, rest = line.partition(".*")
    assert message.startswith(beginning) and rest in message and "\n" not in message, message


def test_imported_scores_cannot_be_searched(make):
    names = FixedVocabulary(("cat", "dog"), (), {}, "0" * 64)
    opened = plgen_ddp.open_store(make([image(1, 3, imported=True)], vocabulary=names))
    with pytest.raises(UserError, match="imported scores, which have no embeddings to compare"):
        opened.search("a cat")


def test_no_store_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no region store at .*; make one with launch/score.py"):
        plgen_ddp.open_store(tmp_path)


def test_frames_need_pandas_and_the_rest_does_not(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # as where it is not installed
    opened = plgen_ddp.open_store(small)
    for call in (opened.images, opened.to_pandas):
        with pytest.raises(UserError, match=r"pandas is not installed; pip install 'plgen_ddp\[notebook\]'"):
            call()
    assert len(opened.to_arrow()) == 7 and len(opened.regions(5).objectness) == 4 and len(opened) == 4


def test_the_manifest_names_the_encoder_for_readers_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.pt").touch()
    (tmp_path / "siglip").mkdir()
    assert named_encoder(ClipConfig()) == {"model": "ViT-B/32"}
    assert named_encoder(ClipConfig(model="clip.pt", activation="gelu")) == {
        "model": str(tmp_path / "clip.pt"),
        "activation": "gelu",
    }
    assert named_encoder(ClipConfig(model="open_clip:local-dir:siglip", tokenizer="siglip")) == {
        "model": f"open_clip:local-dir:{tmp_path / 'siglip'}",
        "tokenizer": str(tmp_path / "siglip"),
    }
    named = named_encoder(ClipConfig(model="open_clip:ViT-B-16-SigLIP/webli", weights="clip.pt"))
    assert named == {"model": "open_clip:ViT-B-16-SigLIP/webli", "weights": str(tmp_path / "clip.pt")}
