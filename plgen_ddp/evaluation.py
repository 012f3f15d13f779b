"""How good pseudo labels are against ground truth of the novel names: COCO's own metrics, right and wrong labels, and
what the region store's boxes find."""

import contextlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from plgen_ddp.box_recall import box_recall, store_to_judge
from plgen_ddp.boxes import covered, ious, match_one_to_one
from plgen_ddp.coco_boxes import (
    BoxFile,
    BoxRow,
    ImageRow,
    boxes_by_image,
    image_difference,
    read_box_file,
    read_ground_truth,
)
from plgen_ddp.errors import UserError
from plgen_ddp.figures import Evaluation, StoreRecall
from plgen_ddp.label_quality import NO_BOXES, RIGHT_IOU, ImageBoxes, JudgedBoxes, judge_boxes, quality_of
from plgen_ddp.published import published_for
from plgen_ddp.store import RegionStore


@dataclass(frozen=True)
class _Compared:
    """What is compared: one set of images, category ids of the ground truth.

    Attributes:
        names: the novel names. ids: their category ids.
        images: those of the ground truth that are evaluated.
        labels: pseudo labels, novel: objects of the novel names, base: of the base names; crowds among both.
    """

    names: list[str]
    ids: list[int]
    images: list[ImageRow]
    labels: list[BoxRow]
    novel: list[BoxRow]
    base: list[BoxRow]


@dataclass(frozen=True, slots=True)
class JudgedFile:
    """An evaluation, and what it says of each label.

    Attributes:
        evaluation: the figures.
        names: the novel names.
        name_of: name of every novel and base category id; the ids are those of the ground truth.
        images: by image id; names are category ids. Labels in a crowd are left out.
        objects: the novel objects of each image that has any, crowds left out.
    """

    evaluation: Evaluation
    names: tuple[str, ...]
    name_of: dict[int, str]
    images: dict[int, JudgedBoxes]
    objects: dict[int, ImageBoxes]


def evaluate(
    labels: Path,
    ground_truth: Path,
    novel: Sequence[str] | None = None,
    *,
    only_images_with_novel: bool = False,
    store: Path | None = None,
) -> Evaluation:
    """Compares the pseudo labels of one COCO-format JSON with the annotations of another.

    Args:
        labels: written by this package; its annotations with `confidence` are the pseudo labels.
        ground_truth: has real annotations of the novel names. Its images are evaluated, as far as `labels` has them.
        novel: the names; those that `labels` says it was made for by default.
        only_images_with_novel: leave out images without a novel object, as the published figures of VL-PLM do.
        store: the region store that the labels were made from, or the `run.output` around it: what its boxes find.

    Raises:
        UserError: an unreadable file, no image in common, an image that is another one in the other file, a name that a
            file lacks or the labels were not made for, labels that are none of this package's, or another store.
    """
    return judge_file(
        labels, ground_truth, novel, only_images_with_novel=only_images_with_novel, store=store
    ).evaluation


def judge_file(
    labels: Path,
    ground_truth: Path,
    novel: Sequence[str] | None = None,
    *,
    only_images_with_novel: bool = False,
    store: Path | None = None,
) -> JudgedFile:
    """`evaluate`, and what it says of each label."""
    made, real = read_box_file(labels, "labels"), read_ground_truth(ground_truth)
    regions = None if store is None else store_to_judge(store, made.recorded("store", "fingerprint"))
    names = _names(made, real, labels, ground_truth, novel)
    compared = _compared(made, real, names, labels, ground_truth, only_images_with_novel=only_images_with_novel)
    run = _coco_eval(compared)
    stats = [float(value) for value in run.stats]
    threshold = made.recorded("label", "score_threshold")
    judged, objects = _judged(compared)
    evaluation = Evaluation(
        AP=stats[0],
        AP50=stats[1],
        AP75=stats[2],
        AP_small=stats[3],
        AP_medium=stats[4],
        AP_large=stats[5],
        AR100=stats[8],
        pls_per_image=len(compared.labels) / len(compared.images),
        pseudo_labels=len(compared.labels),
        images=len(compared.images),
        AP50_by_name=_ap50_by_name(run, compared),
        score_threshold=float(threshold) if isinstance(threshold, int | float) and 0 <= threshold <= 1 else None,
        quality=quality_of(list(judged.values()), sum(len(boxes.names) for boxes in objects.values())),
        base_objects=len(compared.base),
        store=None if regions is None else _store_recall(regions, compared),
        published=published_for(compared.names, compared.images),
    )
    name_of = {category.id: category.name for category in real.categories}
    return JudgedFile(evaluation, tuple(names), name_of, judged, objects)


def _names(made: BoxFile, real: BoxFile, labels: Path, ground_truth: Path, novel: Sequence[str] | None) -> list[str]:
    """The names to evaluate, each of them a category of both files."""
    made_for = made.made_for()
    if novel is None and made_for is None:
        raise UserError(f"{labels} does not say which names it was made for; give them with --novel")
    names = list(dict.fromkeys(novel if novel is not None else made_for or []))
    counts = Counter(category.name for category in real.categories)
    if len(counts) < len(real.categories):
        raise UserError(f"{ground_truth} has two categories with name {counts.most_common(1)[0][0]!r}")
    real.category_ids(names, ground_truth)
    made_names = {category.name for category in made.categories}
    known = set(made_for or [])
    for name in names:
        if made_for is not None and name not in known:
            raise UserError(f"{labels} was not made for {name!r}, only for {', '.join(made_for[:20])}")
        if name not in made_names:
            raise UserError(f"{labels} has no category {name!r}")
    if made_for is None and not made.pseudo_labels():
        raise UserError(f"{labels} has no pseudo labels: no annotation with `confidence`")
    return names


def _compared(
    made: BoxFile, real: BoxFile, names: list[str], labels: Path, ground_truth: Path, *, only_images_with_novel: bool
) -> _Compared:
    ids = {category.name: category.id for category in real.categories}
    # The two files may number their categories differently: names are what they share.
    wanted = set(names)
    to_real = {category.id: ids[category.name] for category in made.categories if category.name in wanted}
    novel_ids = {ids[name] for name in names}
    labelled = {image.id: image for image in made.images}
    images = {image.id: image for image in real.images if image.id in labelled}
    for image in images.values():
        _check_same_image(image, labelled[image.id], labels, ground_truth)
    truths = [box for box in real.annotations if box.category_id in novel_ids and box.image_id in images]
    if images and all(box.iscrowd for box in truths):
        raise UserError(
            f"{ground_truth} has no annotation, or only crowds, of {', '.join(names[:5])} in the images of {labels}"
        )
    if only_images_with_novel:
        with_novel = {box.image_id for box in truths}
        images = {image_id: image for image_id, image in images.items() if image_id in with_novel}
    if not images:
        raise UserError(f"{labels} and {ground_truth} have no image to compare")
    base_names = made.recorded("label", "base")
    if isinstance(base_names, list):
        base_ids = {ids[name] for name in base_names if isinstance(name, str) and name in ids}
    else:
        base_ids = set(ids.values()) - {ids[name] for name in made.made_for() or [] if name in ids}
    base_ids -= novel_ids
    pseudo = [box for box in made.pseudo_labels() if box.image_id in images and box.category_id in to_real]
    for box in pseudo:
        box.category_id = to_real[box.category_id]
    return _Compared(
        names=names,
        ids=[ids[name] for name in names],
        images=list(images.values()),
        labels=pseudo,
        novel=[box for box in truths if box.image_id in images],
        base=[box for box in real.annotations if box.category_id in base_ids and box.image_id in images],
    )


def _check_same_image(real: ImageRow, made: ImageRow, labels: Path, ground_truth: Path) -> None:
    if (what := image_difference(real, made)) is not None:
        raise UserError(
            f"image {real.id} is {what[0]} in {ground_truth} and {what[1]} in {labels}; give the ground truth of the "
            "labelled images"
        )


def _coco_eval(compared: _Compared) -> COCOeval:
    """pycocotools' evaluation of the labels, run and summarised."""
    target = COCO()
    target.dataset = {
        "images": [{"id": image_id} for image_id in sorted(image.id for image in compared.images)],
        "categories": [{"id": number, "name": name} for number, name in zip(compared.ids, compared.names, strict=True)],
        "annotations": [_annotation(number, box) for number, box in enumerate(compared.novel, start=1)],
    }
    found = COCO()
    found.dataset = target.dataset | {
        "annotations": [
            _annotation(number, box) | {"score": box.confidence} for number, box in enumerate(compared.labels, start=1)
        ]
    }
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress and a table of its own
        target.createIndex()
        found.createIndex()
        run = COCOeval(target, found, "bbox")
        # Categories without an object have no figure; of thousands, their loops took nearly all of the time.
        with_objects = {box.category_id for box in compared.novel}
        run.params.catIds = [number for number in compared.ids if number in with_objects]
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def _ap50_by_name(run: COCOeval, compared: _Compared) -> dict[str, float]:
    precision = run.eval["precision"][0, :, :, 0, -1]  # IoU x recall x category x area x detections
    column = {int(number): place for place, number in enumerate(run.params.catIds)}  # which evaluate() has sorted
    by_name = {}
    for name, number in zip(compared.names, compared.ids, strict=True):
        values = precision[:, column[number]] if number in column else precision[:, :0]
        by_name[name] = float(values[values > -1].mean()) if (values > -1).any() else -1.0
    return by_name


def _annotation(number: int, box: BoxRow) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": box.image_id,
        "category_id": box.category_id,
        "bbox": list(box.bbox),
        "area": box.area or box.bbox[2] * box.bbox[3],
        "iscrowd": box.iscrowd,
    }


def _judged(compared: _Compared) -> tuple[dict[int, JudgedBoxes], dict[int, ImageBoxes]]:
    """The judged labels of every image, and the novel objects of those that have any."""
    numbers = {number: number for number in (*compared.ids, *(box.category_id for box in compared.base))}
    labels = boxes_by_image(compared.labels, numbers)
    novel = boxes_by_image((box for box in compared.novel if not box.iscrowd), numbers)
    crowds = boxes_by_image((box for box in compared.novel if box.iscrowd), numbers)
    base = boxes_by_image((box for box in compared.base if not box.iscrowd), numbers)
    judged = {}
    for image in compared.images:
        objects = novel.get(image.id, NO_BOXES)
        counted = _without_crowds(labels.get(image.id, NO_BOXES), objects, crowds.get(image.id))
        judged[image.id] = judge_boxes(counted, objects, base.get(image.id, NO_BOXES))
    return judged, novel


def _without_crowds(labels: ImageBoxes, objects: ImageBoxes, crowds: ImageBoxes | None) -> ImageBoxes:
    """The labels but those that find no object and lie in a crowd of their name: to COCO they are neither right nor
    wrong."""
    if crowds is None:
        return labels
    order = np.argsort(-labels.scores, kind="stable")
    labels = ImageBoxes(labels.boxes_xyxy[order], labels.names[order], labels.scores[order])
    same = labels.names[:, None] == objects.names[None, :]
    right = match_one_to_one(ious(labels.boxes_xyxy, objects.boxes_xyxy), same, RIGHT_IOU)
    in_crowd = covered(labels.boxes_xyxy, crowds.boxes_xyxy) >= RIGHT_IOU
    keep = right | ~(in_crowd & (labels.names[:, None] == crowds.names[None, :])).any(axis=1)
    return ImageBoxes(labels.boxes_xyxy[keep], labels.names[keep], labels.scores[keep])


def _store_recall(store: RegionStore, compared: _Compared) -> StoreRecall:
    objects = {}
    for group, rows in (("base", compared.base), ("novel", compared.novel)):
        whole = [box for box in rows if not box.iscrowd]
        of_image = boxes_by_image(whole, {box.category_id: 0 for box in whole})
        objects[group] = {image_id: boxes.boxes_xyxy for image_id, boxes in of_image.items()}
    return box_recall(store, objects, {image.id: (image.width, image.height) for image in compared.images})
