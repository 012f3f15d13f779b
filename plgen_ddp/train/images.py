"""Training batches: images decoded and augmented on threads, in an endless order.

Neither the order nor an image's augmentation depends on the number of threads: both follow from the seed alone, the
augmentation from the seed and the image's place in the order. A resumed training goes on in the same order.
"""

import contextlib
import copy
import itertools
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from plgen_ddp.console import print_line
from plgen_ddp.errors import UserError, one_line
from plgen_ddp.image_rules import DEFAULT_RULES, ImageRules
from plgen_ddp.safe_reading import read_image
from plgen_ddp.score.decode import DecodeError, decode_bgr
from plgen_ddp.score.images import run_ahead
from plgen_ddp.train.data import TrainingImage, TrainingObject

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # as in plgen_ddp.score.mask_rcnn
    from detectron2.config import CfgNode
    from detectron2.data import DatasetMapper
    from detectron2.data import transforms as T
    from detectron2.data.common import AspectRatioGroupedDataset
    from detectron2.data.detection_utils import (
        annotations_to_instances,
        filter_empty_instances,
        transform_instance_annotations,
    )
    from detectron2.structures import BoxMode

# Batches that wait for their step: enough for a slow file now and then.
_BATCHES_AHEAD = 4
# Held while an augmentation draws: detectron2's draw from numpy's one global random state.
_drawing = threading.Lock()


class EndlessSampler(Sampler[tuple[int, int]]):
    """One rank's share of an endless order of images: shuffled anew in every pass, dealt round-robin to the ranks.

    Yields (place in the order of all ranks, number of the image).
    """

    def __init__(self, length: int, seed: int, start: int = 0, rank: int = 0, ranks: int = 1) -> None:
        """
        Args:
            length: images in a pass.
            start: the first place that any rank takes.
        """
        self._length = length
        self._seed = seed
        self._start = start
        self._rank = rank
        self._ranks = ranks

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return itertools.islice(enumerate(self._order()), self._start + self._rank, None, self._ranks)

    def _order(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            yield from torch.randperm(self._length, generator=generator).tolist()


class TrainingImages(Dataset[dict[str, Any] | None]):
    """Images by (place, number), decoded and augmented as detectron2's models take them. None: an unreadable image.

    The decoder is stage 1's, so a detector sees the same pixels in training and in use.
    """

    def __init__(
        self,
        images: Sequence[TrainingImage],
        cfg: CfgNode,
        seed: int,
        pool: ThreadPoolExecutor | None = None,
        rules: ImageRules = DEFAULT_RULES,
    ) -> None:
        """
        Args:
            cfg: INPUT decides augmentation and colour order.
            pool: reads a batch's images side by side; None reads them one by one.
            rules: what a file must be to be read; others are left out.
        """
        self._rules = rules
        self._images = images
        self._seed = seed
        self._pool = pool
        options = DatasetMapper.from_config(cfg, is_train=True)
        self._augmentations = options["augmentations"]
        self._rgb = options["image_format"] == "RGB"
        self._mask_format = options["instance_mask_format"]
        self._boxes_from_masks = options["recompute_boxes"]  # a random crop cuts masks and boxes differently
        self._masks = cfg.MODEL.MASK_ON

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any] | None:
        place, number = key
        image = self._images[number]
        try:
            data = read_image(image.path, image.root, self._rules)
            pixels = decode_bgr(data, image.height, image.width, self._rules)
        except (OSError, DecodeError) as error:
            print_line(f"left out image {image.image_id}: {image.path}: {one_line(error)}", error=True)
            return None
        augmented = T.AugInput(np.ascontiguousarray(pixels[:, :, ::-1]) if self._rgb else pixels)
        transforms = T.AugmentationList(
            [_Seeded(augmentation, (self._seed, place, step)) for step, augmentation in enumerate(self._augmentations)]
        )(augmented)
        return {
            "image_id": image.image_id,
            "height": image.height,
            "width": image.width,
            "image": torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1))),
            "instances": self._instances(image.objects, transforms, augmented.image.shape[:2]),
        }

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[dict[str, Any] | None]:
        return list((self._pool.map if self._pool else map)(self.__getitem__, keys))

    def _instances(self, objects: Sequence[TrainingObject], transforms: Any, shape: tuple[int, int]) -> Any:
        """detectron2's ground truth of one image: boxes, masks, and class 0 for all.

        An object without a mask has its box there, because detectron2 drops objects without one; `gt_has_mask`, bool
        (n,), says for which objects the mask is real.
        """
        rows: list[dict[str, Any]] = [
            {"bbox": list(item.box_xywh), "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0} for item in objects
        ]
        for row, item in zip(rows, objects, strict=True):
            if self._masks:  # a copy: the transforms move polygons in place
                row["segmentation"] = [_outline(item.box_xywh)] if item.mask is None else copy.deepcopy(item.mask)
        moved = [transform_instance_annotations(row, transforms, shape) for row in rows]
        instances = annotations_to_instances(moved, shape, mask_format=self._mask_format)
        if self._masks:
            instances.gt_has_mask = torch.tensor([item.mask is not None for item in objects])
        if self._boxes_from_masks:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return filter_empty_instances(instances)


def _outline(box_xywh: tuple[float, float, float, float]) -> np.ndarray:
    """A box as a polygon, float64 (8,): x, y of its corners in turn."""
    x, y, width, height = box_xywh
    return np.array([x, y, x + width, y, x + width, y + height, x, y + height], np.float64)


class _Seeded(T.Augmentation):
    """An augmentation whose draw follows from `seeds` alone, whatever other threads draw meanwhile."""

    def __init__(self, augmentation: T.Augmentation, seeds: tuple[int, ...]) -> None:
        self._augmentation = augmentation
        self._seeds = seeds

    def get_transform(self, image: np.ndarray) -> Any:
        with _drawing:
            before = np.random.get_state()  # noqa: NPY002
            try:
                np.random.seed(self._seeds)  # noqa: NPY002
                return self._augmentation.get_transform(image)
            finally:
                np.random.set_state(before)  # noqa: NPY002


@contextlib.contextmanager
def training_batches(
    images: Sequence[TrainingImage],
    cfg: CfgNode,
    sampler: EndlessSampler,
    size: int,
    seed: int,
    workers: int,
    rules: ImageRules = DEFAULT_RULES,
) -> Iterator[Iterator[list[dict[str, Any]]]]:
    """Endless batches of `size` images, made ahead of their step; on leaving, no thread of it is left.

    The images of a batch are all wide or all high, as detectron2 groups them, unless `cfg` says otherwise.

    Args:
        workers: decoding threads; 0 decodes an image when a step needs it, without any thread.
        rules: what a file must be to be read; others are left out.
    """
    cv2.setNumThreads(1)  # the workers are the parallelism
    with ThreadPoolExecutor(workers, "decoder") if workers else contextlib.nullcontext() as pool:
        loader = DataLoader(
            TrainingImages(images, cfg, seed, pool, rules),
            batch_size=2 * workers or 1,  # what is read at once; a training batch is put together below
            sampler=sampler,
            collate_fn=list,
            num_workers=0,
            generator=torch.Generator(),  # or a loader would draw from the random state of its caller
        )
        readable = _readable(itertools.chain.from_iterable(loader), len(images))
        group = AspectRatioGroupedDataset if cfg.DATALOADER.ASPECT_RATIO_GROUPING else _in_order
        batches = group(readable, size)
        if not workers:
            yield iter(batches)
            return
        with run_ahead(batches, _BATCHES_AHEAD) as ahead:
            yield ahead


def _readable(images: Iterable[dict[str, Any] | None], in_a_pass: int) -> Iterator[dict[str, Any]]:
    """The images without those that could not be read; raises when there are no others."""
    unreadable = 0
    for image in images:
        unreadable = 0 if image is not None else unreadable + 1
        if image is not None:
            yield image
        elif unreadable >= in_a_pass:
            raise UserError(
                f"data.image_root: {unreadable} images in a row could not be read; log/ in run.output says why"
            )


def _in_order(images: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while True:
        yield list(itertools.islice(images, size))
