"""How good pseudo labels are: COCO's own metrics against ground truth of the novel names."""

import contextlib
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from plgen_ddp.coco import Category, read_json
from plgen_ddp.errors import UserError, suggestion
from plgen_ddp.records import Evaluation


class _Box(msgspec.Struct):
    """What evaluation reads of an annotation; `confidence` marks a pseudo label."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0
    area: float | None = None
    confidence: float | None = None


class _Image(msgspec.Struct):
    id: int


class _Labels(msgspec.Struct):
    images: list[_Image]
    categories: list[Category]
    annotations: list[_Box] = []
    info: Any = None


def evaluate(
    labels: Path, ground_truth: Path, novel: Sequence[str] | None = None, *, only_images_with_novel: bool = False
) -> Evaluation:
    """Compares the pseudo labels of one COCO-format JSON with the annotations of another.

    Args:
        labels: written by this package; its annotations with `confidence` are the pseudo labels.
        ground_truth: has real annotations of the novel names. Its images are evaluated, as far as `labels` has them.
        novel: the names; those that `labels` says it was made for by default.
        only_images_with_novel: leave out images without a novel object, as the published figures of VL-PLM do.

    Raises:
        UserError: an unreadable file, no image in common, a name that a file lacks or the labels were not made for, or
            labels that are none of this package's.
    """
    made, real = _read(labels, "labels"), _read(ground_truth, "ground truth")
    made_for = _names_of(made)
    if novel is None and made_for is None:
        raise UserError(f"{labels} does not say which names it was made for; give them with --novel")
    names = list(dict.fromkeys(novel if novel is not None else made_for or []))
    if _names_of(real) is not None and any(box.confidence is not None for box in real.annotations):
        raise UserError(f"{ground_truth} is a file of pseudo labels; --ground-truth takes real annotations")
    ids = {category.name: category.id for category in real.categories}
    if len(ids) < len(real.categories):
        counts = Counter(category.name for category in real.categories)
        raise UserError(f"{ground_truth} has two categories with name {counts.most_common(1)[0][0]!r}")
    made_names = {category.name for category in made.categories}
    for name in names:
        if name not in ids:
            raise UserError(f"{ground_truth} has no category {name!r}{suggestion(name, ids)}")
        if made_for is not None and name not in made_for:
            raise UserError(f"{labels} was not made for {name!r}, only for {', '.join(made_for)}")
        if name not in made_names:
            raise UserError(f"{labels} has no category {name!r}")
    if made_for is None and all(box.confidence is None for box in made.annotations):
        raise UserError(f"{labels} has no pseudo labels: no annotation with `confidence`")
    # The two files may number their categories differently: names are what they share.
    to_real = {category.id: ids[category.name] for category in made.categories if category.name in set(names)}
    wanted = {ids[name] for name in names}
    images = {image.id for image in real.images} & {image.id for image in made.images}
    truths = [box for box in real.annotations if box.category_id in wanted and box.image_id in images]
    if images and all(box.iscrowd for box in truths):
        raise UserError(
            f"{ground_truth} has no annotation, or only crowds, of {', '.join(names[:5])} in the images of {labels}"
        )
    if only_images_with_novel:
        images &= {box.image_id for box in truths}
    if not images:
        raise UserError(f"{labels} and {ground_truth} have no image to compare")
    pseudo = [
        box
        for box in made.annotations
        if box.confidence is not None and box.image_id in images and box.category_id in to_real
    ]
    target = COCO()
    target.dataset = {
        "images": [{"id": image_id} for image_id in sorted(images)],
        "categories": [{"id": ids[name], "name": name} for name in names],
        "annotations": [
            _annotation(number, box, box.category_id)
            for number, box in enumerate(truths, start=1)
            if box.image_id in images
        ],
    }
    found = COCO()
    found.dataset = target.dataset | {
        "annotations": [
            _annotation(number, box, to_real[box.category_id]) | {"score": box.confidence}
            for number, box in enumerate(pseudo, start=1)
        ]
    }
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress and a table of its own
        target.createIndex()
        found.createIndex()
        run = COCOeval(target, found, "bbox")
        run.params.catIds = [ids[name] for name in names]
        run.evaluate()
        run.accumulate()
        run.summarize()
    stats = [float(value) for value in run.stats]
    precision_at_50 = run.eval["precision"][0, :, :, 0, -1]  # IoU x recall x category x area x detections
    by_name = {}
    for name in names:
        values = precision_at_50[:, run.params.catIds.index(ids[name])]  # which evaluate() has sorted
        by_name[name] = float(values[values > -1].mean()) if (values > -1).any() else -1.0
    return Evaluation(
        AP=stats[0],
        AP50=stats[1],
        AP75=stats[2],
        AP_small=stats[3],
        AP_medium=stats[4],
        AP_large=stats[5],
        AR100=stats[8],
        pls_per_image=len(pseudo) / len(images),
        pseudo_labels=len(pseudo),
        images=len(images),
        AP50_by_name=by_name,
    )


def _annotation(number: int, box: _Box, category_id: int) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": box.image_id,
        "category_id": category_id,
        "bbox": list(box.bbox),
        "area": box.area or box.bbox[2] * box.bbox[3],
        "iscrowd": box.iscrowd,
    }


def _read(path: Path, what: str) -> _Labels:
    try:
        return msgspec.json.decode(read_json(path), type=_Labels)
    except OSError as error:
        raise UserError(f"cannot read the {what} {path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the {what} {path} is not a COCO-format JSON: {error}") from None


def _names_of(made: _Labels) -> list[str] | None:
    """The names that the file says it was made for."""
    try:
        names = made.info["plgen_ddp"]["label"]["novel"]
    except (TypeError, KeyError):
        return None
    return names if isinstance(names, list) and names and all(isinstance(name, str) for name in names) else None
