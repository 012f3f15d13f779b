"""What a detector training reads of its COCO-format JSON files. Knows neither detectron2 nor torch's loaders.

Only the annotations of base categories become objects, and with `data.pseudo_labels` the pseudo labels of a labelled
JSON. All of them become one class. The audit of that JSON alone decodes novel annotations, and it returns none of them.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plgen_ddp.coco import Annotation, CocoFile
from plgen_ddp.errors import UserError
from plgen_ddp.image_files import ImageIndex, index_images
from plgen_ddp.label.vocabulary import read_vocabulary
from plgen_ddp.options import given
from plgen_ddp.plurals import counted
from plgen_ddp.train.config import ProposalTrainingConfig
from plgen_ddp.train.pseudo_labels import read_pseudo_labels


@dataclass(frozen=True, slots=True)
class TrainingObject:
    """One object to learn from.

    Attributes:
        box_xywh: original pixels.
        mask: polygons float64 (x0, y0, x1, ...) in original pixels, or COCO's compressed run lengths with the keys
            `size` (height, width) and `counts`; None for a pseudo label, and where the detector learns no masks.
    """

    box_xywh: tuple[float, float, float, float]
    mask: list[np.ndarray] | dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class TrainingImage:
    """One image to learn from, `height` x `width` pixels. `path` begins with the image root, `root`.

    `objects` are those of base categories, none a crowd, then the pseudo labels.
    """

    image_id: int
    root: str
    path: Path
    height: int
    width: int
    objects: tuple[TrainingObject, ...]


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """Validation images, and their boxes by image id: float32 (m, 4), xyxy in original pixels, without crowds."""

    index: ImageIndex
    base: dict[int, np.ndarray]
    novel: dict[int, np.ndarray]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a training learns from, and what it is measured on.

    Attributes:
        images: in ascending id, each with an object.
        annotations_sha256, base_sha256: digests of the JSON's content and of the ids of its base categories.
        pseudo_labels_sha256: digest of the content of `data.pseudo_labels`; None without it.
        pseudo_labels: how many of the objects are pseudo labels.
        validation: None without `data.validation_annotations`.
    """

    images: list[TrainingImage]
    annotations_sha256: str
    base_sha256: str
    pseudo_labels_sha256: str | None
    pseudo_labels: int
    validation: GroundTruth | None

    def summary(self) -> str:
        """What is learned, in a phrase for people."""
        objects = sum(len(image.objects) for image in self.images)
        labels = f" and {counted(self.pseudo_labels, 'pseudo label')}" if self.pseudo_labels_sha256 else ""
        base = counted(objects - self.pseudo_labels, "base annotation")
        return f"{base}{labels} on {counted(len(self.images), 'image')}"

    @property
    def has_run_lengths(self) -> bool:
        """Whether some mask is given as run lengths and not as polygons."""
        return any(isinstance(item.mask, dict) for image in self.images for item in image.objects)


def read_training_data(config: ProposalTrainingConfig, *, with_masks: bool) -> TrainingData:
    """Reads both JSON files and looks for every image file.

    Args:
        with_masks: whether the detector learns masks. An annotation without a mask is then left out.

    Raises:
        UserError: a missing option or file, no base annotation to learn from, or what `read_pseudo_labels` raises.
    """
    path = Path(given(config.data.annotations))
    coco = CocoFile(path, "data.annotations")
    vocabulary = read_vocabulary(config, "data.vocabulary").of_json(coco, "data.vocabulary")
    _, base_ids = vocabulary.category_ids(coco.categories(), "data.vocabulary")
    annotations = coco.annotations(base_ids)
    if not annotations:
        raise UserError(f"data.annotations: {path} has no annotation of a base category of data.vocabulary")
    annotations = [annotation for annotation in annotations if not annotation.iscrowd]
    if not annotations:
        raise UserError(f"data.annotations: every base annotation of {path} is a crowd; there is nothing to learn from")
    objects: dict[int, list[TrainingObject]] = {}
    for annotation in annotations:
        mask = _mask(annotation) if with_masks else None
        if mask or not with_masks:
            objects.setdefault(annotation.image_id, []).append(TrainingObject(annotation.bbox, mask))
    if not objects:
        raise UserError(
            f"data.annotations: no base annotation of {path} has a mask to learn from; "
            "give one, or set MODEL.MASK_ON: false in detector.config"
        )
    pseudo = read_pseudo_labels(config, coco, vocabulary.novel)
    if pseudo is not None:
        for image_id, box in zip(pseudo.image_ids.tolist(), pseudo.boxes_xywh.tolist(), strict=True):
            objects.setdefault(image_id, []).append(TrainingObject(tuple(box), None))
    used = [image for image in coco.images() if image.id in objects]
    index = index_images(used, given(config.data.image_root), path, follow_links=config.data.follow_links)
    _check_files(index, "data.image_root")
    images = [
        TrainingImage(image.id, index.root, index.path(position), image.height, image.width, tuple(objects[image.id]))
        for position, image in enumerate(used)
    ]
    base_sha256 = hashlib.sha256(json.dumps(sorted(base_ids)).encode()).hexdigest()
    return TrainingData(
        images=images,
        annotations_sha256=coco.sha256,
        base_sha256=base_sha256,
        pseudo_labels_sha256=None if pseudo is None else pseudo.sha256,
        pseudo_labels=0 if pseudo is None else len(pseudo.image_ids),
        validation=_read_ground_truth(config),
    )


def _mask(annotation: Annotation) -> list[np.ndarray] | dict[str, Any] | None:
    """The annotation's mask as a `TrainingObject` holds it; None where it has no polygon of three points."""
    mask = annotation.segmentation
    if isinstance(mask, dict):
        if not isinstance(mask.get("counts"), list):
            return mask
        from pycocotools.mask import frPyObjects

        return frPyObjects(mask, *mask["size"])
    # An array takes about a third of the memory of a list of floats.
    return [np.array(polygon) for polygon in mask or [] if len(polygon) % 2 == 0 and len(polygon) >= 6] or None


def _read_ground_truth(config: ProposalTrainingConfig) -> GroundTruth | None:
    if config.data.validation_annotations is None:
        return None
    path = Path(config.data.validation_annotations)
    coco = CocoFile(path, "data.validation_annotations")
    split = read_vocabulary(config, "data.vocabulary").of_json(coco, "data.vocabulary")
    novel_ids, base_ids = split.category_ids(coco.categories(), "data.vocabulary")
    own_root = config.data.validation_image_root
    root = own_root or given(config.data.image_root)
    index = index_images(coco.images(), root, path, follow_links=config.data.follow_links)
    _check_files(index, "data.validation_image_root" if own_root else "data.image_root")
    return GroundTruth(
        index,
        base=_boxes_by_image(coco.annotations(base_ids)),
        novel=_boxes_by_image(coco.annotations(set(novel_ids))),
    )


def _boxes_by_image(annotations: Iterable[Annotation]) -> dict[int, np.ndarray]:
    corners: dict[int, list[tuple[float, float, float, float]]] = {}
    for annotation in annotations:
        x, y, width, height = annotation.bbox
        if not annotation.iscrowd:
            corners.setdefault(annotation.image_id, []).append((x, y, x + width, y + height))
    return {image_id: np.array(found, np.float32) for image_id, found in corners.items()}


def _check_files(index: ImageIndex, key: str) -> None:
    missing = [path for path in map(index.path, range(len(index))) if not path.is_file()]
    if missing:
        raise UserError(f"{key}: {len(missing)} of {len(index)} images have no file, the first is {missing[0]}")
