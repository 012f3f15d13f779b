"""Published figures of other projects' pseudo labels, shown beside one's own."""

from collections.abc import Collection, Iterable

from plgen_ddp.coco_boxes import ImageRow
from plgen_ddp.figures import PublishedFigures

VLPLM = PublishedFigures(
    title="VL-PLM as published",
    protocol="threshold 0.8, only images with a novel object",
    AP=0.156,
    AP50=0.255,
    AP75=0.160,
    AP_small=0.103,
    AP_medium=0.193,
    AP_large=0.212,
    AR100=0.297,
    pseudo_labels=10_033,
    images=2_064,
)
"""The log in PL_GENERATION.md of the repository xiaofeng94/VL-PLM (ECCV 2022): COCO val2017, the 17 novel names.

Its "avg num" of 4.95 labels an image is over images that have one; over all 2,064 images they are 4.86.
"""

VLPLM_NAMES = frozenset(
    [
        *("airplane", "bus", "cake", "cat", "couch", "cow", "cup", "dog", "elephant", "keyboard", "knife", "scissors"),
        *("sink", "skateboard", "snowboard", "tie", "umbrella"),
    ]
)


def published_for(names: Collection[str], images: Iterable[ImageRow]) -> PublishedFigures | None:
    """The figures to compare with: those of VL-PLM for its names on images of COCO val2017."""
    same_names = set(names) == VLPLM_NAMES
    return VLPLM if same_names and all("/val2017/" in (image.coco_url or "") for image in images) else None
