"""`text_emb` of the categories: the recipe's value, in the recipe's place, and nothing else changed."""

import itertools
import json
import re

import clip
import numpy as np
import pytest
import torch
from commands import REPOSITORY, call

from plgen_ddp.config import load_config
from plgen_ddp.demo.scenes import BASE, NOVEL
from plgen_ddp.label.vocabulary import read_templates

WEIGHTS = REPOSITORY / "plgen_ddp" / "demo" / "weights" / "clip.pt"
WORDS = ["--config", "coco_vlplm", f"clip.model={WEIGHTS}", "clip.activation=quick_gelu", "run.device=cpu"]
QUICK = [*WORDS, "label.templates=['a {}']"]  # where the value is not looked at
DIM = torch.load(WEIGHTS, weights_only=True)["text_projection"].shape[1]
ADDED = re.compile(rb', "text_emb": \[[^\]]*\]')

# Written as no program would write it: every byte of it must come back.
TEXT = """{"info" : {"categories": [{"id": 1, "name": "dining_table"}]},
  "images": [ {"id": 1, "file_name": "\u00e4.jpg", "height": 4, "width": 5, "odd": 1.50e+2} ],
  "categories" : [
    {"id": 7, "name": "dining_table"\t}
    , {"name": "d\\u00f6g", "id": 2, "extra": {"text_emb": [1]}},
    {"id": 9, "text_emb": [0.25, 1e-9], "name": "orange"}
  ],
  "annotations": []}
""".encode()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "coco.v1.json"
    path.write_bytes(TEXT)
    return path


def embeddings(path):
    """float32 `text_emb` by name."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return {row["name"]: np.array(row["text_emb"], np.float32) for row in data["categories"] if "text_emb" in row}


def recipe(spoken):
    """The embedding of a name as the recipe writes it, by OpenAI's own class: a mean of 63 normalised rows."""
    model = clip.model.build_model(torch.load(WEIGHTS, weights_only=True)).float().eval()
    article = "an" if spoken[0] in "aeiou" else "a"
    prompts = [template.format(spoken, article=article) for template in read_templates(load_config("coco_vlplm"))]
    with torch.no_grad():
        rows = model.encode_text(clip.tokenize(prompts, context_length=model.context_length))
    assert len(rows) == 63
    mean = (rows / rows.norm(dim=-1, keepdim=True)).mean(dim=0)
    return (mean / mean.norm()).numpy()


def test_categories_get_the_recipes_value_and_every_other_byte_stays(path):
    lengths = TEXT.replace(b"[0.25, 1e-9]", b"[]")
    path.write_bytes(lengths)
    call("text_embeddings", path, *WORDS)
    output = path.with_name("coco.v1_txtEmb.json")
    written = output.read_bytes()
    found = embeddings(output)
    assert ADDED.sub(b"", written) == ADDED.sub(b"", lengths).replace(b', "text_emb": []', b"")
    assert set(found) == {"dining_table", "d\u00f6g", "orange"}
    for name in ("dining_table", "orange"):
        np.testing.assert_allclose(found[name], recipe(name.replace("_", " ")), atol=1e-6)
        assert np.linalg.norm(found[name]) == pytest.approx(1, abs=1e-6)
    assert path.read_bytes() == lengths


def test_numbers_are_written_in_the_digits_of_a_float32(path):
    call("text_embeddings", path, *QUICK, "label.text_embeddings=replace")
    written = json.loads(path.with_name("coco.v1_txtEmb.json").read_text(encoding="utf-8"))
    numbers = [number for row in written["categories"] for number in row["text_emb"]]
    assert all(float(str(np.float32(number))) == number for number in numbers) and len(numbers) == 3 * DIM


def test_fill_keeps_what_is_there_and_replace_does_not(path, tmp_path, capsys):
    present = ", ".join(["0.5"] * DIM).encode()
    path.write_bytes(TEXT.replace(b"0.25, 1e-9", present))
    call("text_embeddings", path, *QUICK, "--output", tmp_path / "fill.json")
    assert "2 of 3 categories" in capsys.readouterr().out
    assert ADDED.sub(b"", (tmp_path / "fill.json").read_bytes()) == ADDED.sub(b"", path.read_bytes())
    assert (embeddings(tmp_path / "fill.json")["orange"] == 0.5).all()
    call("text_embeddings", path, *QUICK, "--output", tmp_path / "replace.json", "label.text_embeddings=replace")
    assert np.linalg.norm(embeddings(tmp_path / "replace.json")["orange"]) == pytest.approx(1, abs=1e-6)


def test_an_alias_stands_in_the_prompts_as_it_does_for_labels(path, tmp_path):
    path.write_bytes(TEXT.replace(b"0.25, 1e-9", b""))
    call("text_embeddings", path, *QUICK, "label.vocabulary={novel: [orange], aliases: {orange: dining_table}}")
    found = embeddings(path.with_name("coco.v1_txtEmb.json"))
    np.testing.assert_array_equal(found["orange"], found["dining_table"])


@pytest.mark.parametrize(
    ("words", "text", "message"),
    [
        ([], TEXT, f"'orange' has 2 numbers, and embeddings of clip.model have {DIM}; label.text_embeddings=replace"),
        (["label.text_embeddings=none"], TEXT, "nothing to add"),
        (["label.text_embeddings=all"], TEXT, "expected one of fill, replace, none"),
        ([], TEXT.replace(b"[0.25, 1e-9]", b'"x"'), "text_emb"),
        ([], TEXT.replace(b'"annotations": []', b'"images": []').replace(b"[0.25, 1e-9]", b"[]"), "a key twice"),
        ([], b"[]", "not a COCO-format JSON"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(path, capsys, words, text, message):
    path.write_bytes(text)
    with pytest.raises(SystemExit) as stopped:
        call("text_embeddings", path, *QUICK, *words)
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_the_file_itself_is_not_overwritten(path, capsys):
    with pytest.raises(SystemExit):
        call("text_embeddings", path, *QUICK, "--output", path)
    assert "choose another name" in capsys.readouterr().err and path.read_bytes() == TEXT


@pytest.fixture
def label(two_rank_run, tmp_path):
    """Labels the finished run's store; returns the path of the output."""
    numbers = itertools.count()

    def run(*words):
        output = tmp_path / f"labels_{next(numbers)}.json"
        place = [f"run.output={two_rank_run.output}", f"label.output={output}"]
        call("label", *two_rank_run.words, *place, *words)
        return output

    return run


def test_labelling_changes_categories_and_nothing_else(label):
    filled, plain = label(), label("label.text_embeddings=none")
    assert len(ADDED.findall(filled.read_bytes())) == len(json.loads(plain.read_text())["categories"])
    assert ADDED.sub(b"", filled.read_bytes()) == plain.read_bytes()


def test_a_finished_store_labels_without_an_encoder(label):
    """Novel and base names were embedded when the run labelled, so `clip.model` is not even looked for."""
    assert label("clip.model=nowhere.pt").read_bytes() == label().read_bytes()


def test_a_store_that_knows_the_novel_names_alone_says_how_to_go_without_an_encoder(two_rank_run, tmp_path, capsys):
    output = two_rank_run.copy(tmp_path / "out")
    for cache in (output / "store" / "vocabulary").glob("*.npz"):
        with np.load(cache) as stored:
            known = np.isin(stored["keys"], [json.dumps([name]) for name in NOVEL])
            keys, rows = stored["keys"][known], stored["embeddings"][known]
        np.savez(cache, keys=keys, embeddings=rows)
    words = [*two_rank_run.words, f"run.output={output}", "clip.model=nowhere.pt"]
    before = (output / "labels.json").read_bytes()
    with pytest.raises(SystemExit):
        call("label", *words)
    assert "label.text_embeddings=none goes without" in capsys.readouterr().err
    assert (output / "labels.json").read_bytes() == before
    call("label", *words, "label.text_embeddings=none")
    assert (output / "labels.json").read_bytes() == ADDED.sub(b"", before)


def read_as_training_does(path, names):
    """What both training codes' loaders take from a file: numbered categories, boxes with confidence, a matrix.

    They number the categories of the file in ascending id. The rows of the matrix are the names of their own list, in
    ascending id too, and a last one for background.
    """
    data = json.loads(path.read_text())
    ids = sorted(category["id"] for category in data["categories"])
    number_of = {category_id: number for number, category_id in enumerate(ids)}
    by_id = {category["id"]: category for category in data["categories"]}
    own = [category_id for category_id in ids if by_id[category_id]["name"] in names]
    matrix = np.zeros((len(own) + 1, len(by_id[own[0]]["text_emb"])), np.float32)
    for row, category_id in enumerate(own):
        matrix[row] = by_id[category_id]["text_emb"]
    boxes = [
        (row["image_id"], number_of[row["category_id"]], row["bbox"], row.get("confidence", 1), row["iscrowd"])
        for row in data["annotations"]
    ]
    return matrix, boxes, [by_id[category_id]["name"] for category_id in own], by_id, ids


def test_training_finds_each_boxs_name_in_the_matrix(label, two_rank_run):
    novel, base = list(NOVEL[:3]), list(BASE[1:5])
    split = [f"label.vocabulary={{novel: {novel}, base: {base}}}", "label.score_threshold=0.3"]
    matrix, boxes, names, by_id, ids = read_as_training_does(label(*split, "label.drop_categories=true"), novel + base)
    assert matrix.shape == (8, len(by_id[ids[0]]["text_emb"])) and not matrix[-1].any()
    assert len(boxes) > two_rank_run.images and {confidence < 1 for *_, confidence, _ in boxes} == {True, False}
    for _, number, *_ in boxes:
        assert by_id[ids[number]]["name"] == names[number]
    # With categories that are neither novel nor base, numbers of boxes point to other rows.
    _, boxes, names, by_id, ids = read_as_training_does(label(*split), novel + base)
    assert any(number >= len(names) or by_id[ids[number]]["name"] != names[number] for _, number, *_ in boxes)


def test_a_list_of_names_makes_the_others_base_names_and_says_so(label, capsys):
    written = json.loads(label("label.vocabulary=heart,", "label.score_threshold=0.1").read_text())
    others = len(written["categories"]) - 1
    line = f"note: the JSON's {others} other categories count as base names, with their annotations: "
    assert line in capsys.readouterr().err


def test_names_that_the_json_lacks_become_categories(label, capsys):
    source = json.loads(label("label.text_embeddings=none").read_text())["categories"]
    largest = max(category["id"] for category in source)
    names = f"label.vocabulary={{novel: [unicorn, 'blue whale'], base: [{BASE[0]}]}}"
    with pytest.raises(SystemExit):
        label(names)
    assert "2 of its names are not categories of the JSON: 'unicorn'" in capsys.readouterr().err
    written = json.loads(label(names, "label.add_categories=true", "label.score_threshold=0.1").read_text())
    printed = capsys.readouterr()
    assert "adding 2 categories: unicorn, blue whale" in printed.out and "count as base" not in printed.err
    plain = [{key: value for key, value in row.items() if key != "text_emb"} for row in written["categories"]]
    assert plain == [*source, {"id": largest + 1, "name": "unicorn"}, {"id": largest + 2, "name": "blue whale"}]
    assert all("text_emb" in row for row in written["categories"])
    labelled = {row["category_id"] for row in written["annotations"] if "confidence" in row}
    assert labelled and labelled <= {largest + 1, largest + 2}
