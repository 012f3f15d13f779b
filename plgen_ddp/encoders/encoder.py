"""What stage 1 and the text embeddings need of an encoder, whatever model is behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from plgen_ddp.errors import UserError
from plgen_ddp.records import Similarity


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a crop becomes a model's input.

    Attributes:
        resolution: side of the square input, pixels.
        resize: "crop" scales the shortest side to the resolution and crops the centre; "squash" scales both sides to
            it.
        interpolation: of that resize, antialiased as Pillow's.
        mean_rgb, std_rgb: of the normalisation, for RGB in [0, 1].
    """

    resolution: int
    resize: Literal["crop", "squash"]
    interpolation: Literal["bicubic", "bilinear"]
    mean_rgb: tuple[float, float, float]
    std_rgb: tuple[float, float, float]


def causal_length(last_end: int, context_length: int) -> int:
    """How many tokens a causal text tower needs to read of prompts whose last end token is at position `last_end`.

    Nothing behind the end token reaches it, so the context can be cut there and the embedding stays the same. It is cut
    at a multiple of 16 tokens. Attention then adds in the order it has on the whole context, vector by vector, so on a
    CPU the embeddings keep their bits; and a name's do not depend on the length of other names.
    """
    return min(-(-(last_end + 1) // 16) * 16, context_length)


def filled_up(tokens: Tensor, fewest: int = 16) -> Tensor:
    """Tokens (k, length) of prompts, with copies of the last one up to `fewest` rows.

    A product of a few rows, up to 11 with MKL, adds in another order for another number of rows or threads.
    """
    return torch.cat([tokens, tokens[-1:].expand(fewest - len(tokens), -1)]) if len(tokens) < fewest else tokens


def too_long(prompt: str, context_length: int) -> UserError:
    """The error for a prompt that does not fit a model's context of `context_length` tokens."""
    return UserError(
        f"label.vocabulary, label.templates: too long for the encoder, which reads {context_length} tokens: "
        f"{prompt[:60]!r}..."
    )


class Encoder(Protocol):
    """A model with an image tower and a text tower, on one device in one precision."""

    preprocessing: Preprocessing
    similarity: Similarity
    dim: int
    """Length of an embedding."""
    precision: str
    """fp32, bf16 or fp16."""

    def encode_images(self, crops_bgr: Tensor) -> Tensor:
        """Unit-length embeddings float32 (k, dim) of crops uint8 (k, 3, resolution, resolution) in BGR order."""
        ...

    def encode_texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit-length embeddings float32 (k, dim) of prompts.

        Raises:
            UserError: a prompt longer than the model's context.
        """
        ...

    def compile(self, batch_size: int) -> None:
        """Compiles `encode_images` for batches of `batch_size` crops, now.

        Raises:
            UserError: torch.compile failed, mostly for want of a working compiler.
        """
        ...

    def identity(self) -> dict[str, Any]:
        """Everything that decides the embeddings: `deciding` of the options of `clip`, files by SHA-256, the precision.

        It is all that the store's identity says about the encoder; see `plgen_ddp.options.deciding`.
        """
        ...
