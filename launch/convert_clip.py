"""A CLIP weights file as safetensors, which hold tensors and no code.

    python launch/convert_clip.py ViT-B-32.pt --output ViT-B-32.safetensors
    python launch/convert_clip.py ViT-B/32 --output ViT-B-32.safetensors       one of OpenAI's, downloaded
    python launch/convert_clip.py own.pt --output own.safetensors --allow-torchscript

Scoring takes it with clip.model=ViT-B-32.safetensors. A TorchScript archive runs its code when it is loaded; one that
is not OpenAI's needs --allow-torchscript. The file names its activation, so that scoring needs no option for it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from plgen_ddp.command_line import command_line
from plgen_ddp.config import ACTIVATIONS
from plgen_ddp.console import one_line_errors, print_line
from plgen_ddp.encoders.convert import convert_clip


def main(words: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, schema=None, positional={"clip": "a weights file, or a name of OpenAI's models"})
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the .safetensors to write")
    parser.add_argument(
        "--activation", choices=ACTIVATIONS, default="auto", help="of the model; auto: what the file says"
    )
    parser.add_argument(
        "--allow-torchscript", action="store_true", help="load any TorchScript archive, and run its code"
    )
    options = parser.parse_intermixed_args(words)
    with one_line_errors():
        weights, said = convert_clip(
            options.clip, options.output, options.activation, allow_torchscript=options.allow_torchscript
        )
        print_line(f"wrote {options.output}: {len(weights.state)} tensors, activation {said or 'unknown'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
