"""Which categories get `text_emb`, the text embedding that VL-PLM's and MarvelOVD's training loaders read."""

from collections.abc import Sequence

import numpy as np

from plgen_ddp.coco import Category, CocoFile
from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError
from plgen_ddp.plurals import counted

_NO_ENCODER = "imported scores record no encoder; launch/text_embeddings.py adds text embeddings to a JSON"


def categories_to_embed(coco: CocoFile, added: Sequence[Category], mode: str) -> list[Category]:
    """The categories that get `text_emb`: with mode fill those without it, with replace all, with none none.

    Args:
        added: categories that the file does not have yet.
        mode: `label.text_embeddings`.
    """
    if mode == "none":
        return []
    categories = coco.categories()
    if mode == "fill":
        lengths = coco.text_embedding_lengths()
        categories = [category for category, length in zip(categories, lengths, strict=True) if length == 0]
    return [*categories, *added]


def embeddings_by_id(coco: CocoFile, categories: Sequence[Category], rows: np.ndarray) -> dict[int, np.ndarray]:
    """Text embeddings by category id, float32 (d,) each.

    Args:
        categories: from `categories_to_embed`.
        rows: float32 (len(categories), d).

    Raises:
        UserError: a category that keeps its `text_emb` has another length; no loader can put both into one matrix.
    """
    found = {category.id: row for category, row in zip(categories, rows, strict=True)}
    for category, length in zip(coco.categories(), coco.text_embedding_lengths(), strict=True):
        if found and category.id not in found and length not in (0, rows.shape[1]):
            raise UserError(
                f"{coco.path}: `text_emb` of {category.name!r} has {length} numbers, and embeddings of clip.model have "
                f"{rows.shape[1]}; label.text_embeddings=replace replaces it, none adds no others"
            )
    return found


def check_no_replacement(mode: str) -> None:
    """Checks that nobody wants embeddings of an encoder that imported scores do not record.

    Args:
        mode: `label.text_embeddings`.

    Raises:
        UserError: mode is replace.
    """
    if mode == "replace":
        raise UserError(f"label.text_embeddings is replace, and {_NO_ENCODER}")


def print_without(categories: Sequence[Category]) -> None:
    """Says that imported scores give these categories no `text_emb`."""
    if categories:
        stay = counted(len(categories), "category stays", "categories stay")
        print_line(f"note: {stay} without text_emb: {_NO_ENCODER}", error=True)
