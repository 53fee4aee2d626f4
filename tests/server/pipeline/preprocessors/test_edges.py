"""Edges and lines against OpenCV's own calls and SciPy's filters, and on drawn scenes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import ndimage

from demo.scenes import PLACES, Scene, Thing, draw, shape_distance
from server.pipeline.preprocessors.edges import canny, invert, lines, soft_edge


def square(color: str = "red", ground: str = "white") -> np.ndarray:
    return draw(Scene((Thing("square", color, "top left"),), ground), np.random.default_rng(0))


def outline_distance() -> np.ndarray:
    """The distance of each pixel to the outline of the drawn square, in pixels, up to its random shift."""
    y, x = np.mgrid[0:256, 0:256].astype(np.float32) / 256
    cx, cy = PLACES["top left"]
    return np.abs(shape_distance("square", (x - cx) / 0.155, (y - cy) / 0.155)) * 0.155 * 256


def test_canny_marks_the_outline_and_nothing_else():
    edges = canny(square())
    assert edges.shape == (256, 256, 3)
    assert set(np.unique(edges)) == {0, 255}
    assert outline_distance()[edges[..., 0] > 0].max() < 8
    assert 100 < (edges[..., 0] > 0).sum() < 400


def test_canny_is_opencv_s_and_its_thresholds_count():
    noise = ndimage.gaussian_filter(np.random.default_rng(1).uniform(0, 255, (64, 64, 3)), (1, 1, 0)).astype(np.uint8)
    assert np.array_equal(canny(noise, 40, 90)[..., 1], cv2.Canny(noise, 40, 90))
    assert (canny(noise, 20, 60) > 0).sum() > (canny(noise, 100, 200) > 0).sum()


def test_a_soft_edge_is_strongest_on_the_outline_and_fades_beside_it():
    edges, away = soft_edge(square())[..., 0].astype(int), outline_distance()
    assert edges[away < 3].mean() > 120
    assert edges[(away > 6) & (away < 9)].mean() < edges[away < 3].mean()
    assert edges[away > 20].max() < 20


def test_a_soft_edge_does_not_depend_on_the_image_s_scale():
    small = square()
    large = cv2.resize(small, (512, 512), interpolation=cv2.INTER_LINEAR)
    again = cv2.resize(soft_edge(large), (256, 256), interpolation=cv2.INTER_AREA)
    assert np.abs(again.astype(int) - soft_edge(small)).mean() < 5


def test_lines_are_as_bright_as_they_are_darker_than_their_surroundings():
    page = np.full((96, 96, 3), 240, np.uint8)
    page[40:43, 10:80] = 30
    drawn = lines(page)[..., 0].astype(float)
    assert drawn[41, 20:70].min() > 100
    assert drawn[60:, :].max() == 0
    blurred = np.stack([ndimage.gaussian_filter(page[..., c].astype(float), 6, mode="mirror") for c in range(3)], -1)
    darker = (blurred - page).min(-1).clip(0)
    typical = max(16.0, np.median(darker[darker > 8]))
    assert np.abs(drawn - (darker / typical * 127).clip(0, 255)).max() < 3


@pytest.mark.parametrize("preprocess", [canny, soft_edge, lines])
def test_a_blank_image_has_no_edges(preprocess):
    assert not preprocess(np.full((48, 40, 3), 200, np.uint8)).any()


def test_a_negative_of_a_negative_is_the_image():
    image = square()
    assert np.array_equal(invert(invert(image)), image)
    assert invert(image)[0, 0, 0] == 255 - image[0, 0, 0]
