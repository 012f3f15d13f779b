"""Weights and detector configs from somebody who wants more than to be read: nothing runs, nothing is fetched.

Each case is one line and exit status 2. Whatever would run leaves a mark, and a server counts who asks it.
"""

import http.server
import json
import pickle
import re
import shutil
import threading
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from commands import REPOSITORY, call, refused
from safetensors.torch import load_file, save_file
from small_datasets import SCENES_VOCABULARY, scenes_words

from plgen_ddp.files import file_sha256
from plgen_ddp.weight_files import WeightFile


@dataclass
class Attacker:
    """A folder of hostile files, the mark that they would leave, and a server."""

    folder: Path
    url: str
    models: object
    asked: list[str] = field(default_factory=list)

    @property
    def mark(self) -> Path:
        return self.folder / "harmed"

    def harm(self):
        """An object whose pickle creates the mark."""
        return _Harm(self.mark)

    def save(self, name, content) -> Path:
        torch.save(content, self.folder / name)
        return self.folder / name

    def pickled(self, name) -> Path:
        (self.folder / name).write_bytes(pickle.dumps({"model": {"a": self.harm()}, "__author__": "x"}))
        return self.folder / name

    def detector(self, name, change) -> Path:
        """The tiny detector's checkpoint, changed."""
        content = torch.load(self.models.weights, weights_only=True)
        change(content["model"])
        return self.save(name, content)

    def clip(self, name, change) -> Path:
        state = torch.load(self.models.clip, weights_only=True)
        change(state)
        return self.save(name, state)

    def deflated(self, name) -> Path:
        """A checkpoint of zeros, with compressed members."""
        plain = self.detector(f"plain_{name}", lambda state: state.update(zeros=torch.zeros(10**7)))
        with (
            zipfile.ZipFile(plain) as archive,
            zipfile.ZipFile(self.folder / name, "w", zipfile.ZIP_DEFLATED) as smaller,
        ):
            for member in archive.namelist():
                smaller.writestr(member, archive.read(member))
        return self.folder / name

    def config(self, name, *, head="", **changes) -> Path:
        """The tiny detector's config with more lines at its top, or changed texts."""
        text = self.models.config.read_text()
        for before, after in changes.get("texts", ()):
            assert before in text
            text = text.replace(before, after)
        (self.folder / name).write_text(head + text)
        return self.folder / name

    def torchscript(self, name) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(_HarmfulModule(str(self.mark))), str(self.folder / name))
        self.mark.unlink(missing_ok=True)
        return self.folder / name


class _Harm:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


class _HarmfulModule(torch.nn.Module):
    def __init__(self, mark: str) -> None:
        super().__init__()
        self.mark = mark

    @torch.jit.export
    def __getstate__(self):
        return (self.mark, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.mark = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), self.mark)

    def forward(self, x):
        return x


@pytest.fixture
def attacker(tmp_path, tiny_models, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache" / "deep" / "deeper"))
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = b"VERSION: 2\n"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "given").mkdir()
        yield Attacker(tmp_path / "given", f"http://127.0.0.1:{server.server_address[1]}", tiny_models, asked)
        server.shutdown()


@pytest.fixture
def words(tiny_models, tmp_path):
    return [
        *("--config", str(REPOSITORY / "configs" / "coco_vlplm.yaml")),
        *tiny_models.words(),
        *scenes_words(),
        *(f"run.output={tmp_path}/out", "run.workers=0", "data.limit=1"),
    ]


def nan_in(name):
    def change(state):
        state[name].view(-1)[0] = float("nan")

    return change


def huge(name):
    def change(state):
        state[name] = torch.zeros(1).expand(10**12)

    return change


BIAS = "backbone.fpn_lateral2.bias"
CASES = {
    # a name that another loader strips, URLs, files of other kinds
    "query": (lambda a: [f"detector.weights={a.pickled('model.pkl?raw=1.pth')}"], "not a checkpoint of tensors"),
    "pkl": (lambda a: [f"detector.weights={a.pickled('model.pkl')}"], "it names io.open, which could run code"),
    "pth": (lambda a: [f"detector.weights={a.save('a.pth', {'model': a.harm()})}"], "it names io.open, which could"),
    "older torch": (
        lambda a: [f"detector.weights={_older(a)}"],
        "it names io.open, which could run code; save the tensors alone",
    ),
    "a pickle by another name": (
        lambda a: [f"clip.model={a.pickled('model.safetensors')}"],
        "it names io.open, which could run code",
    ),
    "clip": (lambda a: [f"clip.model={a.save('clip.pt', {'a': a.harm()})}"], "it names io.open, which could run code"),
    "a URL of weights": (lambda a: [f"detector.weights={a.url}/../../model.pth"], "is a URL, and only files are read"),
    "detectron2's own URL": (
        lambda a: ["detector.weights=detectron2://ImageNetPretrained/MSRA/R-50.pkl"],
        "download https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl and give the file",
    ),
    "a URL of CLIP": (lambda a: [f"clip.model={a.url}/clip.pt"], "is a URL, and only files are read"),
    "a config from a URL": (
        lambda a: [f"detector.config={a.config('a.yaml', head=f'_BASE_: {a.url}/../../../evil.yaml' + chr(10))}"],
        "detector.config: _BASE_: http://127.0.0.1",
    ),
    "configs from a list of URLs": (
        lambda a: [f"detector.config={a.config('a.yaml', head=f'_BASE_: [{a.url}/evil.yaml]' + chr(10))}"],
        "is a URL, and only files are read",
    ),
    "TorchScript": (lambda a: [f"clip.model={a.torchscript('clip.pt')}"], "is a TorchScript archive that is not one"),
    "TorchScript of a detector": (
        lambda a: [f"detector.weights={a.torchscript('detector.pth')}"],
        "it is an archive of TorchScript",
    ),
    # numbers that make every box vanish, and shapes without data
    "NaN": (lambda a: [f"detector.weights={a.detector('nan.pth', nan_in(BIAS))}"], f"the first is {BIAS}"),
    "NaN in CLIP": (
        lambda a: [f"clip.model={a.clip('nan.pt', nan_in('ln_final.weight'))}"],
        "NaN or infinity in 1 of .* the first is ln_final.weight",
    ),
    "a tensor larger than its data": (
        lambda a: [f"detector.weights={a.detector('huge.pth', huge(BIAS))}"],
        "a tensor larger than its data",
    ),
    "an archive that unfolds": (
        lambda a: [f"detector.weights={a.deflated('bomb.pth')}"],
        "unfolds to more than 20 times its size",
    ),
    "PIXEL_STD 0": (
        lambda a: [f"detector.config={a.config('a.yaml', texts=[('MODEL:', 'MODEL:' + _pixels('[0, 1, 1]'))])}"],
        r"PIXEL_STD of .* are .* and \[0, 1, 1\]",
    ),
    "PIXEL_STD NaN": (
        lambda a: [f"detector.config={a.config('a.yaml', texts=[('MODEL:', 'MODEL:' + _pixels('[.nan, 1., 1.]'))])}"],
        "MODEL.PIXEL_STD of .* is nan",
    ),
    "tensors of another network": (
        lambda a: [f"detector.weights={a.detector('more.pth', lambda state: state.update(extra=torch.ones(2)))}"],
        "has 1 tensors that detector.config does not, the first is extra",
    ),
}


def _older(attacker):
    path = attacker.folder / "older.pth"
    torch.save({"model": attacker.harm()}, path, _use_new_zipfile_serialization=False)
    return path


def _pixels(std):
    return f"\n  PIXEL_STD: {std}"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.timeout(120)
def test_nothing_runs_and_one_line_says_what_to_do(attacker, words, capsys, case):
    make, message = CASES[case]
    given = make(attacker)
    before = sorted(attacker.folder.parent.rglob("*"))
    line = refused(capsys, "score", [*words, *given])
    assert re.search(message, line), line
    assert "weights_only" not in line and "add_safe_globals" not in line, "torch's advice to read it unsafely"
    assert not attacker.mark.exists()
    assert attacker.asked == []
    assert sorted(attacker.folder.parent.rglob("*")) in (before, sorted([*before, *_made(attacker)]))


def _made(attacker):
    """What a run that is refused may leave: its folder and its log."""
    return [attacker.folder.parent / "out", *(attacker.folder.parent / "out").rglob("*")]


@pytest.mark.parametrize("kind", ["a name like a URL's", "a name with ?", "safetensors", "arrays", "module."])
def test_the_file_that_is_named_is_the_file_that_is_loaded_and_hashed(attacker, words, tiny_models, tmp_path, kind):
    state = torch.load(tiny_models.weights, weights_only=True)["model"]
    if kind == "a name like a URL's":
        attacker.pickled("model.pkl")  # what is left of the name without its query
        weights = attacker.folder / "model.pkl?raw=1.pth"
        shutil.copy(tiny_models.weights, weights)
    elif kind == "a name with ?":
        weights = attacker.folder / "really?.pth"
        shutil.copy(tiny_models.weights, weights)
    elif kind == "safetensors":
        weights = attacker.folder / "detector.safetensors"
        save_file(state, str(weights))
    elif kind == "arrays":  # as detectron2's model zoo has them
        weights = attacker.save("arrays.pth", {"model": {name: value.numpy() for name, value in state.items()}})
    else:
        weights = attacker.save("parallel.pth", {"model": {f"module.{name}": value for name, value in state.items()}})
    call("score", *words, f"detector.weights={weights}", "--no-label")
    assert not attacker.mark.exists()
    identity = json.loads((tmp_path / "out" / "store" / "manifest.json").read_text())["identity"]
    assert identity["detector"]["weights"] == file_sha256(weights)


@pytest.mark.parametrize("name", ["detector.pkl", "detector.pkl?x=1.pth", "url"])
def test_a_training_reads_its_initial_weights_as_safely(attacker, tmp_path, capsys, name):
    weights = f"{attacker.url}/R-50.pkl" if name == "url" else attacker.pickled(name)
    if "?" in name:
        attacker.pickled("detector.pkl")
    words = [
        *("--config", str(REPOSITORY / "configs" / "train_proposals.yaml")),
        *(word for word in scenes_words() if word.startswith("data.")),
        f"data.vocabulary={SCENES_VOCABULARY}",
        *(f"detector.config={attacker.models.config}", f"detector.weights={weights}"),
        *(f"run.output={tmp_path / 'trained'}", "run.workers=0", "run.device=cpu", "train.images_per_step=1"),
    ]
    with pytest.raises(SystemExit) as stopped:
        call("train_proposals", *words)
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert ("is a URL" if name == "url" else "it names io.open, which could run code") in last
    assert not attacker.mark.exists() and attacker.asked == []


def test_torchscript_is_converted_when_it_is_trusted(tmp_path, tiny_models, words, capsys):
    """An archive in the form of OpenAI's own, whose QuickGELU its code shows."""
    import clip

    model = clip.model.build_model(torch.load(tiny_models.clip, weights_only=True)).float()
    side = model.visual.input_resolution
    archive, converted = tmp_path / "own.pt", tmp_path / "own.safetensors"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, (torch.zeros(1, 3, side, side), clip.tokenize(["a cat"])))
        torch.jit.save(traced, str(archive))
    line = refused(capsys, "convert_clip", [archive, "--output", converted])
    assert "--allow-torchscript converts it" in line and not converted.exists()
    call("convert_clip", archive, "--output", converted, "--allow-torchscript")
    assert "activation quick_gelu" in capsys.readouterr().out
    before, after = model.state_dict(), load_file(str(converted))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    call("score", *words, f"clip.model={converted}", "clip.activation=auto", "--no-label")
    assert "does not say its activation" not in capsys.readouterr().err


def test_a_file_that_is_replaced_while_it_is_open_is_still_the_one_that_was_hashed(tmp_path):
    for suffix, write in (("pth", torch.save), ("safetensors", lambda state, path: save_file(state, str(path)))):
        path = tmp_path / f"weights.{suffix}"
        write({"a": torch.zeros(3)}, path)
        digest = file_sha256(path)
        with WeightFile(path, "clip.weights") as file:
            write({"a": torch.ones(3)}, tmp_path / "other")
            (tmp_path / "other").replace(path)
            assert file.sha256 == digest and torch.equal(file.read()["a"], torch.zeros(3))
