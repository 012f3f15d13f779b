"""Tiny seeded models of open_clip in the folders that users have, with a tokenizer for SigLIP's. No download."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

TEXT = "a an the photo of in scene there is this one my bad good many cat dog bus bird boat ball tree house"
WORDS = TEXT.split()
CLIP_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
SIGLIP_TEXT = {
    "context_length": 64, "vocab_size": 64, "width": 64, "heads": 2, "layers": 2, "no_causal_mask": True,
    "proj_bias": True, "pool_type": "last", "hf_tokenizer_name": "none/none",
    "tokenizer_kwargs": {"clean": "canonicalize"}, "norm_kwargs": {"eps": 1e-6},
}  # fmt: skip
OPENAI = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}


def write_open_clip(folder: Path, *, quick_gelu: bool = False) -> Path:
    """A CLIP of open_clip: vision transformer of 64 px, causal text tower with open_clip's own vocabulary."""
    vision = {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
    config = {"embed_dim": 48, "vision_cfg": vision, "text_cfg": CLIP_TEXT, "quick_gelu": quick_gelu}
    preprocessing = {**OPENAI, "interpolation": "bicubic", "resize_mode": "shortest"}
    return _write(folder, config, preprocessing)


def write_siglip(folder: Path, end: str = "</s>") -> Path:
    """A SigLIP of open_clip: timm's vision transformer, text tower that is not causal, learned bias, own tokenizer."""
    vision = {
        "image_size": 160, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none",
        "timm_model_pretrained": False,
    }  # fmt: skip
    config = {"embed_dim": 64, "init_logit_bias": -10, "custom_text": True, "vision_cfg": vision}
    preprocessing = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    write_tokenizer(folder, end)
    return _write(folder, {**config, "text_cfg": SIGLIP_TEXT}, preprocessing)


def write_tokenizer(folder: Path, end: str = "</s>") -> Path:
    """A tokenizer.json of whole words, with the special tokens of SigLIP (</s>) or of SigLIP 2 (<eos>)."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {token: number for number, token in enumerate(["<pad>", end, "<bos>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    # A file may add a begin token, as Gemma's does, which SigLIP does not read.
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def _write(folder: Path, config: dict[str, Any], preprocessing: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model_cfg": config, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
        for name, parameter in model.named_parameters():
            # Unlike inputs get unlike outputs: norms and biases that are not just ones and zeros, a strong input.
            if parameter.ndim == 1:
                parameter.data += 0.3 * torch.randn_like(parameter)
            elif "patch_embed" in name or "conv1" in name or "embedding" in name:
                parameter.data *= 5
        if model.logit_bias is not None:
            model.logit_bias.data.fill_(-9.03)
        model.logit_scale.data.fill_(3.21)
    save_file(model.state_dict(), str(folder / "open_clip_model.safetensors"))
    return folder
