"""Text embeddings of names. An encoder, and with it torch, is loaded only for names new to the store."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from plgen_ddp.config import Config
from plgen_ddp.errors import UserError
from plgen_ddp.files import file_sha256
from plgen_ddp.label.category_embeddings import check_no_replacement, embeddings_by_id
from plgen_ddp.label.plan import LabelPlan
from plgen_ddp.label.text_embeddings import TextEmbeddings, prompts
from plgen_ddp.manifest import Manifest
from plgen_ddp.processor import available_cores
from plgen_ddp.store import RegionStore, store_of


def check_name_lengths(plan: LabelPlan) -> None:
    """Checks that the encoder can read every prompt, without loading it.

    Raises:
        UserError: a prompt is too long for it.
    """
    _check_lengths(plan.config, plan.templates, [*plan.table.words, *plan.category_words()])


def embed_names(plan: LabelPlan, more: Sequence[tuple[str, ...]] = ()) -> np.ndarray:
    """Text embeddings float32 (c, d), unit length, of the plan's names, novel ones first; kept in the store.

    Args:
        more: words of other names, whose rows come behind.

    Raises:
        UserError: no store, or a name is new to it and `clip.model` is not the encoder that made it.
    """
    store = store_of(plan.config)
    try:
        return embed_words(plan.config, plan.templates, [*plan.table.words, *more], store)
    except UserError as error:
        if more and _cache(plan.config, plan.templates, store, store.manifest()).knows(plan.table.words):
            raise UserError(
                f"{error}; labels need no encoder, only `text_emb` of the categories does: label.text_embeddings=none "
                "goes without"
            ) from None
        raise


def embed_plans(plans: Sequence[LabelPlan], manifest: Manifest) -> list[tuple[np.ndarray, dict[int, np.ndarray]]]:
    """The text embeddings of each plan's table, float32 (words, d), and of its categories, by id.

    Raises:
        UserError: what `embed_names` raises, or `text_emb` of other categories has another length.
    """
    if manifest.vocabulary is not None:
        for one in plans:
            check_no_replacement(one.config.label.text_embeddings)
        return [(np.empty((0, 0), np.float32), {}) for _ in plans]
    known: dict[str, np.ndarray] = {}
    found = []
    for one in plans:
        more = one.category_words()
        key = repr((one.table.words, more, one.templates))
        if key not in known:
            known[key] = embed_names(one, more)
        rows, of_categories = np.split(known[key], [len(one.table.words)])
        found.append((rows, embeddings_by_id(one.coco, one.embedded, of_categories)))
    return found


def embed_words(
    config: Config, templates: Sequence[str], words: Sequence[tuple[str, ...]], store: RegionStore | None
) -> np.ndarray:
    """Text embeddings float32 (c, d), unit length, of names.

    Args:
        words: for each name, the words used in its prompts.
        store: keeps them; None: they are kept nowhere.

    Raises:
        UserError: no such store, a name is new to it and `clip.model` is not the encoder that made it, or a prompt is
            too long for the encoder.
    """
    if not words:
        return np.empty((0, 0), np.float32)
    if store is None:
        _check_lengths(config, templates, words)
        uncached = TextEmbeddings(None, templates, None, config.clip.text_precision)
        return uncached.embed(words, lambda: _load_text_encoder(config, None))
    manifest = store.manifest()
    cache = _cache(config, templates, store, manifest)
    return cache.embed(words, lambda: _load_text_encoder(config, manifest))


def _cache(config: Config, templates: Sequence[str], store: RegionStore, manifest: Manifest) -> TextEmbeddings:
    return TextEmbeddings(store.folder / "vocabulary", templates, manifest.dim, config.clip.text_precision)


def _check_lengths(config: Config, templates: Sequence[str], words: Sequence[tuple[str, ...]]) -> None:
    from plgen_ddp.encoders.loading import check_prompts

    check_prompts(config.clip, [text for names in words for text in prompts(names, templates)])


def _load_text_encoder(config: Config, manifest: Manifest | None) -> Callable[[Sequence[str]], Any]:
    """The text encoder of `clip.model`, which must be the one that made the manifest's store."""
    try:
        import torch  # only here: names that were embedded before need neither
    except ImportError:
        raise UserError(
            "a name is new to the store, and embedding it needs torch, which is not installed; label once where it is"
        ) from None

    from plgen_ddp.encoders.loading import fetch_encoder, load_encoder

    options = config.clip
    weights = fetch_encoder(options)
    if manifest is not None:
        _check_digest(options.model, file_sha256(weights), manifest)
    # A rank scores on one thread, and is alone now. Text embeddings keep their bits on several: a test holds it.
    torch.set_num_threads(available_cores())
    device = torch.device("cuda" if torch.cuda.is_available() and config.run.device != "cpu" else "cpu")
    encoder = load_encoder(options, weights, device, options.text_precision)
    if manifest is not None:
        _check_digest(options.model, encoder.identity()["weights"], manifest)  # of the bytes that were loaded
    if manifest is not None and encoder.identity().get("tokenizer") != manifest.identity["clip"].get("tokenizer"):
        raise UserError(f"clip.tokenizer: {options.tokenizer} is not the tokenizer of this store")
    return lambda texts: encoder.encode_texts(texts).cpu().numpy()


def _check_digest(model: str, digest: str, manifest: Manifest) -> None:
    expected = manifest.identity["clip"]["weights"]
    if digest != expected:
        raise UserError(
            f"clip.model: {model} is not the model that made this store (its weights have SHA-256 {expected[:12]}...)"
        )
