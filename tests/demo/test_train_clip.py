"""The demo's CLIP: the public loader takes it, it knows its 18 names, and its training repeats itself."""

import zipfile
from pathlib import Path

import clip
import numpy as np
import pytest
import torch
from clip.model import CLIP

import plgen_ddp.demo
from plgen_ddp.demo import train_clip
from plgen_ddp.demo.scenes import NOVEL, SEEDS, draw_scene
from plgen_ddp.train.weights import write_small_weights

WEIGHTS = Path(plgen_ddp.demo.__file__).parent / "weights" / "clip.pt"


@pytest.fixture(scope="module")
def model() -> CLIP:
    return clip.load(str(WEIGHTS), device="cpu")[0]


def test_file_is_small_plain_and_complete(model: CLIP) -> None:
    assert WEIGHTS.stat().st_size < 1_900_000
    state = torch.load(WEIGHTS, weights_only=True)
    assert set(state) == set(train_clip.build().state_dict())
    assert {t.dtype for t in state.values()} == {torch.float16, torch.int64}
    assert model.visual.input_resolution == train_clip.RESOLUTION
    assert float(model.logit_scale.detach().exp()) == pytest.approx(1 / train_clip.TEMPERATURE, rel=0.01)


def test_crops_equal_clips_own_preprocessing() -> None:
    _, preprocess = clip.load(str(WEIGHTS), device="cpu")
    photo = train_clip._photo(draw_scene(100_000))
    rng = np.random.default_rng(0)
    for box in train_clip._random_boxes(rng, 40, photo.size):
        box = np.clip(box, 0, np.tile(photo.size, 2))
        if (box[2:] - box[:2]).min() < 5:
            continue
        for scale in train_clip.SCALES:
            centre, half = (box[:2] + box[2:]) / 2, scale * (box[2:] - box[:2]) / 2
            low, high = np.maximum(centre - half, 0), np.minimum(centre + half, photo.size)
            expected = preprocess(photo.crop(tuple(float(v) for v in (*low, *high))))
            found = train_clip._pixels(train_clip._crop(photo, box, scale)[None].copy())[0]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_knows_its_names_on_fresh_scenes(model: CLIP) -> None:
    result = train_clip.evaluate(model, SEEDS["val"][50_000:50_010])
    assert result.boxes > 35
    assert result.accuracy > 0.9
    assert result.novel_found > 0.85
    assert result.base_taken < 0.12
    assert result.background_taken < 0.05


def test_wording_hardly_matters(model: CLIP) -> None:
    """Templates outside the training grammar, and few or many of them, give about the same text embedding."""
    reference = train_clip.text_embeddings(model, NOVEL)
    for template in ("a photo of the {} in the scene", "this is one {}", "a rendition of a {}."):
        with torch.no_grad():
            found = model.encode_text(clip.tokenize([template.format(name) for name in NOVEL]))
        cosines = torch.nn.functional.normalize(found, dim=1) @ reference.T
        assert cosines.argmax(dim=1).tolist() == list(range(len(NOVEL)))
        assert cosines.diagonal().min() > 0.93


def test_a_word_it_never_learned_is_near_no_name(model: CLIP) -> None:
    names = train_clip.text_embeddings(model, train_clip.NAMES)
    strangers = train_clip.text_embeddings(model, ("giraffe", "traffic light", "wine glass", "boat"))
    between_names = (names @ names.T).fill_diagonal_(0).max()
    assert float((strangers @ names.T).max()) < float(between_names) + 0.05


def test_iou_and_targets() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 40]], dtype=float)
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], dtype=float)
    np.testing.assert_allclose(train_clip._iou(boxes, others), [[1, 1 / 3, 0], [0, 0, 0.5]])
    low, high = train_clip.IOU_RAMP
    targets = train_clip._targets(np.array([3, 3, 3]), np.array([low, (low + high) / 2, high]))
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    assert targets.argmax(axis=1).tolist()[::2] == [len(train_clip.TEXTS) - 1, 3]
    assert (np.diff(targets[:, 3]) > 0).all()


def test_random_vocabularies_hold_the_own_name_every_other_time() -> None:
    count, label, names = 2000, 4, len(train_clip.NAMES)
    targets = torch.from_numpy(train_clip._targets(np.full(count, label), np.ones(count)))
    chosen = train_clip._vocabularies(targets, torch.Generator().manual_seed(0))
    assert (chosen.sum(dim=1) == train_clip.VOCABULARY).all()
    shares = chosen.float().mean(dim=0)
    assert float(shares[label]) == pytest.approx(0.5, abs=0.05)
    others = shares[torch.arange(names) != label]
    assert float(others.min()) > 0.25
    assert float(others.max()) < 0.4


def test_loss_wants_a_flat_answer_when_the_name_is_not_asked_for() -> None:
    """Leaning to a wrong name costs more than standing equally far from all names of the vocabulary."""
    texts = train_clip._text_targets(torch.Generator().manual_seed(0))
    targets = torch.zeros(1, len(train_clip.TEXTS))
    targets[0, 0] = 1.0
    vocabulary = torch.zeros(1, len(train_clip.NAMES), dtype=torch.bool)
    vocabulary[0, 6:12] = True
    straight = train_clip._loss(texts[:1], texts, targets, vocabulary)
    leaning = train_clip._loss(texts[:1] + 0.3 * texts[7:8], texts, targets, vocabulary)
    elsewhere = train_clip._loss(texts[:1] + 0.3 * texts[3:4], texts, targets, vocabulary)
    assert leaning > elsewhere + 0.05
    assert leaning > straight + 0.05


def test_training_repeats_itself_and_the_file_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_clip, "TEXT_STEPS", 4)
    monkeypatch.setattr(train_clip, "SCENES_AT_ONCE", 3)
    monkeypatch.setattr(train_clip, "_templates", lambda: ("a {}", "the {}."))
    for name in ("a.pt", "b.pt"):
        trained = train_clip.train(steps=2)
        write_small_weights(trained.state_dict(), tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    assert zipfile.ZipFile(tmp_path / "a.pt").testzip() is None

    loaded, _ = clip.load(str(tmp_path / "a.pt"), device="cpu")
    for name, value in loaded.state_dict().items():
        expected = trained.state_dict()[name].float()
        torch.testing.assert_close(value.float(), expected, rtol=0.01, atol=0.01 * float(expected.abs().max()) + 1e-3)
