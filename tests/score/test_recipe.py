"""Stage 1 against the recipe written plainly: boxes, evidence, embeddings of every image; then the labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clip
import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from plgen_ddp.benchmark import reference_recipe
from plgen_ddp.coco import CocoFile
from plgen_ddp.config import ClipConfig, Config, load_config
from plgen_ddp.encoders.loading import load_encoder
from plgen_ddp.image_files import index_images
from plgen_ddp.label.labels import label_image
from plgen_ddp.label.vocabulary import read_templates, read_vocabulary
from plgen_ddp.records import EVIDENCE, Regions
from plgen_ddp.score.images import plan_units
from plgen_ddp.score.job import Weights, load_models, score_units
from plgen_ddp.store import Manifest, RegionStore

CPU = torch.device("cpu")
CONFIGS = REPOSITORY / "configs"
IMAGES = 24


@dataclass(frozen=True)
class Compared:
    """One dataset through both: stored regions, the recipe's regions and evidence, by image id."""

    config: Config
    similarity: Any
    stored: dict[int, Regions]
    regions: dict[int, reference_recipe.ReferenceRegions]
    evidence: dict[int, reference_recipe.ReferenceEvidence]
    clip_model: Any


@pytest.fixture(scope="module", params=["scenes", "photos"])
def dataset(request):
    """(image root, annotations): drawn scenes, and real photos where they are."""
    if request.param == "photos":
        root = request.getfixturevalue("coco_mini")
        return root, root / "annotations" / "instances_val2017.json"
    root = REPOSITORY / "plgen_ddp" / "demo" / "data"
    return root, root / "annotations" / "instances_demo.json"


@pytest.fixture(scope="module")
def scored(dataset, tiny_models, tmp_path_factory) -> Compared:
    return compare(*dataset, tiny_models, tmp_path_factory.mktemp("recipe"), IMAGES, min_size=5.0)


def stored_regions(root: Path, annotations: Path, models: Any, output: Path, count: int, **options: float) -> Any:
    """(config, images, similarity, regions by image id) of stage 1, with other options of `detector`."""
    changes = [f"detector.{name}={value}" for name, value in options.items()]
    config = load_config(
        CONFIGS / "coco_vlplm.yaml", [*models.overrides(), f"run.output={output}", "run.workers=0", *changes]
    )
    index = index_images(CocoFile(annotations, "data.annotations").images(), str(root), annotations).first(count)
    ours = load_models(config, Weights(models.weights, models.clip), CPU)
    units = plan_units(index, ours.proposals.padded_size, 64)
    store = RegionStore(output / "store")
    store.open_for_scoring(Manifest(ours.encoder.dim, ours.encoder.similarity, {"dataset": {}}, {}))
    score_units(config, index, units, ours, lambda images: None)
    stored = {image.image_id: image for path in store.part_paths() for image in store.read_part(path)}
    return config, index, ours.encoder.similarity, stored


def compare(root: Path, annotations: Path, models: Any, output: Path, count: int, min_size: float) -> Compared:
    config, index, similarity, stored = stored_regions(root, annotations, models, output, count, min_box_size=min_size)

    cfg = get_cfg()
    cfg.merge_from_file(str(models.config))
    cfg.MODEL.DEVICE = "cpu"
    detector = build_model(cfg).eval()
    DetectionCheckpointer(detector).load(str(models.weights))
    clip_model, preprocess = clip.load(str(models.clip), device="cpu")
    pixels = {int(image_id): cv2.imread(str(index.path(place))) for place, image_id in enumerate(index.image_ids)}
    regions, evidence = (
        {
            image_id: of(detector, cfg, clip_model, preprocess, image_bgr, min_size=min_size)
            for image_id, image_bgr in pixels.items()
        }
        for of in (reference_recipe.reference_regions, reference_recipe.reference_evidence)
    )
    return Compared(config, similarity, stored, regions, evidence, clip_model)


def assert_equal_regions(compared):
    assert compared.stored.keys() == compared.regions.keys()
    for image_id, expected in compared.regions.items():
        found = compared.stored[image_id]
        assert found.boxes_xyxy.shape == tuple(expected.boxes_xyxy.shape)
        for name in EVIDENCE:
            wanted = getattr(compared.evidence[image_id], name)
            within = 2e-3 if name == "scale_cosine" else 1e-4  # crops are Pillow's within a grey level
            np.testing.assert_allclose(getattr(found, name), wanted, atol=within, err_msg=f"{name}, image {image_id}")
        if len(found.boxes_xyxy) == 0:
            continue
        np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-3)
        np.testing.assert_allclose(found.objectness, expected.objectness, atol=1e-5)
        embeddings = found.embeddings.astype(np.float32)
        cosines = (embeddings * expected.embeddings.numpy()).sum(axis=1) / np.linalg.norm(embeddings, axis=1)
        assert cosines.min() > 0.9999


def test_regions_and_their_evidence_are_the_recipes(scored):
    assert_equal_regions(scored)
    counts = [len(image.boxes_xyxy) for image in scored.stored.values()]
    assert len(scored.stored) == IMAGES and max(counts) > 50, "the comparison must have boxes to compare"
    boxes = np.concatenate([image.boxes_xyxy for image in scored.stored.values()])
    assert np.ptp(boxes, axis=0).min() > 100, "boxes that collapsed onto each other would prove nothing"
    for name in EVIDENCE:
        column = np.concatenate([getattr(image, name) for image in scored.stored.values()])
        assert column.dtype == np.float32 and column.min() >= -1 and column.max() <= 1
        assert column.std() > 1e-3, f"{name} must differ between boxes to show that it is aligned with them"


def test_images_that_keep_no_box_are_the_recipes(dataset, tiny_models, tmp_path, scored):
    largest = sorted(
        np.asarray(found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]).min(axis=1).max()
        for found in scored.regions.values()
    )
    limit = float(np.ceil(largest[len(largest) // 3]))
    compared = compare(*dataset, tiny_models, tmp_path, IMAGES, min_size=limit)
    counts = [len(image.boxes_xyxy) for image in compared.stored.values()]
    assert min(counts) == 0 < max(counts), "this test is about images without boxes among others"
    assert_equal_regions(compared)


@pytest.mark.parametrize("preset", ["marvelovd", "vlplm"])
def test_labels_from_our_regions_are_the_recipes_from_its_own(scored, preset):
    options = load_config(CONFIGS / f"coco_{preset}.yaml")
    names, templates = read_vocabulary(options).novel, read_templates(options)
    texts = reference_recipe.reference_text_embeddings(scored.clip_model, names, templates)
    ids = np.arange(len(names)) + 1
    made = agreed = 0
    for image_id, expected in scored.regions.items():
        theirs = reference_recipe.reference_labels(
            image_id, expected.boxes_xyxy, expected.objectness, expected.embeddings @ texts.T, ids.tolist(), preset
        )
        ours = label_image(scored.stored[image_id], texts.numpy(), ids, scored.similarity, options.label).rows(-1)
        made += len(theirs)
        rows = {(row["category_id"], *np.round(row["bbox"], 2)) for row in theirs}
        agreed += len(rows & {(row.category_id, *np.round(row.bbox, 2)) for row in ours})
    # Storing embeddings in float16 moves a probability by up to 0.002: some boxes lie that close to the threshold.
    assert made > 50 and agreed >= 0.98 * made


def test_boxes_that_no_threshold_can_reach_change_no_label_when_they_are_dropped(
    dataset, tiny_models, tmp_path, scored
):
    """VL-PLM keeps scores above 0.8, half of which is objectness: under 0.6, no name's probability is enough."""
    *_, stored = stored_regions(*dataset, tiny_models, tmp_path, IMAGES, min_objectness=0.6)
    options = load_config(CONFIGS / "coco_vlplm.yaml")
    names, templates = read_vocabulary(options).novel, read_templates(options)
    texts = reference_recipe.reference_text_embeddings(scored.clip_model, names, templates).numpy()
    ids = np.arange(len(names)) + 1
    made = dropped = 0
    for image_id, whole in scored.stored.items():
        assert (stored[image_id].objectness >= np.float32(0.6)).all()
        dropped += len(whole.objectness) - len(stored[image_id].objectness)
        expected, found = (
            label_image(regions, texts, ids, scored.similarity, options.label) for regions in (whole, stored[image_id])
        )
        made += len(expected)
        for name in ("image_ids", "category_ids", "boxes_xywh", "objectness"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        # A crop's embedding may differ in its last digit with the crops that are beside it in a CLIP batch.
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
    assert made > 50 and dropped > 500


def test_text_embeddings_have_the_same_bits_on_one_and_two_threads(tiny_models):
    options = ClipConfig(model=str(tiny_models.clip), precision="fp32")
    model = load_encoder(options, tiny_models.clip, CPU)
    prompts = [f"a photo of a {name}." for name in ("cat", "dog", "traffic light")] * 21
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(model.encode_texts(prompts))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
