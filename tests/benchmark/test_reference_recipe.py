"""The reference recipe itself: what it must get right before anything is compared with it."""

import copy
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from commands import REPOSITORY
from PIL import Image
from small_datasets import COCO_MINI
from torchvision.ops import box_iou

from plgen_ddp.benchmark.reference_recipe import (
    Recipe,
    ReferenceEvidence,
    ReferenceRegions,
    crop_window,
    reference_evidence,
    reference_labels,
    reference_proposals,
    reference_regions,
    reference_text_embeddings,
)
from plgen_ddp.benchmark.seeded_models import write_tiny_clip, write_tiny_detector

SCENES = REPOSITORY / "plgen_ddp" / "demo" / "data" / "demo"
PHOTOS = COCO_MINI / "val2017"
NAMES = ["umbrella", "cow", "cup", "bus", "keyboard", "skateboard", "dog", "couch", "tie", "snowboard", "elephant"]
TEMPLATES = ["a photo of {article} {}.", "There is the {} in the scene.", "itap of my {}."]


@pytest.fixture(scope="module", params=[SCENES, PHOTOS], ids=["scenes", "photos"])
def images(request: pytest.FixtureRequest) -> list[np.ndarray]:
    paths = sorted(request.param.glob("*.jpg"))[:4]
    if not paths:
        pytest.skip(f"no photos under {request.param}")
    return [np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR)) for path in paths]


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    config_path, weights_path = write_tiny_detector(tmp_path_factory.mktemp("detector"))
    cfg = get_cfg()
    cfg.merge_from_file(str(config_path), allow_unsafe=False)
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).eval()
    model.load_state_dict(torch.load(weights_path, weights_only=True)["model"], strict=True)
    return model, cfg


@pytest.fixture(scope="module", params=["ViT", "RN"])
def clip_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    import clip

    path = write_tiny_clip(tmp_path_factory.mktemp(request.param), kind=request.param)
    return clip.load(str(path), device="cpu")


@pytest.fixture(scope="module")
def regions(images: list[np.ndarray], detector: tuple[Any, Any], clip_model: tuple[Any, Any]) -> list[ReferenceRegions]:
    return [reference_regions(*detector, *clip_model, image) for image in images]


@pytest.fixture(scope="module")
def evidence(detector: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ReferenceEvidence]:
    """`reference_evidence` of an image, of every box unless `min_size` says otherwise."""
    import clip

    clip_model = clip.load(str(write_tiny_clip(tmp_path_factory.mktemp("clip"))), device="cpu")
    return lambda image, min_size=0.0, **options: reference_evidence(
        *detector, *clip_model, image, Recipe(min_size=min_size, **options)
    )


def test_refining_only_the_kept_boxes_is_bit_equal(images: list[np.ndarray], detector: tuple[Any, Any]) -> None:
    for image in images:
        all_boxes, all_objectness = reference_proposals(*detector, image)
        boxes, objectness = reference_proposals(*detector, image, refine_first=100)
        assert len(all_boxes) > 300
        assert torch.equal(boxes, all_boxes[:100])
        assert torch.equal(objectness, all_objectness[:100])


def test_refinement_moves_boxes_but_keeps_them_boxes(images: list[np.ndarray], detector: tuple[Any, Any]) -> None:
    for image in images:
        before, _ = reference_proposals(*detector, image, refine_steps=0, refine_first=100)
        after, _ = reference_proposals(*detector, image, refine_steps=10, refine_first=100)
        growth = (after[:, 2:] - after[:, :2]) / (before[:, 2:] - before[:, :2])
        assert (growth > 0).all()
        assert 0.5 < growth.median() < 2
        assert (after - before).abs().amax(dim=1).median() > 1


def test_regions_are_ordered_inside_the_image_and_varied(
    images: list[np.ndarray], regions: list[ReferenceRegions]
) -> None:
    for image, (boxes, objectness, embeddings) in zip(images, regions, strict=True):
        height, width = image.shape[:2]
        sizes = boxes[:, 2:] - boxes[:, :2]
        assert 30 <= len(boxes) <= 100
        assert (objectness[:-1] >= objectness[1:]).all()
        assert (boxes >= 0).all() and (boxes[:, ::2] <= width).all() and (boxes[:, 1::2] <= height).all()
        assert (sizes >= 5).all()
        areas = sizes.prod(dim=1)
        assert areas.max() > 10 * areas.min()
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(len(boxes)))
    objectness = torch.cat([image.objectness for image in regions])
    assert objectness.min() < 0.3 and objectness.max() > 0.8
    assert sum(len(image.boxes_xyxy) for image in regions) < 100 * len(regions), "no box was dropped as too small"


def test_seeded_models_give_both_sure_and_unsure_labels(
    regions: list[ReferenceRegions], clip_model: tuple[Any, Any]
) -> None:
    texts = reference_text_embeddings(clip_model[0], NAMES, TEMPLATES)
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(len(NAMES)))
    images = torch.cat([image.embeddings for image in regions])
    probabilities, names = torch.softmax(images @ texts.T / 0.01, dim=1).max(dim=1)
    assert (probabilities < 0.5).any() and (probabilities > 0.8).any()
    assert len(names.unique()) >= 4


def test_crop_window_is_scaled_about_its_centre_then_clipped() -> None:
    assert crop_window([10, 20, 30, 60], 1.5, 100, 100) == (5, 10, 35, 70)
    assert crop_window([0, 20, 30, 90], 1.5, 100, 40) == (0, 2.5, 37.5, 100)


def test_pillow_rounds_crop_edges_half_to_even() -> None:
    columns = np.tile(np.arange(20, dtype=np.uint8), (4, 1))
    crop = Image.fromarray(columns).crop((2.5, 0, 5.5, 4))
    assert np.asarray(crop)[0].tolist() == [2, 3, 4, 5]


def test_axes_are_scaled_back_by_their_own_ratio(detector: tuple[Any, Any]) -> None:
    # 501 x 333 becomes 289 x 192: the ratios differ by 0.04 %, which at the right edge is a fifth of a pixel. Anchors
    # that reach over the edge are clipped to the network's input, so some proposals end exactly at the image's edge.
    image = np.random.default_rng(0).integers(0, 256, (333, 501, 3), dtype=np.uint8)
    boxes, _ = reference_proposals(*detector, image, refine_steps=0)
    assert boxes[:, 2].max() == pytest.approx(501, abs=1e-3)
    assert boxes[:, 3].max() == pytest.approx(333, abs=1e-3)


def test_an_underscore_is_a_space_and_the_article_follows_the_name(clip_model: tuple[Any, Any]) -> None:
    model, _ = clip_model
    plain = reference_text_embeddings(model, ["hot dog", "umbrella"], ["a photo of {article} {}."])
    assert torch.equal(plain[:1], reference_text_embeddings(model, ["hot_dog"], ["a photo of {article} {}."]))
    torch.testing.assert_close(plain[0], reference_text_embeddings(model, ["hot dog"], ["a photo of a {}."])[0])
    torch.testing.assert_close(plain[1], reference_text_embeddings(model, ["umbrella"], ["a photo of an {}."])[0])


def _cosines(probabilities: list[list[float]]) -> torch.Tensor:
    """Cosines whose softmax at temperature 0.01 is `probabilities`, each row summing to 1."""
    return 0.01 * torch.tensor(probabilities, dtype=torch.float64).log()


BOXES = torch.tensor(
    [
        [0.0, 0.0, 100.0, 100.0],
        [0.0, 0.0, 100.0, 90.0],  # IoU 0.9 with the first
        [0.0, 0.0, 100.0, 60.0],  # IoU 0.6 with the first, which is not above 0.6
        [0.0, 0.0, 100.0, 90.0],  # the second box with the other name
        [200.0, 10.0, 260.5, 30.25],
    ]
)
PROBABILITIES = [[0.9, 0.1], [0.95, 0.05], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55]]


def test_marvelovd_labels_by_hand() -> None:
    objectness = torch.tensor([0.9, 0.1, 0.7, 0.6, 0.25])
    labels = reference_labels(7, BOXES, objectness, _cosines(PROBABILITIES), [5, 28], "marvelovd", first_id=-3)
    # The second box scores highest and drops the first (IoU 0.9) and the third (2/3), both of its name.
    assert [label["bbox"] for label in labels] == [[0, 0, 100, 90], [0, 0, 100, 90], [200, 10, 60.5, 20.25]]
    assert [label["category_id"] for label in labels] == [5, 28, 28]
    assert [label["id"] for label in labels] == [-3, -4, -5]
    assert [label["confidence"] for label in labels] == pytest.approx([0.95, 0.7, 0.55])
    assert [label["clip_score"] for label in labels] == [label["confidence"] for label in labels]
    assert [label["rpn_score"] for label in labels] == pytest.approx([0.1, 0.6, 0.25])
    assert labels[0]["segmentation"] == [[]] and labels[0]["area"] == 0 and labels[0]["iscrowd"] == 0
    assert labels[0]["thing_isNovel"] is True and labels[0]["thing_isBase"] is False
    assert labels[0]["image_id"] == 7


def test_vlplm_labels_by_hand() -> None:
    objectness = torch.tensor([0.9, 0.5, 0.9, 0.95, 1.0])
    labels = reference_labels(7, BOXES, objectness, _cosines(PROBABILITIES), [5, 28], "vlplm")
    # Fused 0.9, 0.725, 0.85, 0.825, 0.775. The third overlaps the first by exactly 0.6 and stays.
    assert [label["bbox"][3] for label in labels] == [100, 60, 90]
    assert [label["category_id"] for label in labels] == [5, 5, 28]
    assert [label["confidence"] for label in labels] == pytest.approx([0.9, 0.85, 0.825])
    assert "clip_score" not in labels[0] and "rpn_score" not in labels[0]


def test_a_score_at_the_threshold_is_not_above_it() -> None:
    # Two equal cosines give probability 0.5; a single name gives 1, and 0.5 x 0.6 + 0.5 x 1 is 0.8 in float64 as well.
    tied, sure = torch.tensor([[0.2, 0.2]]), torch.tensor([[0.2]])
    at = torch.tensor([0.6], dtype=torch.float64)
    assert reference_labels(1, BOXES[:1], at, tied, [5, 28], "marvelovd") == []
    assert len(reference_labels(1, BOXES[:1], at, tied + torch.tensor([1e-6, 0]), [5, 28], "marvelovd")) == 1
    assert reference_labels(1, BOXES[:1], at, sure, [5], "vlplm") == []
    assert len(reference_labels(1, BOXES[:1], at + 1e-9, sure, [5], "vlplm")) == 1


@pytest.mark.parametrize("preset", ["vlplm", "marvelovd"])
def test_an_image_without_boxes_has_no_labels(preset: str) -> None:
    assert reference_labels(1, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, 2), [5, 28], preset) == []


def test_an_image_whose_boxes_are_all_too_small_has_no_regions(
    images: list[np.ndarray], detector: tuple[Any, Any], clip_model: tuple[Any, Any]
) -> None:
    boxes, objectness, embeddings = reference_regions(*detector, *clip_model, images[0], Recipe(min_size=1e6))
    assert boxes.shape == (0, 4) and objectness.shape == (0,)
    assert embeddings.shape == (0, clip_model[0].text_projection.shape[1])


def test_the_last_move_of_one_pass_is_from_the_proposals_to_the_refined(
    images: list[np.ndarray], detector: tuple[Any, Any], evidence: Callable[..., ReferenceEvidence]
) -> None:
    before, after = (reference_proposals(*detector, images[0], steps, refine_first=100)[0] for steps in (0, 1))
    found = evidence(images[0], refine_steps=1)
    # Scaling each axis leaves an IoU as it is, but for rounding: float32 coordinates beyond 512 px are 6e-5 px apart,
    # which moves the IoU of a box of some 10 px by 1e-5 and more.
    torch.testing.assert_close(found.last_move, box_iou(before, after).diagonal(), atol=3e-5, rtol=0)
    assert found.foreground is not None and ((found.foreground > 0) & (found.foreground < 1)).all()
    assert found.foreground.std() > 0.01


def test_agreement_is_with_all_boxes_that_the_rpn_chooses_from(
    images: list[np.ndarray], detector: tuple[Any, Any], evidence: Callable[..., ReferenceEvidence]
) -> None:
    model, cfg = copy.deepcopy(detector)
    model.proposal_generator.nms_thresh = 1.0  # nothing is suppressed
    model.proposal_generator.post_nms_topk = {False: 10**6}
    everything, _ = reference_proposals(model, cfg, images[0], refine_steps=0)
    kept, _ = reference_proposals(*detector, images[0], refine_steps=0, refine_first=100)
    largest = box_iou(kept, everything).sort(dim=1, descending=True).values[:, :6]
    torch.testing.assert_close(largest[:, 0], torch.ones(100), atol=1e-5, rtol=0)
    found = evidence(images[0], refine_steps=0)
    torch.testing.assert_close(found.agreement, largest[:, 1:].mean(dim=1), atol=1e-5, rtol=0)
    assert found.foreground is None and found.last_move is None, "without a pass there are none"


def test_evidence_is_in_the_order_of_the_regions(
    images: list[np.ndarray], detector: tuple[Any, Any], evidence: Callable[..., ReferenceEvidence]
) -> None:
    whole = evidence(images[0])
    boxes, _ = reference_proposals(*detector, images[0], refine_first=100)
    height, width = images[0].shape[:2]
    boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
    large = ((boxes[:, 2:] - boxes[:, :2]) >= 30).all(dim=1)
    assert 0 < large.sum() < 100
    for column, some in zip(whole, evidence(images[0], min_size=30.0), strict=True):
        assert torch.equal(column[large], some)
