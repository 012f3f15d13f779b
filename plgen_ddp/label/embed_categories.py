"""The recipe's last step for any COCO-format JSON: `text_emb` of its categories."""

from pathlib import Path

from plgen_ddp.coco import CocoFile
from plgen_ddp.config import Config
from plgen_ddp.errors import UserError
from plgen_ddp.files import check_output
from plgen_ddp.label.category_embeddings import categories_to_embed, embeddings_by_id
from plgen_ddp.label.embed_names import embed_words
from plgen_ddp.label.vocabulary import Vocabulary, read_templates, read_vocabulary
from plgen_ddp.store import RegionStore, store_of


def add_text_embeddings(config: Config, path: Path, output: Path) -> tuple[int, int]:
    """Writes a COCO-format JSON with `text_emb` of its categories and all else byte for byte.

    Encoder and templates are those of `config`. Where `run.output` has a store, the names that it knows need no
    encoder. Aliases of `label.vocabulary` take a name's place, as in the labels' prompts.

    Returns:
        (categories that got `text_emb`, categories).

    Raises:
        UserError: no COCO-format JSON, an output that cannot be written, a prompt that is too long for the encoder, or
            a store of another encoder.
    """
    mode = config.label.text_embeddings
    if mode == "none":
        raise UserError("label.text_embeddings is none, so there is nothing to add; use fill or replace")
    check_output(output, "--output", {"the JSON to read": path})
    coco = CocoFile(path, "JSON")
    templates = read_templates(config)
    vocabulary = Vocabulary(()) if config.label.vocabulary is None else read_vocabulary(config)
    categories = categories_to_embed(coco, (), mode)
    words = [vocabulary.words_of(category.name) for category in categories]
    rows = embed_words(config, templates, words, _store(config))
    coco.write_with_categories(output, coco.categories_text(embeddings_by_id(coco, categories, rows)))
    return len(categories), len(coco.categories())


def _store(config: Config) -> RegionStore | None:
    """The store of `run.output`, if there is one with embeddings."""
    if config.run.output is None:
        return None
    store = store_of(config)
    if not (store.folder / "manifest.json").is_file() or store.manifest().vocabulary is not None:
        return None
    return store
