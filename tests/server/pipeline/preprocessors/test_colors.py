"""Maps of colors against means computed by NumPy and SciPy's blur."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from server.pipeline.preprocessors.colors import blur, color_grid, tile

NOISE = np.random.default_rng(3).integers(0, 256, (128, 192, 3), np.uint8)


def test_a_color_grid_has_each_block_s_mean():
    blocks = color_grid(NOISE)
    means = NOISE.reshape(2, 64, 3, 64, 3).mean((1, 3))
    assert np.abs(blocks.reshape(2, 64, 3, 64, 3) - means[:, None, :, None]).max() < 1


@pytest.mark.parametrize("preprocess", [color_grid, tile, blur])
@pytest.mark.parametrize("shape", [(128, 192, 3), (40, 24, 3), (1, 1, 3)])
def test_a_map_has_its_image_s_size(preprocess, shape):
    assert preprocess(np.zeros(shape, np.uint8)).shape == shape


@pytest.mark.parametrize("preprocess", [color_grid, tile, blur])
def test_a_map_of_one_color_has_that_color(preprocess):
    image = np.full((128, 128, 3), (200, 30, 90), np.uint8)
    assert np.array_equal(preprocess(image), image)


def test_a_tile_keeps_means_and_loses_details():
    reduced = tile(NOISE).astype(float)
    assert np.abs(reduced.mean((0, 1)) - NOISE.mean((0, 1))).max() < 1
    assert reduced.std() < NOISE.std() / 4


def test_a_blur_is_gaussian_and_grows_with_the_image():
    sigma = 9.0 * 192 / 512
    expected = np.stack(
        [ndimage.gaussian_filter(NOISE[..., c].astype(float), sigma, mode="mirror") for c in range(3)], -1
    )
    assert np.abs(blur(NOISE) - expected).max() < 2
