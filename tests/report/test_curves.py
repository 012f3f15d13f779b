"""The curves of a sweep are a picture that shows them."""

import cv2
import numpy as np
import pytest

from plgen_ddp.records import Curve
from plgen_ddp.report.curves import draw_curves

LEVELS = [0.2, 0.5, 0.8]


def curve(title, f1):
    return Curve(title, LEVELS, [9.0, 4.0, 1.0], [0.2, 0.5, 0.9], [0.9, 0.7, 0.3], f1)


def pixels(png):
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)


def test_a_curve_more_changes_the_picture():
    one, other = curve("a", [0.3, 0.6, 0.45]), curve("b", [0.5, 0.4, 0.1])
    alone, both = pixels(draw_curves([one])), pixels(draw_curves([one, other]))
    assert alone.shape == both.shape and (alone != both).any()
    np.testing.assert_array_equal(pixels(draw_curves([one])), alone)


@pytest.mark.parametrize("curves", [[], [Curve("a", LEVELS, [9.0, 4.0, 1.0])]])
def test_without_ground_truth_there_is_one_plot(curves):
    assert pixels(draw_curves(curves)).shape[2] == 3
