"""OKLab against the values that its author and CSS publish."""

from __future__ import annotations

import numpy as np
import pytest

from server.pipeline.palette.oklab import to_oklab, to_srgb


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        # https://www.w3.org/TR/css-color-4/, the sRGB primaries in oklab()
        ((255, 0, 0), (0.62796, 0.22486, 0.12585)),
        ((0, 255, 0), (0.86644, -0.23389, 0.17950)),
        ((0, 0, 255), (0.45201, -0.03246, -0.31153)),
        ((255, 255, 255), (1, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
    ],
)
def test_colors_have_the_published_coordinates(rgb, lab):
    assert to_oklab(np.asarray(rgb, np.uint8)) == pytest.approx(lab, abs=1e-4)


def test_every_color_comes_back():
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 3)).astype(np.uint8)
    assert np.array_equal(to_srgb(to_oklab(pixels)), pixels)
