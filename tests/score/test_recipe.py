"""Stage 1 against the recipe written plainly, on real photos: boxes, objectness, embeddings of every image."""

from pathlib import Path

import clip
import cv2
import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from plgen_ddp.benchmark import reference_recipe
from plgen_ddp.coco import CocoFile
from plgen_ddp.config import load_config
from plgen_ddp.encoders.openai_clip import ClipModel
from plgen_ddp.image_files import index_images
from plgen_ddp.label.labels import label_image
from plgen_ddp.label.vocabulary import read_templates, read_vocabulary
from plgen_ddp.score.images import plan_units
from plgen_ddp.score.job import Weights, load_models, score_units
from plgen_ddp.store import RegionStore

CPU = torch.device("cpu")
REPOSITORY_CONFIGS = Path(__file__).parents[2] / "configs"
IMAGES = 24


@pytest.fixture(scope="module")
def scored(coco_mini, tiny_models, tmp_path_factory):
    """(configuration, stored images by id, reference regions by id, CLIP model) of the first images of val2017."""
    output = tmp_path_factory.mktemp("recipe")
    annotations = coco_mini / "annotations" / "instances_val2017.json"
    return compare(coco_mini, annotations, tiny_models, output, IMAGES, min_size=5.0)


def compare(root, annotations, models, output, count, min_size):
    config = load_config(
        REPOSITORY_CONFIGS / "coco_vlplm.yaml",
        [*models.overrides(), f"run.output={output}", "run.workers=0", f"detector.min_box_size={min_size}"],
    )
    index = index_images(CocoFile(annotations, "data.annotations").images(), str(root), annotations).first(count)
    ours = load_models(config, Weights(models.weights, models.clip), CPU)
    units = plan_units(index, ours.detector.padded_size, 64)
    store = RegionStore(output / "store")
    store.open_for_scoring({}, ours.clip.dim, {})
    score_units(config, index, units, ours, lambda images: None)
    stored = {image.image_id: image for path in store.part_paths() for image in store.read_part(path)}

    cfg = get_cfg()
    cfg.merge_from_file(str(models.config))
    cfg.MODEL.DEVICE = "cpu"
    detector = build_model(cfg).eval()
    DetectionCheckpointer(detector).load(str(models.weights))
    clip_model, preprocess = clip.load(str(models.clip), device="cpu")
    reference = {
        int(image_id): reference_recipe.reference_regions(
            detector, cfg, clip_model, preprocess, cv2.imread(str(index.path(position))), min_size=min_size
        )
        for position, image_id in enumerate(index.image_ids)
    }
    return config, stored, reference, clip_model


def assert_equal_regions(stored, reference):
    assert stored.keys() == reference.keys()
    for image_id, expected in reference.items():
        found = stored[image_id]
        assert found.boxes_xyxy.shape == tuple(expected.boxes_xyxy.shape)
        if len(found.boxes_xyxy) == 0:
            continue
        np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-3)
        np.testing.assert_allclose(found.objectness, expected.objectness, atol=1e-5)
        embeddings = found.embeddings.astype(np.float32)
        cosines = (embeddings * expected.embeddings.numpy()).sum(axis=1) / np.linalg.norm(embeddings, axis=1)
        assert cosines.min() > 0.9999


def test_regions_are_the_recipes(scored):
    _, stored, reference, _ = scored
    assert_equal_regions(stored, reference)
    counts = [len(image.boxes_xyxy) for image in stored.values()]
    assert len(stored) == IMAGES and max(counts) > 50, "the comparison must have boxes to compare"
    boxes = np.concatenate([image.boxes_xyxy for image in stored.values()])
    assert np.ptp(boxes, axis=0).min() > 100, "boxes that collapsed onto each other would prove nothing"


def test_images_that_keep_no_box_are_the_recipes(coco_mini, tiny_models, tmp_path, scored):
    reference = scored[2]
    largest = sorted(
        np.asarray(found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]).min(axis=1).max() for found in reference.values()
    )
    limit = float(np.ceil(largest[len(largest) // 3]))
    annotations = coco_mini / "annotations" / "instances_val2017.json"
    _, stored, expected, _ = compare(coco_mini, annotations, tiny_models, tmp_path, IMAGES, min_size=limit)
    counts = [len(image.boxes_xyxy) for image in stored.values()]
    assert min(counts) == 0 < max(counts), "this test is about images without boxes among others"
    assert_equal_regions(stored, expected)


@pytest.mark.parametrize("preset", ["marvelovd", "vlplm"])
def test_labels_from_our_regions_are_the_recipes_from_its_own(scored, preset):
    _, stored, reference, clip_model = scored
    options = load_config(REPOSITORY_CONFIGS / f"coco_{preset}.yaml")
    names, templates = read_vocabulary(options).novel, read_templates(options)
    texts = reference_recipe.reference_text_embeddings(clip_model, names, templates)
    ids = np.arange(len(names)) + 1
    made = agreed = 0
    for image_id, expected in reference.items():
        theirs = reference_recipe.reference_labels(
            image_id, expected.boxes_xyxy, expected.objectness, expected.embeddings @ texts.T, ids.tolist(), preset
        )
        ours = list(label_image(stored[image_id], texts.numpy(), ids, options.label).rows(-1))
        made += len(theirs)
        rows = {(row["category_id"], *np.round(row["bbox"], 2)) for row in theirs}
        agreed += len(rows & {(row.category_id, *np.round(row.bbox, 2)) for row in ours})
    # Storing embeddings in float16 moves a probability by up to 0.002: some boxes lie that close to the threshold.
    assert made > 50 and agreed >= 0.98 * made


def test_text_embeddings_have_the_same_bits_on_one_and_two_threads(tiny_models):
    model = ClipModel(tiny_models.clip, CPU, "fp32")
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
