"""Prompts to tokens for open_clip's models, by open_clip's own vocabulary or a tokenizer.json. Needs no model."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from plgen_ddp.encoders.encoder import too_long
from plgen_ddp.errors import UserError, one_line


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Tokens of prompts, padded to the context.

    Attributes:
        encode: the ids of one prompt, with the special tokens around it.
        pad_id: what follows them up to `context_length`.
        file: the tokenizer.json behind it; None: open_clip's own vocabulary.
    """

    encode: Callable[[str], list[int]]
    context_length: int
    pad_id: int
    file: Path | None = None

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """The tokens int64 (k, context_length) of prompts.

        Raises:
            UserError: a prompt is longer. open_clip itself would cut it off.
        """
        tokens = torch.full((len(prompts), self.context_length), self.pad_id, dtype=torch.int64)
        for row, prompt in zip(tokens, prompts, strict=True):
            ids = self.encode(prompt)
            if len(ids) > self.context_length:
                raise too_long(prompt, self.context_length)
            row[: len(ids)] = torch.tensor(ids)
        return tokens


def tokenizer_file(given: str | Path) -> Path:
    """The tokenizer.json that `clip.tokenizer` means.

    Raises:
        UserError: there is none.
    """
    path = Path(given)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"clip.tokenizer: no file at {path}; give a tokenizer.json or a folder that holds one")
    return path


def read_tokenizer(
    file: Path, clean: Callable[[str], str], context_length: int, *, siglip: bool, strip_separator: bool
) -> Tokenizer:
    """A tokenizer of the `tokenizers` library.

    Args:
        clean: the model's own cleaning of a prompt.
        siglip: SigLIP's tokens are the text's and an end token, whatever else the file would add. The first SigLIP pads
            with its end token </s>, SigLIP 2 with <pad> behind <eos> (open_clip's SigLipTokenizer).
        strip_separator: [SEP] becomes 0, as CLIPA wants it.

    Raises:
        UserError: not a tokenizer.json, or one without a padding token.
    """
    from tokenizers import Tokenizer as Parsed

    try:
        parsed = Parsed.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"clip.tokenizer: {file} is not a tokenizer.json: {one_line(error)}") from None
    padding = parsed.padding or {}
    parsed.no_padding()
    parsed.no_truncation()
    if siglip:
        first, second = parsed.token_to_id("</s>"), parsed.token_to_id("<eos>")
        end_id = first if first is not None else second
        if end_id is None:
            raise UserError(f"clip.tokenizer: {file} has neither </s> nor <eos>, so it is not a tokenizer of SigLIP")
        pad_id = first if first is not None else parsed.token_to_id("<pad>")

        def encode(prompt: str) -> list[int]:
            return [*parsed.encode(clean(prompt), add_special_tokens=False).ids, end_id]
    else:
        pad_id = padding.get("pad_id", _pad_id(file, parsed.token_to_id))
        separator = parsed.token_to_id("[SEP]") if strip_separator else None

        def encode(prompt: str) -> list[int]:
            return [0 if token == separator else token for token in parsed.encode(clean(prompt)).ids]

    if pad_id is None:
        raise UserError(f"clip.tokenizer: {file} has no padding token, neither <pad> nor [PAD]")
    return Tokenizer(encode, context_length, pad_id, file)


def _pad_id(file: Path, token_to_id: Callable[[str], int | None]) -> int | None:
    """The padding token that a tokenizer_config.json beside `file` names, or the usual ones."""
    names = ["<pad>", "[PAD]"]
    beside = file.with_name("tokenizer_config.json")
    if beside.is_file():
        try:
            named = json.loads(beside.read_text(encoding="utf-8")).get("pad_token")
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"clip.tokenizer: {beside} is not a JSON mapping: {one_line(error)}") from None
        named = named.get("content") if isinstance(named, dict) else named
        names = [named, *names] if isinstance(named, str) else names
    return next((token_to_id(name) for name in names if token_to_id(name) is not None), None)
