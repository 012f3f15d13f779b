"""How many objects the store's boxes find, whatever their names: an upper bound of every labelling of the store."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from plgen_ddp.boxes import ious, match_one_to_one
from plgen_ddp.errors import UserError
from plgen_ddp.figures import BoxRecall, StoreRecall
from plgen_ddp.records import Regions
from plgen_ddp.store import RegionStore

LIMITS = (10, 50, 100)
"""Recall is counted with this number of an image's first boxes."""

IOUS = (0.5, 0.75, 0.9)
"""IoUs from which a box finds an object."""


def store_to_judge(folder: Path, made_from: object = None) -> RegionStore:
    """The region store in a folder, or in its `store`: `run.output` names the folder around it.

    Args:
        made_from: the fingerprint of the store that labels were made from; None where they do not say.

    Raises:
        UserError: no store there, or another one than the labels'.
    """
    places = [place for place in (folder, folder / "store") if (place / "manifest.json").is_file()]
    if not places:
        raise UserError(f"--store: no region store at {folder}; it takes run.output, or the folder `store` in it")
    store = RegionStore(places[0])
    if made_from not in (None, store.manifest().fingerprint()):
        raise UserError(f"--store: the labels were made from another store than {places[0]}")
    return store


def box_recall(
    store: RegionStore,
    objects: Mapping[str, Mapping[int, np.ndarray]],
    extents: Mapping[int, tuple[int | None, int | None]],
) -> StoreRecall:
    """Recall of the store's boxes, by falling objectness, for groups of objects.

    An image that the store lacks, or that failed, finds nothing.

    Args:
        objects: for each group, the boxes of every image that has any: float64 (n, 4) xyxy, without crowds.
        extents: (width, height) in pixels of every image to look at; None where it is not known.

    Raises:
        UserError: the store has none of the images, or has boxes outside of one.
    """
    part_of = store.part_of_images()
    stored = [image_id for image_id in extents if image_id in part_of]
    if not stored:
        raise UserError(f"--store: {store.folder} has none of the images that are evaluated")
    found = {group: np.zeros((len(LIMITS), len(IOUS)), np.int64) for group in objects}
    for path in sorted({part_of[image_id] for image_id in stored}):
        for image in store.read_part(path, embeddings=False):
            if image.image_id in extents and part_of[image.image_id] == path:
                _check_extent(store, image, extents[image.image_id])
                boxes = image.boxes_xyxy[np.argsort(-image.objectness, kind="stable")].astype(np.float64)
                for group, of_image in objects.items():
                    if image.image_id in of_image:
                        found[group] += recalled(boxes, of_image[image.image_id], LIMITS, IOUS)
    counts = {group: sum(map(len, of_image.values())) for group, of_image in objects.items()}
    shares = {group: found[group] / counts[group] if counts[group] else found[group] - 1.0 for group in objects}
    rows = tuple(
        BoxRecall(group, limit, iou, counts[group], float(shares[group][row, column]))
        for group in objects
        for row, limit in enumerate(LIMITS)
        for column, iou in enumerate(IOUS)
    )
    return StoreRecall(rows, absent=len(extents) - len(stored))


def recalled(
    boxes_xyxy: np.ndarray, objects_xyxy: np.ndarray, limits: Sequence[int], thresholds: Sequence[float]
) -> np.ndarray:
    """How many objects of one image its first boxes find, one to one, as COCO's average recall counts them.

    Args:
        boxes_xyxy: float64 (n, 4), best box first.
        objects_xyxy: float64 (m, 4), without crowds.
        limits: how many boxes count.
        thresholds: IoUs.

    Returns:
        int64 (len(limits), len(thresholds)).
    """
    overlap = ious(boxes_xyxy[: max(limits)], objects_xyxy)
    anything = np.ones_like(overlap, dtype=bool)
    finds = np.stack([match_one_to_one(overlap, anything, threshold) for threshold in thresholds])
    return np.stack([finds[:, :limit].sum(axis=1) for limit in limits])


def _check_extent(store: RegionStore, image: Regions, extent: tuple[int | None, int | None]) -> None:
    """Boxes outside the image show that the ground truth describes other images than those that were scored."""
    width, height = extent
    if width is None or height is None or not len(image.boxes_xyxy):
        return
    if (image.boxes_xyxy[:, 2:] > np.array([width, height])).any():
        raise UserError(
            f"--store: image {image.image_id} is {width} x {height}, and {store.folder} has boxes of it that lie "
            "outside; the store was made from other images"
        )
