"""CLIP's embeddings are those of OpenAI's own forward pass, in each precision and compiled."""

import clip
import pytest
import torch
from clip.model import CLIP
from conftest import DEVICES, needs_compiler
from torch.nn import functional

from plgen_ddp.benchmark.seeded_models import write_tiny_clip
from plgen_ddp.config import ClipConfig
from plgen_ddp.encoders.openai_clip import ClipModel
from plgen_ddp.errors import UserError
from plgen_ddp.score.job import fills_clip_batches

CPU = torch.device("cpu")
CROPS = 8


def write_clip(folder, kind):
    """The tiny ResNet; a vision transformer of three heads, whose norms and biases are not just ones and zeros."""
    if kind == "RN":
        return write_tiny_clip(folder, kind="RN")
    torch.manual_seed(0)
    model = CLIP(64, 64, 3, 192, 16, 77, 200, 64, 1, 1)  # the image tower: 64 px, 3 blocks, 192 wide, patches of 16
    for parameter in model.visual.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.visual.conv1.weight.data *= 5  # so that crops weigh more than positions
    path = folder / "clip.pt"
    torch.save(model.state_dict(), path)
    return path


def random_crops(model):
    """Of a few large squares: noise would be the same to every model."""
    squares = torch.randint(0, 256, (CROPS, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return squares.repeat_interleave(model.resolution // 4, dim=2).repeat_interleave(model.resolution // 4, dim=3)


@pytest.fixture
def fresh_compiler(tmp_path, monkeypatch):
    """torch.compile without anything that was compiled before; its settings."""
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch._dynamo.reset()
    yield config
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["ViT", "RN"])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.1), ("fp16", 0.02)])
def test_embeddings_are_openais(tmp_path, kind, device, precision, tolerance):
    weights = write_clip(tmp_path, kind)
    model, preprocess = clip.load(str(weights), device="cpu")
    normalise = preprocess.transforms[-1]
    ours = ClipModel(weights, torch.device(device), precision)
    crops = random_crops(ours)
    with torch.no_grad():
        expected = functional.normalize(model.encode_image(normalise(crops.flip(1) / 255)), dim=1)
    # Of what two crops differ by, or a model that is blind would pass.
    atol = tolerance * float((expected[0] - expected[1]).abs().max())
    torch.testing.assert_close(ours.encode_images(crops.to(device)).cpu(), expected, atol=atol, rtol=0)


@needs_compiler
@pytest.mark.parametrize("kind", ["ViT", "RN"])
@pytest.mark.parametrize("device", DEVICES)
def test_compiled_embeddings_are_the_same(tmp_path, fresh_compiler, kind, device):
    weights = write_clip(tmp_path, kind)
    model, compiled = (ClipModel(weights, torch.device(device), "fp32") for _ in range(2))
    compiled.compile(CROPS)
    assert (tmp_path / "compiled").exists()
    crops = random_crops(model).to(device)
    torch.testing.assert_close(compiled.encode_images(crops), model.encode_images(crops), atol=1e-5, rtol=0)


def test_without_a_compiler_one_line_says_so(tmp_path, fresh_compiler):
    model = ClipModel(write_tiny_clip(tmp_path), CPU, "fp32")
    # Not monkeypatch: after its undo this setting would be missing for every later test.
    with (
        fresh_compiler.patch({"cpp.cxx": (None, "/nonexistent/g++")}),
        pytest.raises(
            UserError,
            match=r"clip.compile: torch.compile failed: .*[Nn]o working C\+\+ compiler.*or use clip.compile=false",
        ) as told,
    ):
        model.compile(CROPS)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("compiled", "device", "fills"), [(False, "cpu", False), (True, "cpu", True), (False, "cuda", True)]
)
def test_batches_are_filled_where_a_shape_costs(compiled, device, fills):
    assert fills_clip_batches(ClipConfig(compile=compiled), torch.device(device)) is fills
