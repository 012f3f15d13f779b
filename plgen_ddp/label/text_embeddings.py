"""Text embeddings of names, kept with the region store: a name that was embedded once needs no encoder again."""

import contextlib
import hashlib
import io
import json
import math
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError
from plgen_ddp.files import write_atomically
from plgen_ddp.plurals import counted

# Names that are embedded before the file is written again: what an interrupt can lose.
_NAMES_PER_SAVE = 16
# Seconds between two lines about the progress, where stderr is no terminal.
_LINE_EVERY = 15.0


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

    def __init__(self, folder: Path | None, templates: Sequence[str], dim: int | None, precision: str = "fp32") -> None:
        """
        Args:
            folder: holds one file for each set of templates and precision; None: nothing is kept.
            dim: length of an embedding; a file of another length is replaced.
            precision: of the encoder that embeds new names (`clip.text_precision`).
        """
        digest = hashlib.sha256(json.dumps(list(templates)).encode()).hexdigest()
        kind = "" if precision == "fp32" else f"-{precision}"
        self._path = None if folder is None else folder / f"text-{digest[:16]}{kind}.npz"
        self._templates = templates
        self._known: dict[str, np.ndarray] = {}
        self._writable = self._path is not None
        if self._path is None:
            return
        # A damaged cache costs a minute of CLIP; it is no reason to stop.
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            self._known = _read_cache(self._path, dim)

    def knows(self, words: Sequence[tuple[str, ...]]) -> bool:
        """Whether all of these names were embedded before."""
        return all(json.dumps(names) in self._known for names in words)

    def embed(
        self, words: Sequence[tuple[str, ...]], load_encoder: Callable[[], Callable[[Sequence[str]], Any]]
    ) -> np.ndarray:
        """Embeddings of names: the mean over prompts of unit-length embeddings, normalised.

        New names are saved as they are embedded, so an interrupted call loses a few of them, and the next one goes on.

        Args:
            words: for each name, the words used in its prompts.
            load_encoder: called only if a name is new; its result maps prompts to unit-length embeddings (k, dim).

        Returns:
            float32 (len(words), dim), unit length.
        """
        keys = [json.dumps(names) for names in words]
        new = {key: names for key, names in zip(keys, words, strict=True) if key not in self._known}
        if new:
            encode = load_encoder()
            each = counted(len(self._templates), "prompt")
            print_line(f"embedding {counted(len(new), 'name')}, {each} each", error=True)
            for done, (key, names) in enumerate(_shown(list(new.items())), 1):
                # One call a name: a name's embedding must not depend, in its last bits, on its neighbours.
                mean = np.asarray(encode(prompts(names, self._templates)), np.float32).mean(axis=0)
                length = float(np.linalg.norm(mean))
                if not 0 < length < np.inf:
                    raise UserError(f"clip.model: its embedding of the prompts of {names[0]!r} is no direction")
                self._known[key] = mean / length
                if done % _NAMES_PER_SAVE == 0 or done == len(new):
                    self._save()
        return np.stack([self._known[key] for key in keys])

    def _save(self) -> None:
        if self._path is None or not self._writable:
            return
        buffer = io.BytesIO()
        np.savez(buffer, keys=np.array(list(self._known)), embeddings=np.stack(list(self._known.values())))
        try:
            write_atomically(self._path, iter([buffer.getvalue()]))
        except UserError as error:  # a store may be another's, to read only
            self._writable = False
            print_line(f"note: the names are embedded anew each time: {error}", error=True)


def _read_cache(path: Path, dim: int | None) -> dict[str, np.ndarray]:
    """The embeddings by key in a cache; none where they have another length than `dim`.

    A few bytes can ask for any amount of memory: what is packed, or promises more values than the file holds, is
    refused before it is read.

    Raises:
        OSError, ValueError, KeyError, EOFError, BadZipFile: no cache, or a damaged one.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > path.stat().st_size:
                raise ValueError("it is packed")
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else _header_2
                shape, _, kind = read_header(file)
                if math.prod(shape) * kind.itemsize != member.file_size - file.tell():
                    raise ValueError("it promises another number of values than it holds")
    with np.load(path, allow_pickle=False) as stored:
        keys, embeddings = stored["keys"], stored["embeddings"]
    if embeddings.shape[1:] != (dim,):
        return {}
    if keys.dtype.kind != "U" or embeddings.dtype != np.float32 or not np.isfinite(embeddings).all():
        raise ValueError("it holds other values than embeddings")
    return dict(zip(keys.tolist(), embeddings, strict=True))


def _header_2(file: IO[bytes]) -> Any:
    return np.lib.format.read_array_header_2_0(file)


def _shown(names: Sequence[tuple[str, tuple[str, ...]]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The items, with a bar on a terminal and now and then a line elsewhere."""
    if sys.stderr.isatty():
        yield from tqdm(names, desc="embedding", unit="name", dynamic_ncols=True)
        return
    start = time.monotonic()
    next_line = start + _LINE_EVERY
    for done, name in enumerate(names):
        if (now := time.monotonic()) >= next_line:
            left = tqdm.format_interval((len(names) - done) * (now - start) / done) if done else "?"
            print_line(f"embedded {done} of {counted(len(names), 'name')}, {left} left", error=True)
            next_line += _LINE_EVERY
        yield name
