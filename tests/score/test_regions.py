"""Packing of crops into CLIP batches, and back to boxes: real CLIP, drawn pixels."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from devices import DEVICES

from plgen_ddp.benchmark.seeded_models import write_tiny_clip
from plgen_ddp.config import ClipConfig
from plgen_ddp.encoders.loading import load_encoder
from plgen_ddp.score.images import ImageBatch, on_device
from plgen_ddp.score.proposals import Proposals
from plgen_ddp.score.regions import RegionEncoder, clip_boxes, windows_of
from plgen_ddp.score.resample import crop_windows

CPU = torch.device("cpu")
HEIGHTS, WIDTHS = (90, 100, 80), (120, 70, 110)
SCALES = (1.0, 1.5)
PROPOSAL_EVIDENCE = ("foreground", "last_move", "agreement")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("clip"), CPU)


def tiny_encoder(folder, device):
    weights = write_tiny_clip(folder)
    return load_encoder(ClipConfig(model=str(weights), precision="fp32"), weights, device)


@pytest.fixture(scope="module")
def images():
    """Two batches of three images of different sizes, and their proposals: seven, three, none."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for number in range(2):
        pixels = torch.randint(0, 256, (3, max(HEIGHTS), max(WIDTHS), 3), dtype=torch.uint8, generator=generator)
        found = []
        for position, count in enumerate((7, 3, 0)):
            low = torch.rand(count, 2, generator=generator) * 50
            boxes = torch.cat([low, low + 10 + torch.rand(count, 2, generator=generator) * 60], dim=1)
            # The whole image: the same window at both scales.
            boxes[:1] = torch.tensor([0, 0, WIDTHS[position], HEIGHTS[position]])
            found.append(Proposals(3 * number + position, boxes, torch.linspace(0.9, 0.1, count)))
        batches.append((ImageBatch(tuple(each.image_id for each in found), pixels, HEIGHTS, WIDTHS), found))
    return batches


class Counted:
    """An encoder that remembers how many crops each of its batches had."""

    def __init__(self, encoder):
        self._encoder = encoder
        self.sizes = []

    def __getattr__(self, name):
        return getattr(self._encoder, name)

    def encode_images(self, crops_bgr):
        self.sizes.append(len(crops_bgr))
        return self._encoder.encode_images(crops_bgr)


def region_encoder(clip, device=CPU, **options):
    settings = {"batch_size": 8, "fill": True, "scales": SCALES, "min_size": 5.0} | options
    return RegionEncoder(clip, device=device, **settings)


def encode(clip, images, **options):
    """(regions by image id, how many crops each CLIP batch had)."""
    counted = Counted(clip)
    encoder = region_encoder(counted, **options)
    for batch, proposals in images:
        encoder.add(batch, proposals)
    return {found.image_id: found for found in encoder.flush().wait()}, counted.sizes


def embeddings_of(clip, pixels_bgr, boxes, scale, extent):
    """Embeddings of the crops of one image (1, H, W, 3), one after the other in one batch."""
    windows = torch.from_numpy(windows_of(boxes, scale, *extent))
    positions = torch.zeros(len(boxes), dtype=torch.int64)
    return clip.encode_images(crop_windows(pixels_bgr, positions, windows, clip.preprocessing.resolution))


def test_batches_are_full_across_images_and_equal_windows_are_encoded_once(clip, images):
    regions, sizes = encode(clip, images)
    crops = 2 * (2 * 7 - 1 + 2 * 3 - 1)
    assert sizes == [8] * -(-crops // 8)
    assert [len(regions[image_id].embeddings) for image_id in range(6)] == [7, 3, 0, 7, 3, 0]
    _, unfilled = encode(clip, images, fill=False)
    assert sum(unfilled) == crops and unfilled == [8] * (crops // 8) + [crops % 8]


@pytest.mark.parametrize("options", [{}, {"fill": False}, {"batch_size": 64}, {"batch_size": 5}])
def test_each_box_has_the_mean_of_its_own_windows(clip, images, options):
    regions, _ = encode(clip, images, **options)
    for batch, found in images:
        for position in (0, 1):
            of_image = regions[found[position].image_id]
            extent = HEIGHTS[position], WIDTHS[position]
            boxes, _ = clip_boxes(found[position].boxes_xyxy.numpy(), *extent, 5.0)
            own = batch.pixels_bgr[position : position + 1, : extent[0], : extent[1]]
            first, second = (embeddings_of(clip, own, boxes, scale, extent) for scale in SCALES)
            expected = torch.nn.functional.normalize(first + second, dim=1).numpy()
            np.testing.assert_allclose(of_image.embeddings, expected, atol=1e-3)
            np.testing.assert_allclose(of_image.scale_cosine, (first * second).sum(dim=1), atol=1e-5)
            assert of_image.scale_cosine[0] == pytest.approx(1) and of_image.scale_cosine.max() <= 1
            np.testing.assert_array_equal(of_image.boxes_xyxy, boxes)


def test_one_scale_has_no_cosine_between_scales(clip, images):
    regions, _ = encode(clip, images, scales=(1.0,))
    assert all(found.scale_cosine is None for found in regions.values())
    regions, _ = encode(clip, images, scales=(1.0, 1.5, 2.0))
    first_two, _ = encode(clip, images)
    np.testing.assert_allclose(regions[0].scale_cosine, first_two[0].scale_cosine, atol=1e-5)


def test_a_boxs_values_stay_together_when_others_are_dropped(clip, images):
    """Evidence that is the box's own left edge shows which box a value belongs to."""
    marked = [
        (batch, [replace(found, **dict.fromkeys(PROPOSAL_EVIDENCE, found.boxes_xyxy[:, 0])) for found in proposals])
        for batch, proposals in images
    ]
    whole, _ = encode(clip, marked)
    for options in ({"min_size": 30.0}, {"min_objectness": 0.5}, {"min_size": 30.0, "min_objectness": 0.5}):
        some, sizes = encode(clip, marked, fill=False, **options)
        assert 0 < sum(sizes) < 2 * (2 * 7 - 1 + 2 * 3 - 1)
        for image_id, found in some.items():
            of_image = whole[image_id]
            low, high = of_image.boxes_xyxy[:, :2], of_image.boxes_xyxy[:, 2:]
            kept = (high - low >= options.get("min_size", 0)).all(axis=1)
            kept &= of_image.objectness >= options.get("min_objectness", 0)
            for name in ("boxes_xyxy", "objectness", *PROPOSAL_EVIDENCE):
                np.testing.assert_array_equal(getattr(found, name), getattr(of_image, name)[kept])
            for name in PROPOSAL_EVIDENCE:
                np.testing.assert_array_equal(getattr(found, name), found.boxes_xyxy[:, 0])
            np.testing.assert_allclose(found.scale_cosine, of_image.scale_cosine[kept], atol=1e-5)
            np.testing.assert_allclose(found.embeddings, of_image.embeddings[kept], atol=1e-3)


def test_flushing_ends_a_unit(clip, images):
    encoder = region_encoder(clip)
    encoder.add(*images[0])
    assert [found.image_id for found in encoder.flush().wait()] == [0, 1, 2]
    assert encoder.flush().wait() == []
    encoder.add(*images[1])
    assert [found.image_id for found in encoder.flush().wait()] == [3, 4, 5]


@pytest.mark.parametrize("name", DEVICES)
def test_units_that_are_waited_for_late_and_in_a_thread_keep_their_values(tmp_path, clip, images, name):
    """On CUDA: nothing is used again while a copy, the crops or CLIP still need it, on whichever stream."""
    device = torch.device(name)
    encoder = region_encoder(tiny_encoder(tmp_path, device), device)
    rounds = 20
    proposals = {batch.image_ids: found for batch, found in images}
    batches = [batch for batch, _ in images] * rounds
    if name == "cuda":
        batches = [replace(batch, pixels_bgr=batch.pixels_bgr.pin_memory()) for batch in batches]
    pending = []
    for batch in on_device(batches, device):
        moved = [
            Proposals(found.image_id, found.boxes_xyxy.to(device), found.objectness.to(device))
            for found in proposals[batch.image_ids]
        ]
        encoder.add(batch, moved)
        pending.append(encoder.flush())
    with ThreadPoolExecutor(1) as thread:
        regions = [found for unit in thread.map(lambda unit: unit.wait(), pending) for found in unit]
    expected, _ = encode(clip, images)
    assert [found.image_id for found in regions] == list(range(6)) * rounds
    for found in regions:
        np.testing.assert_array_equal(found.boxes_xyxy, expected[found.image_id].boxes_xyxy)
        # A crop on CUDA may be two grey levels off.
        np.testing.assert_allclose(found.embeddings, expected[found.image_id].embeddings, atol=0.01)
