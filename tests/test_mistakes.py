"""A user's mistake is one line that says what to write, before any model is built, and exit status 2."""

import json
import re
import shutil

import pytest
import torch
from commands import REPOSITORY, call, refused
from small_datasets import SCENES_JSON, scenes_words, take_scenes

import plgen_ddp.score.mask_rcnn

CONFIG = ["--config", str(REPOSITORY / "configs" / "coco_marvelovd.yaml")]


@pytest.fixture
def words(tiny_models, tmp_path):
    return [
        *CONFIG,
        *tiny_models.words(),
        *scenes_words(),
        f"run.output={tmp_path}/out",
        "run.workers=0",
        "data.limit=2",
    ]


@pytest.fixture
def scored(two_rank_run, tmp_path):
    """Words of the same job as the finished run's, whose store lies in its output: no scoring is needed for them."""
    return [*two_rank_run.words, f"run.output={two_rank_run.copy(tmp_path / 'out')}"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("label.score_treshold=1", "did you mean 'label.score_threshold'"),
        ("data.annotations=nowhere.json", "data.annotations: cannot read nowhere.json: No such file"),
        ("data.annotations=null", "data.annotations is not set"),
        ("data.image_root=nowhere", "data.image_root: no folder at nowhere"),
        ("detector.config=nowhere.yaml", "detector.config: no file at nowhere.yaml"),
        ("detector.weights=nowhere.pth", "detector.weights: no file at nowhere.pth"),
        ("detector.weights=null", "detector.weights is not set"),
        ("clip.model=ViT-B/23", "clip.model: 'ViT-B/23' is neither a file nor one of .*did you mean 'ViT-B/"),
        ("run.device=cuda", "torch sees no GPU here"),
        ("label.vocabulary=[heart, fishh]", "'fishh'; did you mean 'fish'"),
        ("label.vocabulary=[fish, fish]", "given twice: fish"),
        ("label.vocabulary=nowhere.yaml", "label.vocabulary: no file at nowhere.yaml"),
        ("label.templates=['no place']", "label.templates: 'no place' must hold"),
        ("label.annotations=nowhere.json", "label.annotations: cannot read nowhere.json"),
        (
            "label.templates=['" + "very " * 80 + "long {}']",
            "label.vocabulary, label.templates: too long for the encoder.*'very very",
        ),
        (
            "label.templates=['" + "photograph " * 40 + "{}', '" + "a b c d " * 20 + "{}']",
            "label.vocabulary, label.templates: too long for the encoder.*'a b c d",
        ),
        ("label.output=/dev/null/labels.json", "label.output: cannot write into /dev/null"),
        ("label.output=/", "label.output: / is a folder"),
        ("label.output={clip}", "label.output: .* is clip.model"),
        ("label.vocabulary=" + "x" * 300, "label.vocabulary: no file at xxx"),
        ("detector.weights=" + "x" * 300, "cannot use .*: File name too long"),
    ],
)
def test_before_any_model_is_built(words, word, message, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(plgen_ddp.score.mask_rcnn, "MaskRcnn", None)  # building one would be another error
    clip = next(given for given in words if given.startswith("clip.model=")).partition("=")[2]
    line = refused(capsys, "score", [*words, word.replace("{clip}", clip)])
    assert re.search(message, line), line
    assert not (tmp_path / "out" / "labels.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a checkpoint of tensors"),
        (b"not a checkpoint", "is not a checkpoint of tensors"),
        ({"model": {"fc.weight": torch.zeros(2)}}, "no proposal_generator"),
        ([1, 2], "no proposal_generator"),
    ],
)
def test_a_wrong_checkpoint_is_seen_before_any_model_is_built(words, content, message, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(plgen_ddp.score.mask_rcnn, "MaskRcnn", None)
    path = tmp_path / "wrong.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    assert message in refused(capsys, "score", [*words, f"detector.weights={path}"])


def test_a_pickle_is_refused_and_never_run(words, capsys, tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harmed"), "w"))

    for name in ("weights.pkl", "weights.pth"):
        torch.save({"model": Harm()}, tmp_path / name)
        assert "detector.weights" in refused(capsys, "score", [*words, f"detector.weights={tmp_path / name}"])
    torch.save({"state": Harm()}, tmp_path / "clip.pt")
    assert "is not a checkpoint of tensors" in refused(capsys, "score", [*words, f"clip.model={tmp_path / 'clip.pt'}"])
    assert not (tmp_path / "harmed").exists()


def test_a_checkpoint_of_another_shape_is_named(words, tiny_models, capsys, tmp_path):
    state = torch.load(tiny_models.weights, weights_only=True)
    name = "roi_heads.box_predictor.bbox_pred.weight"
    state["model"][name] = torch.cat([state["model"][name]] * 20)
    torch.save(state, tmp_path / "eighty.pth")
    line = refused(capsys, "score", [*words, f"detector.weights={tmp_path / 'eighty.pth'}"])
    assert f"{name} of" in line and "(80, " in line and "(4, " in line
    del state["model"][name]
    torch.save(state, tmp_path / "lacking.pth")
    assert "lacks 1 of" in refused(capsys, "score", [*words, f"detector.weights={tmp_path / 'lacking.pth'}"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("NUM_CLASSES: 1", "NUM_CLASSES: 80"), "ROI_HEADS.NUM_CLASSES of .* is 80"),
        (
            ("META_ARCHITECTURE: GeneralizedRCNN", "META_ARCHITECTURE: RetinaNet"),
            "META_ARCHITECTURE of .* is 'RetinaNet'",
        ),
        (("MASK_ON", "MASK_ONN"), "is not a detectron2 config"),
        (("VERSION: 2", "VERSION: !!python/object/apply:os.system [true]"), "is not a detectron2 config"),
    ],
)
def test_a_detector_that_stage_one_cannot_run_is_refused(words, tiny_models, capsys, tmp_path, change, message):
    path = tmp_path / "detector.yaml"
    text = tiny_models.config.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    assert re.search(message, refused(capsys, "score", [*words, f"detector.config={path}"]))


def test_another_setting_on_an_existing_store_is_refused_with_the_difference(scored, capsys, tmp_path):
    manifest = (tmp_path / "out" / "store" / "manifest.json").read_bytes()
    fewer = tmp_path / "instances_demo.json"
    fewer.write_text(json.dumps(take_scenes(47)))
    for word, difference in [
        ("detector.refine_steps=2", "detector.refine_steps: 10, now 2"),
        ("clip.crop_scales=[1.0]", "clip.crop_scales: [1.0, 1.5], now [1.0]"),
        ("clip.precision=bf16", "clip.precision: fp32, now bf16"),
        (f"data.annotations={fewer}", "dataset.images: 48, now 47"),
    ]:
        assert difference in refused(capsys, "score", [*scored, word])
    assert (tmp_path / "out" / "store" / "manifest.json").read_bytes() == manifest


def test_a_store_of_a_compiled_clip_is_another(scored, capsys):
    with torch.compiler.set_stance("force_eager"):  # compiling takes long; tests/encoders has what it computes
        assert "clip.compile: False, now True" in refused(capsys, "score", [*scored, "clip.compile=true"])


def test_labelling_with_another_clip_than_the_stores_is_refused(scored, tiny_models, capsys, tmp_path):
    """Asked for names that the store has not seen; for the others no CLIP is read at all."""
    other = tmp_path / "other.pt"
    shutil.copy(tiny_models.clip, other)
    with other.open("ab") as file:
        file.write(b"another")
    line = refused(capsys, "label", [*scored, f"clip.model={other}", "label.templates=['another {}']"])
    assert "is not the model that made this store" in line


def test_labelling_without_a_store_says_how_to_make_one(words, capsys):
    assert "no region store at" in refused(capsys, "label", words)


def test_images_to_label_that_will_not_be_scored_are_named_before_scoring(words, capsys, tmp_path):
    data = take_scenes(3)
    for image in data["images"]:
        image["id"] += 100
    path = tmp_path / "other.json"
    path.write_text(json.dumps(data | {"annotations": []}))
    line = refused(capsys, "score", [*words, "data.limit=null", f"label.annotations={path}"])
    assert "3 of 3 images of label.annotations are not in data.annotations" in line
    assert not (tmp_path / "out" / "store").exists()


def test_a_run_without_any_box_fails_and_says_so(words, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        call("score", *words, "data.limit=2", "detector.min_objectness=0.999999")
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "none of the 2 images scored has a box; are detector.weights those of detector.config" in last
    assert not (tmp_path / "out" / "labels.json").exists()


def test_the_json_to_label_is_never_written_over(small_dataset, words, capsys):
    dataset = small_dataset(2)
    before = dataset.annotations.read_bytes()
    line = refused(capsys, "score", [*words, *dataset.words(), f"label.output={dataset.annotations}"])
    assert "is the JSON to label" in line
    assert dataset.annotations.read_bytes() == before


def test_options_under_which_a_crop_could_vanish_are_refused(words, capsys):
    for word in ("detector.min_box_size=1", "clip.crop_scales=[1.0, 0.2]"):
        assert "more than 1 pixel" in refused(capsys, "score", [*words, word])


def test_other_images_of_the_same_ids_are_noticed_by_their_sizes(scored, capsys, tmp_path):
    data = json.loads(SCENES_JSON.read_text())
    for image in data["images"]:
        image["file_name"], image["height"], image["width"] = "other.jpg", 40, 40
    other = tmp_path / "other.json"
    other.write_text(json.dumps(data))
    line = refused(capsys, "label", [*scored, f"data.annotations={other}"])
    assert "has other images than the store" in line
    line = refused(capsys, "label", [*scored, f"label.annotations={other}"])
    assert "the store was made from other images" in line


@pytest.mark.parametrize("word", ["label.templates=5", "label.templates=['a {.x}']", "label.temperature=inf"])
def test_odd_values_are_one_line(words, word, capsys):
    assert word.split("=")[0] in refused(capsys, "score", [*words, word])


def test_a_world_without_torchrun_is_one_line(words, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "start this with torchrun, or unset WORLD_SIZE" in refused(capsys, "score", words)


def test_evaluation_does_not_write_over_its_input(capsys, tmp_path):
    path = tmp_path / "truth.json"
    path.write_text("{}")
    words = ["--labels", str(tmp_path / "labels.json"), "--ground-truth", str(path), "--json", str(path)]
    assert "is --ground-truth; choose another name" in refused(capsys, "evaluate", words)
    assert path.read_text() == "{}"
