"""CLIP compiled: the same embeddings, or one line that says why not."""

import shutil
import sysconfig
from pathlib import Path

import pytest
import torch

from plgen_ddp.clip_model import ClipModel
from plgen_ddp.errors import UserError
from plgen_ddp.seeded_models import write_tiny_clip

CPU = torch.device("cpu")
CROPS = 8
CAN_COMPILE = shutil.which("g++") is not None and Path(sysconfig.get_path("include"), "Python.h").is_file()


@pytest.fixture
def fresh_compiler(tmp_path, monkeypatch):
    """torch.compile without anything that was compiled before; its settings."""
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch._dynamo.reset()
    yield config
    torch._dynamo.reset()


@pytest.mark.skipif(not CAN_COMPILE, reason="torch.compile needs g++ and Python.h")
@pytest.mark.parametrize("kind", ["ViT", "RN"])
def test_compiled_embeddings_are_the_same(tmp_path, fresh_compiler, kind):
    weights = write_tiny_clip(tmp_path, kind=kind)
    model, compiled = ClipModel(weights, CPU, "fp32"), ClipModel(weights, CPU, "fp32")
    compiled.compile(CROPS)
    assert (tmp_path / "compiled").exists()
    crops = torch.randint(0, 256, (CROPS, 3, model.resolution, model.resolution), dtype=torch.uint8)
    torch.testing.assert_close(compiled.encode_images(crops), model.encode_images(crops), atol=1e-5, rtol=0)


def test_without_a_compiler_one_line_says_so(tmp_path, fresh_compiler, monkeypatch):
    monkeypatch.setattr(fresh_compiler.cpp, "cxx", (None, "/nonexistent/g++"))
    model = ClipModel(write_tiny_clip(tmp_path), CPU, "fp32")
    with pytest.raises(
        UserError, match=r"clip.compile: torch.compile failed .*compiler.*use clip.compile=false"
    ) as told:
        model.compile(CROPS)
    assert "\n" not in str(told.value)
