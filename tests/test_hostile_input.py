"""Files that were written to do harm: one clear line, or a result of bounded size, and nothing else."""

import json
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import REPOSITORY, call, command, environment, refused
from pytest import CaptureFixture
from small_labelling import DIM, NAMES, OLD, TEMPLATE, Labelling
from tiny_models import TinyModels

from plgen_ddp.errors import UserError
from plgen_ddp.label.text_embeddings import TextEmbeddings

FORGED = "cow\nAP 1.000  AP50 1.000\x1b[2K\x1b[1A"
SEEN = r"cow\nAP 1.000  AP50 1.000\x1b[2K\x1b[1A"
# Nine lists of nine lists ... : 9 to the power of 12 values in 400 bytes.
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
DEEP = "[" * 5000 + "]" * 5000


@pytest.fixture
def labelling(tmp_path: Path) -> Labelling:
    return Labelling.make(tmp_path)


def file(name: str, text: str) -> Callable[[Labelling], Any]:
    """Writes a file into the folder of the labelling."""
    return lambda made: (made.folder / name).write_text(text)


def annotations(change: Callable[[dict[str, Any]], Any]) -> Callable[[Labelling], Any]:
    return lambda made: made.change_json(change)


def manifest(**values: Any) -> Callable[[Labelling], Any]:
    def change(made: Labelling) -> None:
        path = made.store.folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        without_seals(made)

    return change


def without_seals(made: Labelling) -> None:
    """Takes from the parts what could stand in for a damaged manifest."""
    for path in made.store.part_paths():
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)


def deep_manifest(made: Labelling) -> None:
    (made.store.folder / "manifest.json").write_text(DEEP)
    without_seals(made)


def chain(count: int, key: str) -> Callable[[Labelling], Any]:
    """Configs that each start from the next."""

    def write(made: Labelling) -> None:
        for number in range(count):
            (made.folder / f"{number}.yaml").write_text(f"{key}: {number + 1}.yaml\n")
        (made.folder / f"{count}.yaml").write_text("run: {}\n")

    return write


def deep_json(made: Labelling) -> None:
    text = made.annotations.read_text()
    made.annotations.write_text(text[:-1] + f', "info": {DEEP}' + "}")


def nothing(made: Labelling) -> None:
    pass


DOUBLING = f"data: {{annotations: '{'${clip.model}' * 5}'}}\nclip: {{model: '{'${detector.weights}' * 12}'}}\n"
VOCABULARY, CONFIG = "label.vocabulary={folder}/mine.yaml", "--config={folder}/mine.yaml"
SCORES = "label.score_threshold={folder}/mine.yaml"
ROWS: dict[str, tuple[Callable[[Labelling], Any], str, str]] = {
    "alias bomb, vocabulary": (file("mine.yaml", BOMB), VOCABULARY, "line 7: it holds more than 1000000 values"),
    "alias bomb, thresholds": (file("mine.yaml", BOMB), SCORES, "line 7: it holds more than 1000000 values"),
    "alias bomb, config": (file("mine.yaml", BOMB), CONFIG, "line 7: it holds more than 1000000 values"),
    "alias bomb, base": (
        lambda made: (file("mine.yaml", "base: b.yaml")(made), file("b.yaml", BOMB)(made)),
        CONFIG,
        "b.yaml is not valid YAML: line 7",
    ),
    "alias in itself": (file("mine.yaml", "novel: &a [cow, *a]"), VOCABULARY, "an alias inside its own value"),
    "deep YAML": (file("mine.yaml", DEEP), VOCABULARY, "more than 32 levels"),
    "deep through aliases": (
        file("mine.yaml", "a: &a " + "[" * 20 + "]" * 20 + "\nb: " + "[" * 20 + "*a" + "]" * 20),
        VOCABULARY,
        "more than 32 levels",
    ),
    "deep word": (nothing, f"label.vocabulary={DEEP}", "more than 32 levels"),
    "long number": (file("mine.yaml", "novel: " + "9" * 1_000_000), VOCABULARY, "a number of 1000000 characters"),
    "number of base 60": (file("mine.yaml", "novel: 1" + ":1" * 500_000), VOCABULARY, "a number of 1000001 char"),
    "large YAML": (file("mine.yaml", "#" * (33 << 20)), VOCABULARY, "more than 32 MB"),
    "python object": (file("mine.yaml", "novel: !!python/name:os.system"), VOCABULARY, "not valid YAML: line 1"),
    "base of itself": (file("mine.yaml", "base: mine.yaml"), CONFIG, "leads back to itself"),
    "eleven bases": (chain(11, "base"), "--config={folder}/0.yaml", "more than 10 files"),
    "base, many times": (
        lambda made: (file("b.yaml", "run: {}")(made), file("mine.yaml", "base: [" + "b.yaml, " * 11 + "]")(made)),
        CONFIG,
        "more than 10 files",
    ),
    "references that multiply": (file("mine.yaml", DOUBLING), CONFIG, "17 references"),
    "wide place": (nothing, "label.templates=['a {:>1000000000}']", "must hold {}"),
    "wide article": (nothing, "label.templates=['{article:>1000000000} {}']", "must hold {}"),
    "attribute": (nothing, "label.templates=['{} {article.__class__.__doc__}']", "must hold {}"),
    "item": (nothing, "label.templates=['{} {article[0]}']", "must hold {}"),
    "conversion": (nothing, "label.templates=['{!r}']", "must hold {}"),
    "nested place": (nothing, "label.templates=['{:{}}']", "must hold {}"),
    "two places": (nothing, "label.templates=['{} {}']", "must hold {}"),
    "deep JSON": (deep_json, "", "is not a COCO-format JSON: maximum recursion depth"),
    "deep manifest": (deep_manifest, "", "manifest"),
    "dim of a crafted size": (manifest(dim=10**12), "", "is not the manifest of a region store"),
    "dim below 0": (manifest(dim=-1), "", "is not the manifest of a region store"),
    "dim as a text": (manifest(dim="8"), "", "is not the manifest of a region store"),
    "unknown rule": (manifest(similarity={"rule": "x", "temperature": 1}), "", "is not the manifest"),
    "temperature 0": (manifest(similarity={"rule": "softmax", "temperature": 0}), "", "is not the manifest"),
    "temperature NaN": (manifest(similarity={"rule": "softmax", "temperature": np.nan}), "", "is not the manifest"),
    "bias of no number": (
        manifest(similarity={"rule": "softmax", "temperature": 1, "bias": "x"}),
        "",
        "is not the manifest",
    ),
    "identity of a list": (manifest(identity=[]), "", "is not the manifest"),
    "encoder of a list": (manifest(identity={"dataset": {}, "clip": []}), "", "is not the manifest"),
    "annotations of a number": (manifest(annotations=5), "", "is not the manifest"),
    "dataset of a number": (manifest(identity={"dataset": 5}), "", "is not the manifest"),
    "category id beyond int64": (
        annotations(lambda data: data["categories"][0].update(id=2**63)),
        "",
        "is not a COCO-format JSON: Expected `int` <= 9223372036854775807",
    ),
    "no category id left": (
        annotations(lambda data: data["categories"][0].update(id=2**63 - 1)),
        "label.vocabulary=cow,zebra",
        "category id 9223372036854775807, and ids end",
    ),
    "annotation id beyond int64": (
        annotations(lambda data: data["annotations"].append({"id": -(2**63) - 1, "image_id": 1, "category_id": 1})),
        "",
        "is not a COCO-format JSON: ",
    ),
    "no annotation id left": (
        annotations(lambda data: data["annotations"].append({"id": -(2**63), "image_id": 1, "category_id": 1})),
        "",
        "no id of 64 bits is left",
    ),
    "image id beyond int64": (
        annotations(lambda data: data["annotations"].append({"id": 1, "image_id": 2**70, "category_id": 1})),
        "",
        "is not a COCO-format JSON: ",
    ),
    "unknown name of 1 MB": (file("mine.yaml", f"[{'x' * 1_000_000}]"), VOCABULARY, "are not categories of the JSON"),
    "forged name": (file("mine.yaml", json.dumps([FORGED])), VOCABULARY, "are not categories of the JSON"),
    "path that is not UTF-8": (nothing, "label.output={folder}/\udcff.json", r"\udcff.json' is not UTF-8"),
}


@pytest.mark.parametrize("row", ROWS)
def test_one_line_and_no_work(labelling: Labelling, capsys: CaptureFixture[str], row: str) -> None:
    prepare, word, message = ROWS[row]
    prepare(labelling)
    words = [*labelling.words(), "label.text_embeddings=none"]
    if row == "no category id left":
        words.append("label.add_categories=true")
    word = word.replace("{folder}", str(labelling.folder))
    added = word.split("=", 1) if word.startswith("--") else [word] if word else []
    line = refused(capsys, "label", [*words, *added])
    assert message in line and len(line) < 3000 and line[:-1].isprintable()
    assert labelling.output.read_bytes() == OLD


def crafted(path: Path, *, count: int, values: np.ndarray, kind: int = zipfile.ZIP_STORED) -> None:
    """A cache of the three names whose header promises `count` embeddings."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, {DIM}), }}".ljust(117) + "\n"
    keys = np.array([json.dumps([name]) for name in ("person", *NAMES)])
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("embeddings.npy", b"\x93NUMPY\x01\x00\x76\x00" + header.encode() + values.tobytes())
        with archive.open("keys.npy", "w") as stream:
            np.lib.format.write_array(stream, keys)


ONES = np.ones((3, DIM), np.float32)
CACHES: dict[str, dict[str, Any]] = {
    "of a crafted size": {"count": 10**12, "values": ONES},
    "of an overflowing size": {"count": 2**62, "values": ONES},
    "packed": {"count": 3, "values": ONES, "kind": zipfile.ZIP_DEFLATED},
    "short": {"count": 3, "values": ONES[:2]},
    "with NaN": {"count": 3, "values": np.full_like(ONES, np.nan)},
    "with infinity": {"count": 3, "values": np.full_like(ONES, np.inf)},
}


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_of_text_embeddings_is_checked_before_memory_is_asked_for(labelling: Labelling, name: str) -> None:
    names = [(name,) for name in NAMES]
    (path,) = (labelling.store.folder / "vocabulary").glob("*.npz")
    crafted(path, count=3, values=ONES)
    assert TextEmbeddings(path.parent, [TEMPLATE], DIM).knows(names)
    crafted(path, **CACHES[name])
    assert not TextEmbeddings(path.parent, [TEMPLATE], DIM).knows(names)


def test_a_forged_name_is_labelled_and_evaluated_in_one_line_each(
    labelling: Labelling, capsys: CaptureFixture[str]
) -> None:
    def change(data: dict[str, Any]) -> None:
        data["categories"][1]["name"] = FORGED
        data["categories"][2]["name"] = "bus" + "s" * 1_000_000
        box = {"image_id": 1, "bbox": [1, 1, 30, 30], "area": 900, "iscrowd": 0}
        data["annotations"] = [{**box, "id": number, "category_id": number} for number in (2, 3)]

    labelling.change_json(change)
    long = "bus" + "s" * 1_000_000
    (labelling.folder / "mine.yaml").write_text(json.dumps({"novel": [FORGED, long]}))
    texts = TextEmbeddings(labelling.store.folder / "vocabulary", [TEMPLATE], DIM)
    texts.embed([(FORGED,), (long,)], lambda: lambda prompts: np.eye(len(prompts), DIM, dtype=np.float32))
    capsys.readouterr()
    words = [*labelling.words(), f"label.vocabulary={labelling.folder}/mine.yaml", "label.text_embeddings=none"]
    call("label", *words)
    made = json.loads(labelling.output.read_text())
    assert made["info"]["plgen_ddp"]["label"]["novel"] == [FORGED, long]
    call("evaluate", "--labels", labelled(labelling), "--ground-truth", labelling.annotations, "--novel", FORGED, long)
    printed = capsys.readouterr().out
    assert f"{SEEN} 0.000" in printed and max(map(len, printed.splitlines())) < 3000
    assert sum(line.startswith("AP ") for line in printed.splitlines()) == 1


def labelled(labelling: Labelling) -> Path:
    """A labelled JSON of the same images: every object once more, a little aside."""
    data = json.loads(labelling.annotations.read_text())
    for row in data["annotations"]:
        row.update(bbox=[40, 40, 20, 20], confidence=0.9, id=-row["id"])
    labelling.output.write_text(json.dumps(data))
    return labelling.output


def test_sixteen_thousand_names_are_evaluated(labelling: Labelling, capsys: CaptureFixture[str]) -> None:
    """What it costs is in the objects, not in the names squared."""

    def change(data: dict[str, Any]) -> None:
        data["categories"] = [{"id": number, "name": f"name {number}"} for number in range(1, 16_001)]
        box = {"image_id": 1, "bbox": [1, 1, 30, 30], "area": 900, "iscrowd": 0}
        data["annotations"] = [{**box, "id": number, "category_id": number} for number in (2, 3)]

    labelling.change_json(change)
    names = [f"name {number}" for number in range(1, 16_001)]
    figures = labelling.folder / "figures.json"
    words = ["--labels", labelled(labelling), "--ground-truth", labelling.annotations, "--json", figures]
    call("evaluate", *words, "--novel", *names)
    by_name = json.loads(figures.read_text())["AP50_by_name"]
    assert {by_name[name] for name in names[1:3]} == {0.0} and by_name["name 1"] == by_name["name 16000"] == -1
    assert len(by_name) == 16_000 and len(capsys.readouterr().out) < 100_000


def run_with(words: list[str], folder: bytes | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        cwd=folder,
        env=environment() | variables,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
    )


def test_an_ascii_terminal_is_enough(labelling: Labelling) -> None:
    labelling.change_json(lambda data: data["categories"][1].update(name="k\u00fch"))
    words = [*labelling.words(), "label.vocabulary=[k\u00fche]"]
    done = run_with(command("label.py", *words), labelling.folder, PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert r"'k\xfche'; did you mean 'k\xfch'?" in done.stderr


def test_a_folder_that_is_not_utf8_is_worked_in(labelling: Labelling) -> None:
    folder = os.fsencode(labelling.folder / "made") + b"-\xff"
    Path(os.fsdecode(folder)).mkdir()
    words = [*labelling.words(), "label.text_embeddings=none", "label.output=labels.json"]
    done = run_with(command("label.py", *words), folder)
    assert done.returncode in (0, 2) and "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0 or done.stderr.count("\n") == 1


def backbone(name: str, value: str) -> str:
    return f"MODEL:\n  {name}: {{{value}}}\n"


DETECTORS: dict[str, tuple[dict[str, str], str]] = {
    "base of itself": ({"mine.yaml": "_BASE_: mine.yaml"}, "leads back to itself"),
    "bases in a circle": ({"mine.yaml": "_BASE_: b.yaml", "b.yaml": "_BASE_: ./mine.yaml"}, "leads back to itself"),
    "many bases": ({"mine.yaml": f"_BASE_: [{'b.yaml, ' * 11}]", "b.yaml": "VERSION: 2"}, "more than 10 files"),
    "base of an address": ({"mine.yaml": "_BASE_: http://127.0.0.1:9/../x.yaml"}, "download it"),
    "alias bomb": ({"mine.yaml": BOMB}, "more than 1000000 values"),
    "deep": ({"mine.yaml": DEEP}, "more than 32 levels"),
    "a list": ({"mine.yaml": "[1]"}, "does not hold a mapping"),
    "unknown backbone": (
        {"mine.yaml": "_BASE_: tiny.yaml\nMODEL: {BACKBONE: {NAME: build_everything}}"},
        "cannot build this model: .*build_everything",
    ),
    "unknown heads": (
        {"mine.yaml": "_BASE_: tiny.yaml\nMODEL: {ROI_HEADS: {NAME: NoHeads}}"},
        "cannot build this model: .*NoHeads",
    ),
    "crafted size": (
        {"mine.yaml": "_BASE_: tiny.yaml\nMODEL: {RESNETS: {STEM_OUT_CHANNELS: 1000000000000}}"},
        "cannot build this model",
    ),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detectors_config_is_refused_in_one_line(tiny_models: TinyModels, tmp_path: Path, name: str) -> None:
    import torch

    from plgen_ddp.config import DetectorConfig
    from plgen_ddp.score.mask_rcnn import MaskRcnn, read_detector_config

    files, message = DETECTORS[name]
    for file_name, text in files.items():
        (tmp_path / file_name).write_text(text.replace("tiny.yaml", str(tiny_models.config)))
    with pytest.raises(UserError, match=message):
        options = DetectorConfig()
        cfg = read_detector_config(tmp_path / "mine.yaml", options)
        MaskRcnn(cfg, tiny_models.weights, options, torch.device("cpu"))


def test_a_detectors_bases_are_merged_as_detectron2_merges_them(tmp_path: Path) -> None:
    from detectron2.config import CfgNode

    from plgen_ddp.yaml_text import load_with_bases

    (tmp_path / "a.yaml").write_text("MODEL: {A: 1, B: {C: 2, D: 3}}\nX: [1, 2]")
    (tmp_path / "b.yaml").write_text("MODEL: {A: 5, E: 6}")
    (tmp_path / "mine.yaml").write_text("_BASE_: [a.yaml, b.yaml]\nMODEL: {B: {C: 7}}\nX: [3]")
    mine = load_with_bases(tmp_path / "mine.yaml", "detector.config")
    assert mine == CfgNode.load_yaml_with_base(str(tmp_path / "mine.yaml"))
    assert mine == {"MODEL": {"A": 5, "B": {"C": 7, "D": 3}, "E": 6}, "X": [3]}


def test_help_is_shown_on_an_ascii_terminal() -> None:
    done = run_with(command("label.py", "--help"), REPOSITORY, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "--config" in done.stdout
