"""Boxes drawn into an image: where their edges are, in which colour, and that texts at the border stay inside."""

import numpy as np
import pytest

from plgen_ddp.report.pictures import draw_boxes

RED, GREEN = (40, 40, 230), (60, 170, 60)  # BGR
GREY = np.full((60, 80, 3), 128, np.uint8)


def is_colour(picture, colour):
    return (picture == colour).all(axis=2)


def test_a_label_is_red_and_the_ground_truth_green_where_their_boxes_are():
    picture = draw_boxes(GREY, [("cat", 0.5, (10, 20, 15, 30))], [("dog", (50, 15, 20, 25))])
    assert picture.shape == (120, 160, 3) and picture.dtype == np.uint8
    # Twice as large: the label's corners are (20, 40) and (50, 100), the other's (100, 30) and (140, 80).
    for colour, left, top, right, bottom in ((RED, 20, 40, 50, 100), (GREEN, 100, 30, 140, 80)):
        drawn = is_colour(picture, colour)
        assert drawn[top : bottom + 1, [left, right]].all() and drawn[[top, bottom], left : right + 1].all()
        inside = picture[top + 3 : bottom - 2, left + 3 : right - 2]
        assert (inside == 128).all(), "a box is not filled"
    assert (GREY == 128).all(), "the image itself stays as it is"


@pytest.mark.parametrize("corner", [(0, 0), (70, 0), (0, 50), (70, 50)])
@pytest.mark.parametrize(("kind", "colour"), [("label", RED), ("truth", GREEN)])
def test_the_text_of_a_box_in_a_corner_is_whole(corner, kind, colour):
    """It has as many pixels as that of a box in the middle. They are neither the image's nor the box's."""

    def text_pixels(box):
        labels, truths = ([("cat", 0.5, box)], []) if kind == "label" else ([], [("cat", box)])
        picture = draw_boxes(GREY, labels, truths)
        return int((~is_colour(picture, (128, 128, 128)) & ~is_colour(picture, colour)).sum())

    assert text_pixels((*corner, 10, 10)) == text_pixels((30, 20, 10, 10)) > 20
