"""The drawn scenes: reproducible, valid COCO, with honest boxes and separate seeds."""

import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO

import plgen_ddp.demo
from plgen_ddp.demo import painting, scenes
from plgen_ddp.demo.drawings import DRAWINGS, KINDS
from plgen_ddp.demo.scenes import BASE, CATEGORIES, CHOICE, NOVEL, SEEDS, SUPERS, draw_scene, main, write_scenes

DATA = Path(plgen_ddp.demo.__file__).parent / "data"
EMBEDDED = DATA / "annotations" / "instances_demo.json"


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    write_scenes(tmp_path / "a", num=4, seed=100_000)
    write_scenes(tmp_path / "b", num=4, seed=100_000)
    assert _tree(tmp_path / "a") == _tree(tmp_path / "b")


def test_a_scene_depends_on_its_own_seed_alone(tmp_path: Path) -> None:
    write_scenes(tmp_path / "a", num=3, seed=100_000)
    write_scenes(tmp_path / "b", num=1, seed=100_002)
    third, first = tmp_path / "a/demo/000000000003.jpg", tmp_path / "b/demo/000000000001.jpg"
    assert third.read_bytes() == first.read_bytes()
    assert third.read_bytes() != (tmp_path / "a/demo/000000000001.jpg").read_bytes()


def test_seed_ranges_are_disjoint() -> None:
    ranges = sorted(SEEDS.values(), key=lambda seeds: seeds.start)
    assert all(len(seeds) for seeds in ranges)
    assert all(left.stop <= right.start for left, right in itertools.pairwise(ranges))
    assert len(CHOICE) == 300 and set(CHOICE) <= set(SEEDS["val"])


def test_vocabulary_file_lists_the_same_names() -> None:
    path = Path(__file__).parents[2] / "configs" / "vocabularies" / "demo.yaml"
    vocabulary = yaml.safe_load(path.read_text())
    assert (vocabulary["base"], vocabulary["novel"]) == (list(BASE), list(NOVEL))
    assert vocabulary["subs"] == {name: list(kinds) for name, kinds in KINDS.items()}
    assert vocabulary["supers"] == {name: list(general) for name, general in SUPERS.items()}


def test_every_name_has_kinds_and_more_general_names_of_its_own_level() -> None:
    """No word is on two levels, no kind belongs to two names, and some novel names share their group with base ones."""
    assert KINDS.keys() == SUPERS.keys() == {*BASE, *NOVEL}
    kinds = [kind for own in KINDS.values() for kind in own]
    general = {word for own in SUPERS.values() for word in own}
    assert min(map(len, KINDS.values())) >= 3 and len(set(kinds)) == len(kinds)
    assert {len(own) for own in SUPERS.values()} <= {2, 3}
    assert len({*kinds, *general, *BASE, *NOVEL}) == len(kinds) + len(general) + 18
    for name in ("heart", "fish", "mushroom"):
        assert {SUPERS[base][0] for base in BASE} & {SUPERS[name][0]}


def test_objects_are_of_all_kinds_and_say_which() -> None:
    seen = {(item.name, item.kind) for seed in range(100_300, 100_500) for item in draw_scene(seed).objects}
    assert seen == {(name, kind) for name, kinds in KINDS.items() for kind in kinds}


@pytest.mark.parametrize("name", [*BASE, *NOVEL])
def test_kinds_of_a_name_look_different(name: str) -> None:
    """Drawn from the same random numbers, in one colour a tone, two kinds differ in a tenth of their pixels or more."""
    pictures = []
    for drawing in DRAWINGS[name].values():
        canvas = np.zeros((80, 80), np.uint8)
        for part in drawing(np.random.default_rng(0)):
            cover = painting.coverage([40 + 38 * contour for contour in part.contours], 80, 80)
            canvas[cover > 127] = {"body": 1, "accent": 2, "detail": 3}[part.tone]
        pictures.append(canvas)
    for one, other in itertools.combinations(pictures, 2):
        assert (one != other).sum() > 0.1 * min((one > 0).sum(), (other > 0).sum())


def test_command_line_writes_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--num", "12", "--seed", "100100", "--out", str(tmp_path / "set")])
    path = tmp_path / "set" / "annotations" / "instances_demo.json"
    printed = capsys.readouterr().out
    assert f"data.annotations={path}" in printed
    assert "(val)" in printed

    coco = COCO(path)
    assert {c["name"]: c["id"] for c in coco.dataset["categories"]} == CATEGORIES
    assert set(CATEGORIES) == {*BASE, *NOVEL}
    assert len(CATEGORIES) == 18
    assert [image["id"] for image in coco.dataset["images"]] == list(range(1, 13))
    for image in coco.dataset["images"]:
        assert image["file_name"] == f"{image['id']:012d}.jpg"
        assert image["coco_url"].split("/")[-2:] == ["demo", image["file_name"]]
        pixels = cv2.imread(str(tmp_path / "set" / "demo" / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3)
    ids = [a["id"] for a in coco.dataset["annotations"]]
    assert len(set(ids)) == len(ids) >= 12
    names = {coco.cats[a["category_id"]]["name"] for a in coco.dataset["annotations"]}
    assert names & set(BASE)
    assert names & set(NOVEL)


def test_boxes_areas_and_polygons_describe_one_mask(tmp_path: Path) -> None:
    coco = COCO(write_scenes(tmp_path, num=12, seed=100_100))
    for annotation in coco.dataset["annotations"]:
        image = coco.imgs[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        assert 0 <= x < x + width <= image["width"]
        assert 0 <= y < y + height <= image["height"]
        mask = coco.annToMask(annotation)
        ys, xs = np.nonzero(mask)
        found = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert np.abs(np.array(found) - (x, y, x + width, y + height)).max() <= 2
        assert mask.sum() == pytest.approx(annotation["area"], rel=0.06)
        assert annotation["iscrowd"] == 0


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in KINDS.items() for kind in kinds])
def test_an_object_is_where_its_mask_says(name: str, kind: str) -> None:
    """On a plain background nothing but the object differs from it, so the mask can be read off the pixels."""

    def plain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        return np.full((height, width, 3), 255, np.float32)

    rng = np.random.default_rng(5)
    canvas = plain(rng, 240, 320)
    parts = scenes._placed(rng, DRAWINGS[name][kind], 240, 320)
    mask = painting.paint(rng, canvas, parts, painting.FINISHES[SUPERS[name][0]])
    change = 255 - canvas.min(axis=2)
    near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) > 0
    assert not (change[~near] > 120).any()  # a shadow on white changes it by less
    assert (change[mask] > 20).mean() > 0.75


def test_objects_are_hidden_and_cut_only_in_part() -> None:
    """Every annotated object shows enough of itself to be named."""
    for seed in range(100_200, 100_230):
        scene = draw_scene(seed)
        for item in scene.objects:
            _, _, width, height = item.box_xywh
            assert max(width, height) <= 1 + scenes.MAX_ASPECT * min(width, height) * 1.1
            assert min(width, height) >= 10
            assert item.area > 100


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--num", "0", "--seed", "0"], "--num 0"),
        (["--num", "1", "--seed", "-1"], "--seed -1"),
        (["--num", "1", "--seed", "0", "--split", "a/b"], "--split a/b"),
    ],
)
def test_bad_arguments_name_themselves(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*arguments, "--out", str(tmp_path)])
    assert complaint in capsys.readouterr().err


def test_a_ring_does_not_end_its_scene() -> None:
    """Its hole hides nothing of it: other objects still find a place after it."""
    after = [
        len(objects) - 1 - [item.name for item in objects].index("ring")
        for objects in (draw_scene(seed).objects for seed in range(100_500, 100_600))
        if "ring" in [item.name for item in objects]
    ]
    assert len(after) > 10 and np.mean(after) > 1.5


def test_embedded_scenes_are_small_and_enough() -> None:
    files = _tree(DATA)
    assert sum(map(len, files.values())) < 1_000_000
    coco = COCO(EMBEDDED)
    assert len(coco.imgs) >= 40
    assert {f"demo/{image['file_name']}" for image in coco.dataset["images"]} == {f for f in files if "jpg" in f}
    novel = [a for a in coco.dataset["annotations"] if coco.cats[a["category_id"]]["name"] in NOVEL]
    assert len(novel) >= 50


def test_embedded_scenes_are_what_their_seeds_draw() -> None:
    """Other versions of OpenCV or NumPy may move an edge a little, so boxes are compared to 2 pixels."""
    content = json.loads(EMBEDDED.read_text())
    assert content["info"]["seeds"] == [SEEDS["embedded"].start, SEEDS["embedded"].stop - 1]
    names = {number: name for name, number in CATEGORIES.items()}
    for image, seed in list(zip(content["images"], SEEDS["embedded"], strict=True))[:12]:
        scene = draw_scene(seed)
        stored = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        assert [names[a["category_id"]] for a in stored] == [item.name for item in scene.objects]
        for annotation, item in zip(stored, scene.objects, strict=True):
            assert np.abs(np.array(annotation["bbox"]) - item.box_xywh).max() <= 2
        pixels = cv2.imread(str(DATA / "demo" / image["file_name"])).astype(float)
        assert np.abs(pixels - scene.pixels).mean() < 6
