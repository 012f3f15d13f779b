"""CLIP's embeddings are those of OpenAI's own forward pass, in each precision and compiled."""

import shutil
import sysconfig
from pathlib import Path

import clip
import pytest
import torch
from torch.nn import functional

from plgen_ddp.clip_model import ClipModel
from plgen_ddp.errors import UserError
from plgen_ddp.seeded_models import write_tiny_clip

CPU = torch.device("cpu")
CROPS = 8
CAN_COMPILE = shutil.which("g++") is not None and Path(sysconfig.get_path("include"), "Python.h").is_file()


def random_crops(model):
    shape = (CROPS, 3, model.resolution, model.resolution)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def fresh_compiler(tmp_path, monkeypatch):
    """torch.compile without anything that was compiled before; its settings."""
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch._dynamo.reset()
    yield config
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["ViT", "RN"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.03), ("fp16", 5e-3)])
def test_embeddings_are_openais(tmp_path, kind, precision, tolerance):
    weights = write_tiny_clip(tmp_path, kind=kind)
    model, preprocess = clip.load(str(weights), device="cpu")
    normalise = preprocess.transforms[-1]
    ours = ClipModel(weights, CPU, precision)
    crops = random_crops(ours)
    with torch.no_grad():
        expected = functional.normalize(model.encode_image(normalise(crops.flip(1) / 255)), dim=1)
    assert (expected[0] - expected[1]).abs().max() > 5 * tolerance, "different crops differ"
    torch.testing.assert_close(ours.encode_images(crops), expected, atol=tolerance, rtol=0)


@pytest.mark.skipif(not CAN_COMPILE, reason="torch.compile needs g++ and Python.h")
@pytest.mark.parametrize("kind", ["ViT", "RN"])
def test_compiled_embeddings_are_the_same(tmp_path, fresh_compiler, kind):
    weights = write_tiny_clip(tmp_path, kind=kind)
    model, compiled = ClipModel(weights, CPU, "fp32"), ClipModel(weights, CPU, "fp32")
    compiled.compile(CROPS)
    assert (tmp_path / "compiled").exists()
    crops = random_crops(model)
    torch.testing.assert_close(compiled.encode_images(crops), model.encode_images(crops), atol=1e-5, rtol=0)


def test_without_a_compiler_one_line_says_so(tmp_path, fresh_compiler, monkeypatch):
    monkeypatch.setattr(fresh_compiler.cpp, "cxx", (None, "/nonexistent/g++"))
    model = ClipModel(write_tiny_clip(tmp_path), CPU, "fp32")
    with pytest.raises(
        UserError, match=r"clip.compile: torch.compile failed .*compiler.*use clip.compile=false"
    ) as told:
        model.compile(CROPS)
    assert "\n" not in str(told.value)
