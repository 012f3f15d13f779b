"""Text embeddings in a COCO-format JSON: `text_emb` of its categories, which both training codes read.

    python launch/text_embeddings.py base.json --config coco_vlplm                    writes base_txtEmb.json
    python launch/text_embeddings.py base.json --config coco_vlplm --output ovd.json label.text_embeddings=replace

Everything else in the file keeps its bytes. Encoder and templates come from the configuration. A run's own labels have
the embeddings already (label.text_embeddings). With run.output=..., names that this run's store knows need no encoder.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from plgen_ddp.command_line import command_line
from plgen_ddp.config import load_config
from plgen_ddp.console import one_line_errors, print_line
from plgen_ddp.label.embed_categories import add_text_embeddings


def main(words: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, positional={"json": "a COCO-format JSON"})
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: NAME_txtEmb.json beside NAME.json")
    arguments = parser.parse_intermixed_args(words)
    with one_line_errors():
        config = load_config(arguments.config, arguments.overrides, ("label.templates",))
        path = Path(arguments.json)
        output = arguments.output or path.with_name(f"{path.stem}_txtEmb.json")
        embedded, categories = add_text_embeddings(config, path, output)
        print_line(f"wrote {output}: text embeddings of {embedded} of {categories} categories added")
    return 0


if __name__ == "__main__":
    sys.exit(main())
