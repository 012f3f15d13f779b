"""Whether a labelled JSON leaks: after the fact, it is compared with the JSON that was labelled.

This is the only part of labelling that reads novel annotations, and nothing that it reads can change a label: it runs
when the labels are written, and the file gets its name only where nothing leaks.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from plgen_ddp.boxes import corners, paired_ious, pairs_in_ranges
from plgen_ddp.coco import CocoFile
from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError
from plgen_ddp.label.labelled_file import (
    Annotations,
    Entry,
    LabelledFile,
    boxes_of,
    categories_of,
    check_unlabelled,
    read_annotations,
    read_labelled,
)
from plgen_ddp.records import Audit

EQUAL_IOU = 0.999
"""A pseudo label above this IoU with a novel annotation is taken for a copy of it."""

# Leaks of one kind that are listed; the others are counted.
_LISTED = 10
# Pixels from the image's border within which an edge is the border's, and by which a box may lie outside: float32 boxes
# become float64 sums.
_BORDER = 1.0
_OUTSIDE = 1e-3
# Edges that a box needs inside the image to be judged; see `_copies`.
_FREE_EDGES = 3
# Pairs of boxes that are compared at once.
_PAIRS = 200_000


def audit_files(labels: Path, source: Path) -> Audit:
    """Compares the labelled JSON `labels` with the JSON `source` that was labelled.

    Raises:
        UserError: an unreadable file, labels that this package has not written, or a source that was labelled: it has
            no annotations of the novel names to compare with, so that nothing leaks.
    """
    labelled = read_labelled(CocoFile(labels, "the labels"))
    compared = CocoFile(source, "the source")
    check_unlabelled(compared, "SOURCE", "the JSON that was labelled")
    return audit(labelled, compared)


def unaudited(output: Path) -> Path:
    """Where a labelling writes: `output` is a file's name only once the audit has found nothing."""
    return output.with_name(output.name + ".unaudited")


def admit(output: Path, source: CocoFile) -> None:
    """Audits the file that lies under the name `unaudited(output)`, and renames it to `output`.

    Raises:
        UserError: it leaks. The file keeps its name, for whoever looks into it, and `output` is as it was.
    """
    path = unaudited(output)
    source.release()  # two such files at once are the most memory that a labelling takes
    found = audit(read_labelled(CocoFile(path, "label.output")), source)
    for leak in found.leaks:
        print_line(f"leak: {leak}", error=True)
    if found.leaks:
        raise UserError(
            f"the labels leak (see above) and must not be used: they lie in {path}, and {output} is not written"
        )
    path.replace(output)


def audit(labelled: LabelledFile, source: CocoFile, also_novel: Sequence[str] = ()) -> Audit:
    """Compares labels with the JSON that was labelled.

    What a labelling may change is no leak: it leaves out annotations of names that are neither novel nor base, gives
    categories their `text_emb`, adds categories for novel names that the source lacks, with ids above its own, and may
    leave out categories that are neither novel nor base, and images, of which `info` then says how many there are.

    Args:
        also_novel: names whose annotations must not be there either.
    """
    own, texts = read_annotations(source)
    extents = {image.id: (image.width, image.height) for image in source.images()}
    image_ids = [image_id for image_id, _ in labelled.listed_images]
    name_of = {category["id"]: category["name"] for category in labelled.categories}
    novel = {*labelled.novel, *also_novel}
    base = (set(name_of.values()) if labelled.base is None else set(labelled.base)) - novel
    base_ids = {category_id for category_id, name in name_of.items() if name in base}
    own_novel_ids = {category.id for category in source.categories() if category.name in novel}
    # With all images, annotations of images that the source does not list stay too, as they are.
    limited = np.isin(own.image_ids, image_ids) if extents.keys() - set(image_ids) else None
    copies, unjudged = _copies(labelled, *_novel_boxes(own, texts, own_novel_ids), extents)
    leaks = (
        _of_keys(labelled, source),
        _of_images(labelled, source, image_ids),
        _of_categories(labelled, source),
        _of_other_annotations(labelled.others, name_of, novel, base_ids),
        _of_base_annotations(labelled, own, texts, limited, base_ids),
        _of_ids(labelled, own),
        _of_labels(labelled, name_of, extents, image_ids),
        copies,
    )
    return Audit(
        leaks=tuple(itertools.chain.from_iterable(map(_first, leaks))),
        images=len(image_ids),
        pseudo_labels=len(labelled.ids),
        base_annotations=len(labelled.others.text_hashes),
        unjudged=unjudged,
    )


def _of_keys(labelled: LabelledFile, source: CocoFile) -> Iterator[str]:
    """Beside what a labelling writes, the file has no key that the source lacks."""
    for key in sorted(labelled.keys - source.keys() - {"info", "annotations"}):
        yield f"the key {key!r} is not in the source"


def _of_images(labelled: LabelledFile, source: CocoFile, image_ids: list[int]) -> Iterator[str]:
    if len(image_ids) != labelled.images:
        yield f"there are {len(image_ids)} images, and info says {labelled.images}"
    yield from (f"image {image_id} is there {count} times" for image_id, count in _repeated(np.array(image_ids)))
    own = {
        entry.id: text
        for entry, text in zip(source.entries("images", Entry), source.entries("images", msgspec.Raw), strict=True)
    }
    for image_id, text in labelled.listed_images:
        if image_id not in own:
            yield f"image {image_id} is not in the source"
        elif not _same(text, own[image_id]):
            yield f"image {image_id} is not as in the source"


def _of_categories(labelled: LabelledFile, source: CocoFile) -> Iterator[str]:
    """A category may get `text_emb`; a novel name may become a category; one of neither kind may be left out."""
    found, own = ({row["id"]: row for row in rows} for rows in (labelled.categories, categories_of(source)))
    for category_id, row in found.items():
        if category_id in own:
            if row != own[category_id]:
                yield f"category {category_id} ({row['name']!r}) is not as in the source"
        elif row["name"] not in labelled.novel or category_id <= max(own, default=0):
            yield f"category {category_id} ({row['name']!r}) is not in the source"
    for absent in sorted(own.keys() - found.keys()):
        if labelled.base is None or own[absent]["name"] in {*labelled.novel, *labelled.base}:
            yield f"category {absent} of the source is missing"


def _of_other_annotations(
    others: Annotations, name_of: dict[int, str], novel: set[str], base_ids: set[int]
) -> Iterator[str]:
    """Annotations that are no pseudo labels are of base names."""
    wrong = others.where(~np.isin(others.category_ids, list(base_ids)))
    for own_id, image_id, category_id in zip(wrong.ids, wrong.image_ids, wrong.category_ids, strict=True):
        name = name_of.get(int(category_id), f"category {category_id}")
        what = (
            f"the novel name {name!r} and is no pseudo label" if name in novel else f"{name!r}, which is no base name"
        )
        yield f"annotation {own_id} in image {image_id} is of {what}"


def _of_base_annotations(
    labelled: LabelledFile,
    own: Annotations,
    texts: Sequence[msgspec.Raw],
    limited: np.ndarray | None,
    base_ids: set[int],
) -> Iterator[str]:
    """The base annotations are those of the source, `own`, as far as its images are there.

    Args:
        texts: of `own`.
        limited: bool, which of `own` are in images that are there; None: all.
    """
    among_found = np.isin(labelled.others.category_ids, list(base_ids))
    among_own = np.isin(own.category_ids, list(base_ids))
    if limited is not None:
        among_own &= limited
    found, own = labelled.others.where(among_found), own.where(among_own)
    if np.array_equal(found.text_hashes, own.text_hashes):
        return
    own_texts = list(itertools.compress(texts, among_own.tolist()))
    others = itertools.compress(labelled.coco.entries("annotations", msgspec.Raw), (~labelled.listed).tolist())
    found_texts = list(itertools.compress(others, among_found.tolist()))
    expected = defaultdict(list)
    for place, own_id in enumerate(own.ids.tolist()):
        expected[own_id].append(place)
    for text, own_id, image_id in zip(found_texts, found.ids.tolist(), found.image_ids, strict=True):
        candidates = expected[own_id]
        equal = next((place for place in candidates if _same(text, own_texts[place])), None)
        if equal is not None:
            candidates.remove(equal)
        elif candidates:
            candidates.pop()
            yield f"base annotation {own_id} in image {image_id} is not as in the source"
        else:
            yield f"base annotation {own_id} in image {image_id} is not in the source"
    for place in itertools.chain.from_iterable(expected.values()):
        yield f"base annotation {own.ids[place]} in image {own.image_ids[place]} of the source is missing"


def _of_ids(labelled: LabelledFile, own: Annotations) -> Iterator[str]:
    """An id that the source itself repeats is not the labelling's doing."""
    if repeated := _repeated(np.concatenate([labelled.ids, labelled.others.ids])):
        before = Counter(own.ids.tolist())
        for own_id, count in repeated:
            if own_id is not None and count > before[own_id]:
                yield f"id {own_id} is that of {count} annotations"


def _of_labels(
    labelled: LabelledFile, name_of: dict[int, str], extents: dict[int, tuple[int, int]], image_ids: Sequence[int]
) -> Iterator[str]:
    """Pseudo labels are those that `info` lists, of novel names, and lie in their images."""
    if len(labelled.ids) != labelled.pseudo_labels:
        yield f"there are {len(labelled.ids)} pseudo labels, and info says {labelled.pseudo_labels}"
    novel = set(labelled.novel)
    novel_ids = [category_id for category_id, name in name_of.items() if name in novel]
    known = np.isin(labelled.image_ids, list(extents.keys() & set(image_ids)))
    readable = ~np.isnan(labelled.confidences)
    corner, size = labelled.boxes_xywh[:, :2], labelled.boxes_xywh[:, 2:]
    sizes = _sizes(labelled.image_ids, extents)
    inside = ((corner >= -_OUTSIDE) & (size > 0) & (corner + size <= sizes + _OUTSIDE)).all(axis=1)
    for wrong, what in (
        (~readable, "lacks a box or a confidence"),
        (~np.isin(labelled.category_ids, novel_ids), "is not of a novel name"),
        (~known, "is in an image that is not there"),
        (readable & known & ~inside, "lies outside its image"),
    ):
        for place in np.flatnonzero(wrong).tolist():
            yield f"{_label(labelled, place)} {what}"


def _copies(
    labelled: LabelledFile, novel_image_ids: np.ndarray, novel_xyxy: np.ndarray, extents: dict[int, tuple[int, int]]
) -> tuple[list[str], int]:
    """Pseudo labels that equal a novel annotation, and how many others do so by chance.

    Boxes of real numbers practically never agree by chance in three edges or four: with errors of 3 % of the side an
    edge, 3 in a million and 2 in 100 million do. But an edge on the image's border agrees as soon as both boxes reach
    it, and of boxes with two, one or no edge of their own, 3 in 10,000, 3 in 100 and all agree. They are not judged.

    Boxes in whole pixels, as some files of boxes have them, agree by chance where objects are small. Where most boxes
    of the file are such, equal ones are copies only if they are the larger part of those with an IoU of 0.5 or more.
    """
    boxes = corners(labelled.boxes_xywh)
    best = _best_ious(labelled.image_ids, boxes, novel_image_ids, novel_xyxy)
    sizes = _sizes(labelled.image_ids, extents)
    free = np.concatenate([boxes[:, :2] > _BORDER, boxes[:, 2:] < sizes - _BORDER], axis=1)
    equal = best > EQUAL_IOU
    judged = equal & (free.sum(axis=1) >= _FREE_EDGES)
    whole_pixels = (boxes == np.round(boxes)).all(axis=1)
    if whole_pixels.sum() > len(boxes) / 2 and judged.sum() <= (best >= 0.5).sum() / 2:
        judged[:] = False
    lines = [
        f"{_label(labelled, place)} has IoU {best[place]:.4f} with a novel annotation of the source"
        for place in np.flatnonzero(judged).tolist()
    ]
    return lines, int((equal & ~judged).sum())


def _novel_boxes(own: Annotations, texts: Sequence[msgspec.Raw], novel_ids: set[int]) -> tuple[np.ndarray, np.ndarray]:
    """Image ids int64 (m,) and boxes float64 (m, 4), xyxy, of the source's annotations of these categories, crowds too.

    One without a readable box cannot have been copied. One with a confidence is the label of an earlier labelling.
    """
    novel = np.isin(own.category_ids, list(novel_ids))
    boxes, confidences = boxes_of(list(itertools.compress(texts, novel.tolist())))
    real = np.isnan(confidences) & ~np.isnan(boxes[:, 0])
    return own.image_ids[novel][real], corners(boxes[real])


def _best_ious(
    image_ids: np.ndarray, boxes_xyxy: np.ndarray, other_ids: np.ndarray, others_xyxy: np.ndarray
) -> np.ndarray:
    """Each box's largest IoU with the others of its image, float64 (n,); 0 without any."""
    order = np.argsort(other_ids, kind="stable")
    other_ids, others_xyxy = other_ids[order], others_xyxy[order]
    start, end = (np.searchsorted(other_ids, image_ids, side) for side in ("left", "right"))
    count = end - start
    best = np.zeros(len(image_ids))
    paired = np.flatnonzero(count)
    for block in np.array_split(paired, count.sum() // _PAIRS + 1):
        row, other = pairs_in_ranges(start[block], end[block])
        box = block[row]
        np.maximum.at(best, box, np.nan_to_num(paired_ious(boxes_xyxy[box], others_xyxy[other])))
    return best


def _label(labelled: LabelledFile, place: int) -> str:
    return f"pseudo label {labelled.ids[place]} in image {labelled.image_ids[place]}"


def _sizes(image_ids: np.ndarray, extents: dict[int, tuple[int, int]]) -> np.ndarray:
    """(width, height) of each image, int64 (n, 2); 0 of an image that the source lacks."""
    known = np.array(list(extents), np.int64)
    order = np.argsort(known)
    known, sizes = known[order], np.array(list(extents.values()), np.int64)[order]
    place = np.minimum(np.searchsorted(known, image_ids), len(known) - 1)
    return np.where((known[place] == image_ids)[:, None], sizes[place], 0)


def _same(text: msgspec.Raw | bytes, other: msgspec.Raw) -> bool:
    """Whether both hold the same value; a tool that rewrote the file may have spaced or ordered it differently."""
    return bytes(text) == bytes(other) or msgspec.json.decode(text) == msgspec.json.decode(other)


def _repeated(ids: np.ndarray) -> list[tuple[Any, int]]:
    """The ids that are there more than once, and how often."""
    if ids.dtype != object:
        ordered = np.sort(ids)
        if (ordered[1:] != ordered[:-1]).all():
            return []
    return [(own_id, count) for own_id, count in Counter(ids.tolist()).items() if count > 1]


def _first(lines: Iterable[str]) -> Iterator[str]:
    """The first lines; of the others only their number."""
    iterator = iter(lines)
    yield from itertools.islice(iterator, _LISTED)
    if others := sum(1 for _ in iterator):
        yield f"and {others} more like the last"
