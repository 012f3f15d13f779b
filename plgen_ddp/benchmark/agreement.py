"""How far the boxes and pseudo labels of one precision are those of another."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from plgen_ddp.benchmark.inputs import Inputs, preset
from plgen_ddp.config import ClipConfig
from plgen_ddp.encoders.loading import fetch_encoder, load_encoder
from plgen_ddp.label.labels import kept_boxes, label_image
from plgen_ddp.label.rule import Rule, name_table
from plgen_ddp.label.text_embeddings import TextEmbeddings
from plgen_ddp.label.vocabulary import read_templates, read_vocabulary
from plgen_ddp.records import PseudoLabels, Regions
from plgen_ddp.store import RegionStore

PRESETS = ("marvelovd", "vlplm")
LABELS_REQUIRE = ("label.vocabulary", "label.templates")
# Two boxes count as the same where their IoU is above this.
_SAME_BOX_IOU = 0.95


@dataclass(frozen=True, slots=True)
class Agreement:
    """A precision's boxes and pseudo labels against those of a reference precision.

    Attributes:
        precision, reference: fp32, bf16, fp16, or detector+CLIP.
        boxes: of the precision, over all images.
        same_boxes: the share of them that have an IoU above 0.95 with a box of the reference in that image.
        changed_labels: for each preset, the share of both sides' pseudo labels without a counterpart on the other side
            of the same image and name with an IoU above 0.95.
        labels: for each preset, how many pseudo labels the reference gives.
    """

    precision: str
    reference: str
    boxes: int
    same_boxes: float
    changed_labels: dict[str, float]
    labels: dict[str, int]


def compare_stores(inputs: Inputs, stores: Mapping[str, RegionStore], reference: str) -> list[Agreement]:
    """Compares each store with that of `reference`: its boxes, and its labels by the two presets' rules and names.

    Args:
        stores: by precision, of the same images.
    """
    boxes = {precision: _boxes(store) for precision, store in stores.items()}
    labels = {precision: dict(_labels(inputs, store)) for precision, store in stores.items()}
    return [
        Agreement(
            precision=precision,
            reference=reference,
            boxes=sum(map(len, found.values())),
            same_boxes=same_boxes(found, boxes[reference]),
            changed_labels={name: changed_labels(labels[precision][name], labels[reference][name]) for name in PRESETS},
            labels={name: len(labels[reference][name]) for name in PRESETS},
        )
        for precision, found in boxes.items()
        if precision != reference
    ]


def same_boxes(found: Mapping[int, Tensor], expected: Mapping[int, Tensor]) -> float:
    """The share of boxes xyxy (n, 4), by image, that have an IoU above 0.95 with an expected one of that image."""
    same = sum(
        int((box_iou(boxes, expected[image_id]).amax(dim=1) > _SAME_BOX_IOU).sum())
        for image_id, boxes in found.items()
        if len(boxes) and len(expected[image_id])
    )
    return same / max(1, sum(map(len, found.values())))


def changed_labels(found: PseudoLabels, expected: PseudoLabels) -> float:
    """The share of both sides' pseudo labels without one of the same image, name and, by IoU above 0.95, box."""
    matched = 0
    for image_id in np.intersect1d(found.image_ids, expected.image_ids):
        (names, boxes), (other_names, other_boxes) = (_of_image(labels, image_id) for labels in (found, expected))
        same = torch.from_numpy(names[:, None] == other_names) & (box_iou(boxes, other_boxes) > _SAME_BOX_IOU)
        matched += int(same.any(dim=1).sum()) + int(same.any(dim=0).sum())
    count = len(found) + len(expected)
    return 1 - matched / count if count else 0.0


def _of_image(labels: PseudoLabels, image_id: int) -> tuple[np.ndarray, Tensor]:
    """Category ids (n,) and boxes xyxy (n, 4)."""
    own = labels.image_ids == image_id
    low, size = np.split(labels.boxes_xywh[own], 2, axis=1)
    return labels.category_ids[own], torch.from_numpy(np.concatenate([low, low + size], axis=1))


def _boxes(store: RegionStore) -> dict[int, Tensor]:
    """Boxes xyxy (n, 4) by image."""
    return {
        image.image_id: torch.from_numpy(image.boxes_xyxy.copy())
        for path in store.part_paths()
        for image in store.read_part(path)
    }


def _labels(inputs: Inputs, store: RegionStore) -> Iterator[tuple[str, PseudoLabels]]:
    """Each preset and its pseudo labels. Category ids are positions among its novel names."""
    images = [image for path in store.part_paths() for image in store.read_part(path) if image.failure is None]
    manifest = store.manifest()
    for name in PRESETS:
        config = preset(name, inputs.overrides, LABELS_REQUIRE)
        vocabulary = read_vocabulary(config)
        cache = TextEmbeddings(inputs.folder / "vocabulary", read_templates(config), manifest.dim)

        def text_encoder(options: ClipConfig = config.clip) -> Callable[[Sequence[str]], Tensor]:
            return load_encoder(options, fetch_encoder(options), torch.device("cpu"), "fp32").encode_texts

        table = name_table(vocabulary, (), config.label)
        rule = Rule(config.label, table, cache.embed(table.words, text_encoder), manifest.similarity)
        yield name, PseudoLabels.concatenate([_label(image, rule) for image in images])


def _label(image: Regions, rule: Rule) -> PseudoLabels:
    scored = rule.score(image, rule.cosines(image), extent=(1, 1))  # the recipes look at no extent
    kept = kept_boxes(image.boxes_xyxy, scored, np.empty((0, 4)), rule.options, rule.options.score_threshold)
    return label_image(image, scored, kept, np.arange(rule.table.novel))
