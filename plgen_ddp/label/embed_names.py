"""Text embeddings of a labelling's names. An encoder, and with it torch, is loaded only for names new to the store."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from plgen_ddp.errors import UserError
from plgen_ddp.files import file_sha256
from plgen_ddp.label.plan import LabelPlan
from plgen_ddp.label.text_embeddings import TextEmbeddings, prompts
from plgen_ddp.processor import available_cores
from plgen_ddp.store import Manifest, store_of


def check_name_lengths(plan: LabelPlan) -> None:
    """Checks that the encoder can read every prompt, without loading it.

    Raises:
        UserError: a prompt is too long for it.
    """
    from plgen_ddp.encoders.loading import check_prompts

    check_prompts(plan.config.clip, [text for names in plan.table.words for text in prompts(names, plan.templates)])


def embed_names(plan: LabelPlan) -> np.ndarray:
    """Text embeddings float32 (c, d), unit length, of the plan's names, novel ones first; kept in the store.

    Raises:
        UserError: no store, or a name is new to it and `clip.model` is not the encoder that made it.
    """
    store = store_of(plan.config)
    manifest = store.manifest()
    precision = plan.config.clip.text_precision
    cache = TextEmbeddings(store.folder / "vocabulary", plan.templates, manifest.dim, precision)
    return cache.embed(plan.table.words, lambda: _load_text_encoder(plan, manifest))


def _load_text_encoder(plan: LabelPlan, manifest: Manifest) -> Callable[[Sequence[str]], Any]:
    import torch  # only here: names that were embedded before need neither

    from plgen_ddp.encoders.loading import fetch_encoder, load_encoder

    options = plan.config.clip
    weights = fetch_encoder(options)
    expected = manifest.identity["clip"]["weights"]
    if file_sha256(weights) != expected:
        raise UserError(
            f"clip.model: {options.model} is not the model that made this store "
            f"(its weights have SHA-256 {expected[:12]}...)"
        )
    # A rank scores on one thread, and is alone now. Text embeddings keep their bits on several: a test holds it.
    torch.set_num_threads(available_cores())
    device = torch.device("cuda" if torch.cuda.is_available() and plan.config.run.device != "cpu" else "cpu")
    encoder = load_encoder(options, weights, device, options.text_precision)
    if encoder.identity().get("tokenizer") != manifest.identity["clip"].get("tokenizer"):
        raise UserError(f"clip.tokenizer: {options.tokenizer} is not the tokenizer of this store")
    return lambda texts: encoder.encode_texts(texts).cpu().numpy()
