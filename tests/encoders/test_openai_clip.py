"""CLIP's embeddings are those of OpenAI's own forward pass, in each precision and compiled."""

import warnings

import clip
import pytest
import torch
from clip.model import CLIP
from devices import DEVICES, needs_compiler
from torch.nn import functional

from plgen_ddp.benchmark.seeded_models import write_tiny_clip
from plgen_ddp.config import ClipConfig
from plgen_ddp.encoders.loading import fetch_encoder
from plgen_ddp.encoders.openai_clip import ClipModel, tokenize
from plgen_ddp.errors import UserError
from plgen_ddp.score.job import fills_clip_batches

CPU = torch.device("cpu")
CROPS = 8
QUICK = ClipConfig(activation="quick_gelu")


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
    side = model.preprocessing.resolution
    squares = torch.randint(0, 256, (CROPS, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return squares.repeat_interleave(side // 4, dim=2).repeat_interleave(side // 4, dim=3)


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
    ours = ClipModel(QUICK, weights, torch.device(device), precision)
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
    model, compiled = (ClipModel(QUICK, weights, torch.device(device), "fp32") for _ in range(2))
    compiled.compile(CROPS)
    assert (tmp_path / "compiled").exists()
    crops = random_crops(model).to(device)
    torch.testing.assert_close(compiled.encode_images(crops), model.encode_images(crops), atol=1e-5, rtol=0)


def test_without_a_compiler_one_line_says_so(tmp_path, fresh_compiler):
    model = ClipModel(QUICK, write_tiny_clip(tmp_path), CPU, "fp32")
    # Not monkeypatch: after its undo this setting would be missing for every later test.
    with (
        fresh_compiler.patch({"cpp.cxx": (None, "/nonexistent/g++")}),
        pytest.raises(
            UserError,
            match=r"clip.compile: torch.compile failed: .*[Nn]o working C\+\+ compiler.*or use clip.compile=false",
        ) as error,
    ):
        model.compile(CROPS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("compiled", "device", "fills"), [(False, "cpu", False), (True, "cpu", True), (False, "cuda", True)]
)
def test_batches_are_filled_where_a_shape_costs(compiled, device, fills):
    assert fills_clip_batches(ClipConfig(compile=compiled), torch.device(device)) is fills


def seeded_clip(context_length=77):
    """Two blocks a tower, and a vocabulary of all tokens; norms and biases that are not just ones and zeros."""
    torch.manual_seed(0)
    model = CLIP(32, 32, 2, 64, 16, context_length, 49408, 64, 1, 2).eval()  # clip reads heads of 64 from a file
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


@pytest.fixture
def state_dict(tmp_path):
    torch.save(seeded_clip().state_dict(), tmp_path / "clip.pt")
    return tmp_path / "clip.pt"


PROMPTS = ["a cat", "a photo of the dog.", "a very " + "good " * 30 + "bird", "dog " * 75]


@pytest.mark.parametrize(("count", "length"), [(2, 16), (3, 48), (4, 77)])
def test_the_context_is_cut_behind_the_last_end_token(state_dict, count, length):
    """A shorter cut would lose the longest prompt's end token, a longer one would cost time."""
    ours, theirs = ClipModel(QUICK, state_dict, CPU, "fp32"), clip.load(str(state_dict), device="cpu")[0]
    read = []
    ours._model.token_embedding.register_forward_hook(lambda layer, inputs, result: read.append(inputs[0].shape[1]))
    got = ours.encode_texts(PROMPTS[:count])
    with torch.no_grad():
        expected = functional.normalize(theirs.encode_text(clip.tokenize(PROMPTS[:count])), dim=1)
    assert read == [length]
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    ends = clip.tokenize(PROMPTS[:count]).argmax(dim=1)
    assert length - 16 < int(ends.max()) + 1 <= length


def test_text_embeddings_keep_their_bits_on_two_threads(state_dict):
    """And with fewer prompts beside them: a few rows more are what a product's order of summation may depend on."""
    ours = ClipModel(QUICK, state_dict, CPU, "fp32")
    prompts = [f"a {word} photo of the {name}." for word in ("good", "bad", "large") for name in ("cat", "dog", "bus")]
    expected = ours.encode_texts(prompts)
    for count in (1, 2, 5):
        assert torch.equal(ours.encode_texts(prompts[:count]), expected[:count])
    torch.set_num_threads(2)
    try:
        for count in (1, 2, 5, len(prompts)):
            assert torch.equal(ours.encode_texts(prompts[:count]), expected[:count])
    finally:
        torch.set_num_threads(1)


def test_text_embeddings_in_bfloat16_are_close(state_dict):
    full, half = (ClipModel(QUICK, state_dict, CPU, precision).encode_texts(PROMPTS) for precision in ("fp32", "bf16"))
    cosines = (full * half).sum(dim=1)
    assert (cosines > 0.9999).all() and not torch.equal(full, half)


def test_a_long_prompt_is_named():
    with pytest.raises(UserError, match="too long for the encoder, which reads 77 tokens: 'dog dog"):
        tokenize(["a cat", "dog " * 76])


@pytest.mark.parametrize("kind", ["ViT", "RN"])
def test_gelu_is_another_model(tmp_path, kind):
    """Both towers of a vision transformer, the text tower alone beside a ResNet."""
    weights = write_clip(tmp_path, kind)
    theirs, preprocess = clip.load(str(weights), device="cpu")
    for module in theirs.modules():
        if hasattr(module, "gelu"):
            module.gelu = torch.nn.GELU()
    quick, gelu = (ClipModel(ClipConfig(activation=name), weights, CPU, "fp32") for name in ("quick_gelu", "gelu"))
    crops = random_crops(gelu)
    with torch.no_grad():
        expected = functional.normalize(theirs.encode_image(preprocess.transforms[-1](crops.flip(1) / 255)), dim=1)
    torch.testing.assert_close(gelu.encode_images(crops), expected, atol=1e-5, rtol=0)
    assert torch.allclose(gelu.encode_images(crops), quick.encode_images(crops), atol=1e-5) == (kind == "RN")
    if kind == "RN":
        with torch.no_grad():
            texts = functional.normalize(theirs.encode_text(clip.tokenize(PROMPTS)), dim=1)
        torch.testing.assert_close(gelu.encode_texts(PROMPTS), texts, atol=1e-5, rtol=0)
        assert not torch.allclose(quick.encode_texts(PROMPTS), texts, atol=1e-4)
    assert gelu.identity()["activation"] == "gelu" != quick.identity()["activation"]


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_a_torchscript_file_says_its_activation(tmp_path, activation, capsys):
    """As OpenAI's own files do: an archive of traced code."""
    model = seeded_clip()
    if activation == "gelu":
        for block in [*model.visual.transformer.resblocks, *model.transformer.resblocks]:
            block.mlp.gelu = torch.nn.GELU()
    pixels, tokens = torch.zeros(1, 3, 32, 32), clip.tokenize(["a cat"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, (pixels, tokens))
        torch.jit.save(traced, str(tmp_path / "clip.pt"))
    options = ClipConfig(model=str(tmp_path / "clip.pt"), allow_torchscript=True)
    ours = ClipModel(options, fetch_encoder(options), CPU, "fp32")
    assert ours.identity()["activation"] == activation and capsys.readouterr().err == ""
    with torch.no_grad():
        expected = functional.normalize(model.encode_text(tokens), dim=1)
    # clip stores weights in half precision on the way.
    torch.testing.assert_close(ours.encode_texts(["a cat"]), expected, atol=2e-3, rtol=0)


def test_a_state_dict_is_warned_of_unless_the_config_says_what_it_is(state_dict, capsys):
    fetch_encoder(ClipConfig(model=str(state_dict)))
    assert "does not say its activation, and is run with OpenAI's QuickGELU" in capsys.readouterr().err
    fetch_encoder(ClipConfig(model=str(state_dict), activation="gelu"))
    assert capsys.readouterr().err == ""


def test_a_checkpoint_of_open_clip_is_pointed_to_its_own_option(tmp_path):
    state = {f"module.{key}": value for key, value in seeded_clip().state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "epoch_1.pt")
    with pytest.raises(UserError, match=r"clip.model=open_clip:MODEL clip.weights=FILE") as error:
        ClipModel(QUICK, tmp_path / "epoch_1.pt", CPU, "fp32")
    assert "\n" not in str(error.value)
