"""The picture of rules: which images are drawn, and that boxes are where and in the colour they should be."""

import json

import numpy as np
import pytest
from PIL import Image
from report.comparisons import objects_of, result_of

from plgen_ddp.errors import UserError
from plgen_ddp.report.comparison import Comparison, RuleResult
from plgen_ddp.report.judging import read_novel_objects
from plgen_ddp.report.pictures import choose_images, draw_gallery

BLUE, ORANGE = (0, 102, 178), (213, 94, 0)


@pytest.mark.parametrize(
    ("counts", "chosen"),
    [
        ({1: 2, 2: 2, 3: 2, 4: 2, 5: 2, 6: 9}, [1, 3, 5]),
        ({1: 1, 2: 5, 3: 2, 4: 7}, [3]),  # the lower of two medians
        ({7: 3, 9: 3}, [7, 9]),
        (dict.fromkeys(range(300), 1), [50, 150, 250]),
    ],
)
def test_nobody_picks_the_images(counts, chosen):
    ids = [image_id for image_id, count in counts.items() for _ in range(count)]
    assert choose_images(objects_of(ids)) == chosen


@pytest.fixture
def comparison(tmp_path):
    """Two rules on one grey image of 100 x 80 with a cat: one finds it, the other one draws a box beside it."""
    Image.new("RGB", (100, 80), (128, 128, 128)).save(tmp_path / "1.png")
    image = {"id": 1, "file_name": "1.png", "width": 100, "height": 80}
    categories = [{"id": 5, "name": "cat"}]
    cat = {"id": 1, "image_id": 1, "category_id": 5, "bbox": [50, 30, 40, 40]}
    data = {"images": [image], "categories": categories, "annotations": [cat]}
    (tmp_path / "truth.json").write_text(json.dumps(data))
    results = []
    for name, box in (("wrong", [5, 5, 30, 30]), ("right", [48, 28, 44, 44])):
        label = {"id": -1, "image_id": 1, "category_id": 5, "bbox": box, "confidence": 0.9}
        (tmp_path / f"{name}.json").write_text(json.dumps(data | {"annotations": [label], "info": {}}))
        result = result_of(name)
        results.append(RuleResult(name, tmp_path / f"{name}.json", result.evaluation, 1.0))
    middle = result_of("middle")  # has no file: it is not drawn
    return Comparison(read_novel_objects(tmp_path / "truth.json", ["cat"]), False, (results[0], middle, results[1]), {})


def test_right_and_wrong_labels_and_the_object_are_where_their_boxes_are(comparison, tmp_path):
    draw_gallery(comparison, str(tmp_path), tmp_path / "rules.png")
    picture = np.asarray(Image.open(tmp_path / "rules.png").convert("RGB")).astype(int)
    scale = 440 / 80
    assert picture.shape[1] == round(100 * scale) + 2 * 20
    grey = (np.abs(picture - 128) <= 2).all(axis=2)
    tops = np.flatnonzero(np.diff(np.pad(grey.mean(axis=1) > 0.5, 1).astype(int)) == 1)
    assert len(tops) == 2, "one image for each of the two rules"

    def colours_at(row, x, y):
        """The colours within three pixels of a point of the image."""
        x, y = round(20 + x * scale), round(tops[row] + y * scale)
        return {tuple(pixel) for pixel in picture[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 3).tolist()}

    assert ORANGE in colours_at(0, 5, 20) and ORANGE in colours_at(0, 20, 35)
    assert BLUE in colours_at(1, 48, 50) and BLUE in colours_at(1, 70, 72)
    for row, absent in ((0, BLUE), (1, ORANGE)):
        image = picture[tops[row] : tops[row] + 440, 20:-20]
        assert not (image == absent).all(axis=2).any()
        edge = picture[round(tops[row] + 30 * scale), round(20 + 55 * scale) : round(20 + 85 * scale)]
        assert (edge == 255).all(axis=1).any() and (np.abs(edge - 128) <= 2).all(axis=1).any(), "dashes and gaps"
    again = tmp_path / "again.png"
    draw_gallery(comparison, str(tmp_path), again)
    assert again.read_bytes() == (tmp_path / "rules.png").read_bytes()


def test_a_missing_image_is_one_line(comparison, tmp_path):
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^--picture: cannot read .*1\.png"):
        draw_gallery(comparison, str(tmp_path), tmp_path / "rules.jpg")


def test_labels_at_a_corner_keep_their_whole_text(comparison, tmp_path):
    """A text that is cut off would have fewer white pixels than one in the middle."""
    data = json.loads((tmp_path / "wrong.json").read_text())
    seen = []
    for corner in ([0, 0], [97, 0], [0, 77], [97, 77], [45, 5]):
        data["annotations"][0]["bbox"] = [*corner, 3, 3]
        (tmp_path / "wrong.json").write_text(json.dumps(data))
        draw_gallery(comparison, str(tmp_path), tmp_path / "rules.png")
        picture = np.asarray(Image.open(tmp_path / "rules.png").convert("RGB"))
        white = (picture[88:528, 20:-20] == 255).all(axis=2).sum()
        seen.append(int(white))
    assert max(seen) - min(seen) <= 10, seen
