"""open_clip's models: embeddings, preprocessing, tokens and similarity are the model's own; mistakes are one line."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import REPOSITORY, command, run
from devices import DEVICES, needs_compiler
from PIL import Image
from torch.nn import functional

open_clip = pytest.importorskip("open_clip")

from encoders.seeded_open_clip import WORDS, write_open_clip, write_siglip, write_tokenizer  # noqa: E402

from plgen_ddp.config import ClipConfig  # noqa: E402
from plgen_ddp.encoders.loading import check_prompts, fetch_encoder, load_encoder  # noqa: E402
from plgen_ddp.errors import UserError  # noqa: E402
from plgen_ddp.score.regions import windows_of  # noqa: E402
from plgen_ddp.store import RegionStore  # noqa: E402

CPU = torch.device("cpu")
PROMPTS = ["a cat", "a photo of the dog.", "There is this one bird in the scene, my good, good, good tree house bird."]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("open_clip")
    return {"CLIP": write_open_clip(root / "clip"), "SigLIP": write_siglip(root / "siglip")}


def options_of(folder, **others):
    return ClipConfig(model=f"open_clip:local-dir:{folder}", **others)


def load(options, device=CPU, precision="fp32"):
    return load_encoder(options, fetch_encoder(options), device, precision)


def reference(folder):
    """open_clip's own model, preprocessing and forward pass."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval(), preprocess


def reference_tokens(kind, prompts):
    """Tokens by the published rules, without our tokenizer."""
    if kind == "CLIP":
        return open_clip.SimpleTokenizer()(prompts)
    rows = torch.full((len(prompts), 64), 1)
    for row, prompt in zip(rows, prompts, strict=True):
        words = re.sub(r"[^\w\s]", "", prompt.lower()).split()
        row[: len(words)] = torch.tensor([4 + WORDS.index(word) if word in WORDS else 3 for word in words])
    return rows


def blocks(count, side):
    """Crops uint8 (count, 3, side, side), BGR, of a few large squares: noise would be the same to every model."""
    squares = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(squares, size=(side, side))


@pytest.mark.parametrize("kind", ["CLIP", "SigLIP"])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.2), ("fp16", 0.04)])
def test_embeddings_are_open_clips(folders, kind, device, precision, tolerance):
    model, preprocess = reference(folders[kind])
    ours = load(options_of(folders[kind]), torch.device(device), precision)
    crops = blocks(6, ours.preprocessing.resolution)
    pixels = torch.stack([preprocess(Image.fromarray(crop.flip(0).permute(1, 2, 0).numpy())) for crop in crops])
    with torch.no_grad():
        images = model.encode_image(pixels, normalize=True)
        texts = model.encode_text(reference_tokens(kind, PROMPTS), normalize=True)
    got = ours.encode_images(crops.to(device)).cpu(), ours.encode_texts(PROMPTS).cpu()
    for found, expected in zip(got, (images, texts), strict=True):
        # Of what two inputs differ by, or a model that is blind would pass.
        atol = tolerance * float((expected[0] - expected[1]).abs().max())
        torch.testing.assert_close(found, expected, atol=atol, rtol=0)
    assert ours.dim == images.shape[1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_similarity_rule_is_the_models(folders, precision):
    clip = load(options_of(folders["CLIP"]), precision=precision).similarity
    assert clip.rule == "softmax" and clip.bias == 0
    siglip = load(options_of(folders["SigLIP"]), precision=precision).similarity
    # Not rounded to the precision of the products, in which the bias would be -9.0625.
    assert siglip.rule == "sigmoid" and siglip.bias == pytest.approx(-9.03, abs=1e-5)
    assert clip.temperature == siglip.temperature == pytest.approx(float(np.exp(-3.21)), rel=1e-6)


def test_preprocessing_is_the_models(folders):
    clip, siglip = (load(options_of(folders[kind])).preprocessing for kind in ("CLIP", "SigLIP"))
    assert (clip.resolution, clip.resize, clip.interpolation) == (64, "crop", "bicubic")
    assert (siglip.resolution, siglip.resize, siglip.interpolation) == (160, "squash", "bilinear")
    assert siglip.mean_rgb == siglip.std_rgb == (0.5, 0.5, 0.5) != clip.mean_rgb


def test_a_causal_context_is_cut_and_never_an_end_token(folders):
    """The third prompt's end token is beyond 16 tokens; a cut there would read another embedding."""
    model, _ = reference(folders["CLIP"])
    ours = load(options_of(folders["CLIP"]))
    read = []
    ours._model.token_embedding.register_forward_hook(lambda layer, inputs, result: read.append(inputs[0].shape[1]))
    for prompts, length in (PROMPTS[:2], 16), (PROMPTS, 32), (["cat " * 75], 77):
        with torch.no_grad():
            expected = model.encode_text(reference_tokens("CLIP", prompts), normalize=True)
        torch.testing.assert_close(ours.encode_texts(prompts), expected, atol=1e-6, rtol=0)
        assert read.pop() == length


def test_siglips_context_is_not_cut(folders):
    """Its tower reads the last position, and sees the padding."""
    ours = load(options_of(folders["SigLIP"]))
    read = []
    ours._model.text.token_embedding.register_forward_hook(lambda layer, inputs, result: read.append(inputs[0].shape))
    ours.encode_texts(["a cat"])
    assert read == [(16, 64)]


@pytest.mark.parametrize(("end", "padding"), [("</s>", 1), ("<eos>", 0)])
def test_siglips_tokens_end_and_are_padded_as_it_was_trained(tmp_path, end, padding):
    """SigLIP pads with its end token, SigLIP 2 with <pad>; neither reads the begin token that a file may add."""
    from plgen_ddp.encoders.open_clip import _parse, _tokenizer

    folder = write_siglip(tmp_path, end)
    options = options_of(folder)
    tokens = _tokenizer(options, _parse(options.model))(["The CAT!", "a dog"])
    the, cat, a, dog = (4 + WORDS.index(word) for word in ("the", "cat", "a", "dog"))
    assert tokens.tolist() == [[the, cat, 1] + [padding] * 61, [a, dog, 1] + [padding] * 61]


def test_a_tokenizer_of_ones_own_takes_the_place_of_the_download(folders, tmp_path):
    """As a file and as a folder; the encoder's identity knows it by content."""
    for path in (write_tokenizer(tmp_path / "own", "<eos>"), tmp_path / "own"):
        own = load(options_of(folders["SigLIP"], tokenizer=str(path)))
        assert own.identity()["tokenizer"] != load(options_of(folders["SigLIP"])).identity()["tokenizer"]


@pytest.mark.parametrize("kind", ["CLIP", "SigLIP"])
def test_a_prompt_longer_than_the_context_is_named_without_loading_a_model(folders, kind):
    check_prompts(options_of(folders[kind]), PROMPTS)
    with pytest.raises(UserError, match=r"too long for the encoder, which reads (77|64) tokens: 'dog dog"):
        check_prompts(options_of(folders[kind]), ["a cat", "dog " * 76])


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "checkpoint.pt"])
def test_weights_come_from_a_file(tmp_path, suffix):
    weights = tmp_path / f"weights.{suffix}"
    model = open_clip.create_model("ViT-S-32-alt", force_quick_gelu=False)
    state = model.state_dict()
    if suffix == "safetensors":
        from safetensors.torch import save_file

        save_file(state, str(weights))
    elif suffix == "pt":
        torch.save(state, weights)
    else:  # a checkpoint of open_clip's training in several processes
        torch.save({"epoch": 3, "name": "x", "state_dict": {f"module.{key}": v for key, v in state.items()}}, weights)
    ours = load(ClipConfig(model="open_clip:ViT-S-32-alt", weights=str(weights)))
    with torch.no_grad():
        expected = model.eval().encode_text(reference_tokens("CLIP", PROMPTS), normalize=True)
    torch.testing.assert_close(ours.encode_texts(PROMPTS), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("model", "resize", "mean", "quick"),
    [
        ("ViT-H-14/dfn5b", "squash", 0.48145466, True),
        ("ViT-H-14/laion2b_s32b_b79k", "crop", 0.48145466, False),
        ("ViT-L-14/laion2b_s32b_b82k", "crop", 0.5, False),
        ("ViT-L-14/openai", "crop", 0.48145466, True),
        ("ViT-B-16-SigLIP", "squash", 0.5, False),
        ("ViT-B-16-SigLIP2", "squash", 0.5, False),
    ],
)
def test_preprocessing_and_activation_follow_the_tag(model, resize, mean, quick):
    """Also for weights from a file, where open_clip falls back to OpenAI's. Not built: some have a billion weights."""
    from plgen_ddp.encoders.open_clip import _parse, _preprocessing

    source = _parse(f"open_clip:{model}")
    found = _preprocessing(source, vars(open_clip.transform.PreprocessCfg()))
    assert (found.resize, found.mean_rgb[0], source.quick_gelu) == (resize, mean, quick)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "open_clip:ViT-B/32"}, "open_clip has no model 'ViT-B'; did you mean"),
        ({"model": "open_clip:ViT-B-16-SigLIP/webly"}, "'webly'; did you mean 'webli'"),
        ({"model": "open_clip:ViT-S-32-alt"}, "has no weights; add clip.weights=FILE$"),
        ({"model": "open_clip:ViT-B-32"}, r"add clip.weights=FILE, or a TAG: clip.model=open_clip:ViT-B-32/TAG with"),
        ({"model": "open_clip:ViT-S-32-alt", "weights": "nowhere.pt"}, "clip.weights: no file at nowhere.pt"),
        ({"model": "open_clip:local-dir:nowhere"}, "cannot read a model_cfg from nowhere"),
        ({"model": "open_clip:ViT-B-16-SigLIP", "tokenizer": "nowhere"}, "clip.tokenizer: no file at nowhere"),
        ({"model": "open_clip:ViT-B-32", "activation": "gelu"}, "clip.activation is 'gelu'"),
        ({"model": "ViT-B/32", "weights": "x.pt"}, "clip.weights is for open_clip: models"),
    ],
)
def test_mistakes_are_one_line_with_the_fix(options, message):
    with pytest.raises(UserError, match=message) as error:
        fetch_encoder(ClipConfig(**options))
    assert "\n" not in str(error.value)


def test_preprocessing_that_stage_1_cannot_do_is_refused(tmp_path):
    folder = write_open_clip(tmp_path)
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["preprocess_cfg"]["resize_mode"] = "longest"
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="wants crops of 64 x 64 px, 'longest'"):
        load(options_of(folder))


def test_a_model_whose_tags_disagree_needs_a_tag():
    from plgen_ddp.encoders.open_clip import _parse, _preprocessing

    with pytest.raises(UserError, match=r"write open_clip:ViT-H-14/TAG, also with clip.weights"):
        _preprocessing(_parse("open_clip:ViT-H-14"), vars(open_clip.transform.PreprocessCfg()))


def test_weights_of_another_model_and_damaged_ones_are_one_line(folders, tmp_path):
    other = folders["CLIP"] / "open_clip_model.safetensors"
    with pytest.raises(UserError, match="does not hold ViT-S-32-alt"):
        load(ClipConfig(model="open_clip:ViT-S-32-alt", weights=str(other)))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(other.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"damaged\.safetensors is not a checkpoint of tensors"):
        load(options_of(folders["CLIP"], weights=str(damaged)))


def test_a_pickle_that_runs_code_is_not_read(folders, tmp_path):
    class Code:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Code()}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"clip\.weights"):
        load(options_of(folders["CLIP"], weights=str(tmp_path / "weights.pt")))
    assert not (tmp_path / "ran").exists()


def test_without_open_clip_one_line_names_the_extra(tmp_path):
    code = (
        "import sys; sys.modules['open_clip'] = None\n"
        "from plgen_ddp.config import ClipConfig\nfrom plgen_ddp.encoders.loading import fetch_encoder\n"
        "fetch_encoder(ClipConfig(model='open_clip:ViT-B-32/openai'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    last = done.stderr.strip().splitlines()[-1]
    assert "UserError: clip.model: open_clip: models need" in last and "pip install 'plgen_ddp[open-clip]'" in last


def test_loading_says_nothing_and_leaves_logging_as_it_was(folders, caplog, recwarn):
    load(options_of(folders["SigLIP"]))
    assert not caplog.records and not recwarn.list and logging.root.manager.disable == 0


@needs_compiler
def test_compiled_embeddings_are_the_same(folders):
    eager, compiled = load(options_of(folders["CLIP"])), load(options_of(folders["CLIP"]))
    compiled.compile(4)
    crops = blocks(4, 64)
    torch.testing.assert_close(compiled.encode_images(crops), eager.encode_images(crops), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["CLIP", "SigLIP"])
def test_the_whole_job_on_two_ranks(folders, kind, tiny_models, tmp_path):
    """Each stored embedding is the mean of open_clip's own, over Pillow's crops; labels follow the model's rule."""
    demo = REPOSITORY / "plgen_ddp" / "demo" / "data"
    words = [
        "--config", REPOSITORY / "configs" / "demo.yaml", f"data.annotations={demo}/annotations/instances_demo.json",
        f"data.image_root={demo}", "data.limit=3", "run.images_per_part=2", f"run.output={tmp_path}",
        f"detector.config={tiny_models.config}", f"detector.weights={tiny_models.weights}", "detector.max_boxes=8",
        f"clip.model=open_clip:local-dir:{folders[kind]}", "clip.activation=auto",
        "label.templates=['a photo of a {}.']",
        "label.score_threshold=0.0",
    ]  # fmt: skip
    run(command("score.py", *words, ranks=2))
    model, preprocess = reference(folders[kind])
    store = RegionStore(tmp_path / "store")
    rows = [image for path in store.part_paths() for image in store.read_part(path)]
    names = {
        image["id"]: image for image in json.loads((demo / "annotations/instances_demo.json").read_text())["images"]
    }
    compared = 0
    for image in rows:
        file = next(demo.rglob(names[image.image_id]["file_name"]))
        photo = Image.open(file).convert("RGB")
        windows = np.stack([windows_of(image.boxes_xyxy, scale, photo.height, photo.width) for scale in (1.0, 1.5)], 1)
        crops = [preprocess(photo.crop(tuple(window))) for window in windows.reshape(-1, 4).tolist()]
        with torch.no_grad():
            of_crops = model.encode_image(torch.stack(crops), normalize=True)
        expected = functional.normalize(of_crops.view(len(image.boxes_xyxy), 2, -1).mean(dim=1), dim=1).numpy()
        assert ((image.embeddings * expected).sum(axis=1) > 0.9999).all()
        compared += len(expected)
    assert compared >= 12

    labels = json.loads((tmp_path / "labels.json").read_text())
    made = labels["info"]["plgen_ddp"]["label"]
    vocabulary = made["novel"]
    with torch.no_grad():
        tokens = reference_tokens(kind, [f"a photo of a {name}." for name in vocabulary])
        texts = model.encode_text(tokens, normalize=True).double().numpy()
    scale, bias = np.exp(model.logit_scale.item()), 0 if kind == "CLIP" else model.logit_bias.item()
    logits = np.concatenate([image.embeddings for image in rows]).astype(float) @ texts.T * scale + bias
    if kind == "CLIP":
        likelihoods = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    else:
        likelihoods = 1 / (1 + np.exp(-logits))
    assert made["similarity"] == ("softmax" if kind == "CLIP" else "sigmoid")
    best = likelihoods.max(axis=1)
    scores = [row["clip_score"] for row in labels["annotations"] if "clip_score" in row]
    assert len(scores) >= 3
    for score in scores:
        assert np.abs(best - score).min() < 0.01 * score


def test_the_identity_holds_no_path(folders):
    first = load(options_of(folders["CLIP"])).identity()
    assert "local-dir" not in json.dumps(first) and str(folders["CLIP"]) not in json.dumps(first)
