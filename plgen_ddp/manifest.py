"""What made a store: the record, its JSON, and how two of them differ."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plgen_ddp.errors import UserError
from plgen_ddp.records import FixedVocabulary, Similarity

# Raised when the layout of the parts changes: an old store must not be read as a new one.
FORMAT = 2

# Numbers of an embedding; those of the largest encoders have a few thousand.
_LONGEST_EMBEDDING = 65_536


@dataclass(frozen=True, slots=True)
class Manifest:
    """What made a store.

    Attributes:
        dim: length of an embedding.
        similarity: how a cosine becomes a probability, by the encoder that made the embeddings.
        identity: what decides the content (dataset, weights, settings), nested mappings of plain values.
        versions: of the libraries at the start. Another version changes last digits, so it is recorded, not enforced.
        annotations: the JSON that was scored, which labelling reads unless another one is given.
        vocabulary: of imported scores; None: the store has embeddings, for any names.
        encoder: the options of `clip` that name the encoder, files by their absolute path. A notebook reads them where
            it is given no config; `identity` says which encoder it is.
    """

    dim: int
    similarity: Similarity
    identity: Mapping[str, Any]
    versions: Mapping[str, str]
    annotations: str | None = None
    vocabulary: FixedVocabulary | None = None
    encoder: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        assert isinstance(self.dim, int) and 0 <= self.dim <= _LONGEST_EMBEDDING, f"dim is {self.dim!r}"
        dataset, clip = self.identity.get("dataset", {}), self.identity.get("clip")
        assert isinstance(dataset, Mapping), f"dataset is {dataset!r}"
        assert clip is None or isinstance(clip, Mapping), f"clip is {clip!r}"
        assert clip is None or isinstance(clip.get("weights"), str | None), "clip.weights is no digest"
        assert isinstance(self.annotations, str | None), f"annotations is {self.annotations!r}"
        assert isinstance(self.encoder, Mapping | None), f"encoder is {self.encoder!r}"

    def fingerprint(self) -> str:
        """SHA-256 of the identity, hexadecimal."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def content(self) -> dict[str, Any]:
        """The manifest as JSON holds it."""
        content: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **asdict(self)}))
        return content

    @classmethod
    def of(cls, content: Any) -> "Manifest":
        """The manifest in a JSON's content.

        Raises:
            TypeError, ValueError, KeyError, AttributeError, AssertionError: it is none.
        """
        given = dict(content)
        del given["format"]
        if given.get("vocabulary") is not None:
            given["vocabulary"] = FixedVocabulary.of(**given["vocabulary"])
        manifest = cls(**given | {"similarity": Similarity(**given["similarity"])})
        _ = manifest.identity["dataset"]["digest"], manifest.versions.items()
        return manifest


class DamagedManifestError(UserError):
    """A manifest.json that holds no manifest. What the parts carry can take its place."""


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file.

    Raises:
        FileNotFoundError: there is none.
        DamagedManifestError: the file holds something else.
        UserError: it cannot be read, or has another format.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"run.output: cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise DamagedManifestError(f"run.output: {path} is damaged: it is not JSON") from None
    if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
        raise UserError(
            f"run.output: the store in {path.parent} has format {content['format']}, and this version reads "
            f"{FORMAT}; score into a new run.output, or label with the version that made the store"
        )
    try:
        return Manifest.of(content)
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError):
        raise DamagedManifestError(f"run.output: {path} is not the manifest of a region store") from None


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Each value that differs between nested mappings: `key: old, now new`."""
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}: {_short(before)}, now {_short(after)}"


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 40 else text[:12] + "..."
