"""A COCO-format JSON from a folder of images: their names and sizes, no annotations.

    python launch/make_json.py photos --output photos.json
    python launch/make_json.py photos --output photos.json --names "traffic cone" scooter

Scoring takes it with data.annotations=photos.json data.image_root=photos. --names makes categories, which labels
refer to; without them, label.add_categories=true makes one for each novel name. Files that are no readable image are
listed and left out.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from plgen_ddp.command_line import command_line
from plgen_ddp.console import one_line_errors, print_line
from plgen_ddp.files import check_output
from plgen_ddp.image_folder import find_images, write_coco


def main(words: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, schema=None, positional={"folder": "the images, also in folders below it"})
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the JSON to write")
    parser.add_argument("--names", nargs="+", default=[], metavar="NAME", help="names of categories")
    parser.add_argument("--follow-links", action="store_true", help="take links that lead out of the folder")
    options = parser.parse_intermixed_args(words)
    with one_line_errors():
        check_output(options.output, "--output", {})
        found = find_images(Path(options.folder), follow_links=options.follow_links)
        write_coco(options.output, found.images, options.names)
        for name, reason in found.unreadable:
            print_line(f"left out: {name!r}: {reason}", error=True)
        left_out = f"; {len(found.unreadable)} files left out" if found.unreadable else ""
        print_line(f"wrote {options.output}: {len(found.images)} images, {len(options.names)} categories{left_out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
