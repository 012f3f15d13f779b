"""Text embeddings of names, kept with the region store: a name that was embedded once needs no encoder again."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError
from plgen_ddp.files import write_atomically


def prompts(words: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every template with every word. `_` is read as a space and `/` as "or", as LVIS and Objects365 write names."""
    texts = []
    for word in words:
        spoken = word.replace("_", " ").replace("/", " or ")
        article = "an" if spoken[:1].lower() in tuple("aeiou") else "a"
        texts += [template.format(spoken, article=article) for template in templates]
    return texts


class TextEmbeddings:
    """Text embeddings of names under one set of templates, kept in a file of the store."""

    def __init__(self, folder: Path, templates: Sequence[str], dim: int) -> None:
        digest = hashlib.sha256(json.dumps(list(templates)).encode()).hexdigest()
        self._path = folder / f"text-{digest[:16]}.npz"
        self._templates = templates
        self._known: dict[str, np.ndarray] = {}
        # A damaged cache costs a minute of CLIP; it is no reason to stop.
        try:
            with np.load(self._path, allow_pickle=False) as stored:
                if stored["embeddings"].shape[1:] == (dim,):
                    self._known = dict(zip(stored["keys"].tolist(), stored["embeddings"], strict=True))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass

    def embed(
        self, words: Sequence[tuple[str, ...]], load_encoder: Callable[[], Callable[[Sequence[str]], Any]]
    ) -> np.ndarray:
        """Embeddings float32 (len(words), dim), unit length: the mean over prompts of unit-length embeddings,
        normalised.

        Args:
            words: for each name, the words that stand in its prompts.
            load_encoder: called only if a name is new; its result maps prompts to unit-length embeddings (k, dim).
        """
        keys = [json.dumps(names) for names in words]
        new = [(key, names) for key, names in zip(keys, words, strict=True) if key not in self._known]
        if new:
            encode = load_encoder()
            for key, names in new:
                # One call a name: a name's embedding must not depend, in its last bits, on its neighbours.
                mean = np.asarray(encode(prompts(names, self._templates)), np.float32).mean(axis=0)
                self._known[key] = mean / np.linalg.norm(mean)
            self._save()
        return np.stack([self._known[key] for key in keys])

    def _save(self) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, keys=np.array(list(self._known)), embeddings=np.stack(list(self._known.values())))
        try:
            write_atomically(self._path, iter([buffer.getvalue()]))
        except UserError as error:  # a store may be another's, to read only
            print_line(f"note: the names are embedded anew each time: {error}", error=True)
