"""Prompts as the recipe makes them; embeddings that are made once, saved as they are made, and free of neighbours."""

import zlib

import numpy as np
import pytest
import torch

from plgen_ddp.config import ClipConfig
from plgen_ddp.demo.scenes import BASE, NOVEL
from plgen_ddp.encoders.loading import load_encoder
from plgen_ddp.errors import UserError
from plgen_ddp.label.text_embeddings import TextEmbeddings, prompts


def test_prompts_have_the_article_and_spoken_names():
    assert prompts(["dining_table", "Orange", "cup/mug"], ["{article} {}.", "the {}"]) == [
        "a dining table.",
        "the dining table",
        "an Orange.",
        "the Orange",
        "a cup or mug.",
        "the cup or mug",
    ]


def encoder(calls):
    def encode(texts):
        calls.append(list(texts))
        rows = np.array(
            [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(4) for text in texts], np.float32
        )
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return lambda: encode


def test_a_name_is_embedded_once_and_an_alias_takes_its_place(tmp_path):
    calls = []
    templates = ("a {}", "the {}")
    first = TextEmbeddings(tmp_path, templates, 4).embed([("cat",), ("tv", "television")], encoder(calls))
    assert calls == [["a cat", "the cat"], ["a tv", "the tv", "a television", "the television"]]
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-6)
    again = TextEmbeddings(tmp_path, templates, 4).embed([("tv", "television"), ("dog",)], encoder(calls))
    assert calls[2:] == [["a dog", "the dog"]]
    np.testing.assert_array_equal(again[0], first[1])
    TextEmbeddings(tmp_path, ("one {}",), 4).embed([("cat",)], encoder(calls))
    assert calls[3:] == [["one cat"]], "other templates are other embeddings"


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_prompts_without_a_direction_are_said_by_their_name(tmp_path, value):
    with pytest.raises(UserError, match="the prompts of 'cat' is no direction"):
        TextEmbeddings(tmp_path, ("a {}",), 4).embed([("cat",)], lambda: lambda texts: np.full((len(texts), 4), value))
    assert not list(tmp_path.iterdir())


def test_a_word_that_two_names_share_is_embedded_once(tmp_path):
    calls = []
    found = TextEmbeddings(tmp_path, ("a {}",), 4).embed([("cat",), ("pet",), ("cat",), ("pet",)], encoder(calls))
    assert calls == [["a cat"], ["a pet"]]
    np.testing.assert_array_equal(found[:2], found[2:])


def test_a_damaged_cache_is_made_anew(tmp_path):
    calls = []
    TextEmbeddings(tmp_path, ("a {}",), 4).embed([("cat",)], encoder(calls))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:50])
    TextEmbeddings(tmp_path, ("a {}",), 4).embed([("cat",)], encoder(calls))
    assert len(calls) == 2


@pytest.fixture(scope="module")
def demo_encoder(request):
    weights = request.config.rootpath / "plgen_ddp" / "demo" / "weights" / "clip.pt"
    options = ClipConfig(model=str(weights), activation="quick_gelu")
    encoder = load_encoder(options, weights, torch.device("cpu"), "fp32")
    return lambda: lambda texts: encoder.encode_texts(texts).numpy()


def test_a_names_bits_do_not_depend_on_its_neighbours(tmp_path, demo_encoder):
    """Nor on names that are longer, whose prompts need more of the context."""
    templates = ["a photo of {article} {}.", "There is the {} in the scene.", "{}"]
    names = [
        *[(name,) for name in (*BASE, *NOVEL)],
        ("a name that is so long that sixteen tokens are not enough for it, is it",),
    ]
    together = TextEmbeddings(tmp_path / "together", templates, 128).embed(names, demo_encoder)
    for name, expected in zip(names, together, strict=True):
        alone = TextEmbeddings(tmp_path / f"alone_{name[0]}", templates, 128).embed([name], demo_encoder)
        np.testing.assert_array_equal(alone[0], expected)
    backwards = TextEmbeddings(tmp_path / "backwards", templates, 128).embed(names[::-1], demo_encoder)
    np.testing.assert_array_equal(backwards[::-1], together)


def test_an_interrupt_loses_at_most_a_batch_of_names(tmp_path):
    calls = []
    names = [(f"name {number}",) for number in range(50)]

    def interrupted(texts):
        if len(calls) == 40:
            raise KeyboardInterrupt
        return encoder(calls)()(texts)

    with pytest.raises(KeyboardInterrupt):
        TextEmbeddings(tmp_path, ("a {}",), 4).embed(names, lambda: interrupted)
    calls.clear()
    after = TextEmbeddings(tmp_path, ("a {}",), 4).embed(names, encoder(calls))
    assert 10 <= len(calls) <= 10 + 16
    np.testing.assert_array_equal(after, TextEmbeddings(tmp_path / "other", ("a {}",), 4).embed(names, encoder([])))


def test_progress_is_lines_where_there_is_no_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("plgen_ddp.label.text_embeddings._LINE_EVERY", 0.0)
    TextEmbeddings(tmp_path, ("a {}",), 4).embed([("cat",), ("dog",), ("bus",)], encoder([]))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "embedding 3 names, 1 prompt each"
    assert lines[-1].startswith("embedded 2 of 3 names, ")


def test_a_store_that_cannot_be_written_is_said_once(tmp_path, capsys):
    (tmp_path / "file").touch()
    embeddings = TextEmbeddings(tmp_path / "file" / "folder", ("a {}",), 4)
    made = embeddings.embed([(f"name {number}",) for number in range(40)], encoder([]))
    assert made.shape == (40, 4)
    assert capsys.readouterr().err.count("embedded anew each time") == 1


def test_another_precision_is_another_file(tmp_path):
    calls = []
    for precision in ("fp32", "bf16", "fp32", "bf16"):
        TextEmbeddings(tmp_path, ("a {}",), 4, precision).embed([("cat",)], encoder(calls))
    assert len(calls) == 2
