"""Masks as arrays, beside SciPy's, PyTorch's and Pillow's functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from server.pipeline.boxes.box import Box
from server.pipeline.canvas.masks import (
    blended,
    blurred,
    bounds,
    feathered,
    filled,
    inverted,
    latent_mask,
    repaints,
    sampled_latent_mask,
)


def disc(size: int = 96, radius: int = 20) -> np.ndarray:
    image = Image.new("L", (size, size), 0)
    ImageDraw.Draw(image).ellipse((size // 2 - radius, size // 2 - radius, size // 2 + radius, size // 2 + radius), 255)
    return np.asarray(image)


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


@pytest.mark.parametrize("radius", [1, 4, 10.5])
def test_a_mask_is_blurred_by_a_gaussian(radius):
    expected = ndimage.gaussian_filter(disc().astype(float), radius, mode="nearest")
    np.testing.assert_allclose(blurred(disc(), radius), expected, atol=8)
    assert np.abs(blurred(disc(), radius) - expected).mean() < 1.5


def test_a_mask_that_is_not_blurred_is_as_it_was():
    np.testing.assert_array_equal(blurred(disc(), 0), disc())


@pytest.mark.parametrize("feather", [1, 8, 24, 64])
def test_a_feathered_edge_is_new_in_the_new_part_and_ends_after_its_width(feather):
    new = np.zeros((40, 400), bool)
    new[:, 200:] = True
    row = feathered(new, feather)[20].astype(int)
    assert (row[200:] == 255).all()
    assert (row[: 200 - feather] == 0).all()
    assert (np.diff(row) >= 0).all()
    if feather > 1:
        assert 90 < row[200 - feather // 6] < 255


def test_the_bounds_of_a_mask_touch_every_pixel_that_is_repainted():
    mask = np.zeros((50, 60), np.uint8)
    mask[10:20, 30:45] = 1
    assert bounds(mask) == Box(30, 10, 45, 20)
    assert bounds(np.zeros((5, 5), np.uint8)) is None
    assert bounds(inverted(mask)) == Box(0, 0, 60, 50)


def test_blending_keeps_and_replaces_exactly_where_the_mask_says_so():
    old, new = random_pixels(16, 256), random_pixels(256, 16).reshape(16, 256, 3)
    mask = np.broadcast_to(np.arange(256, dtype=np.uint8), (16, 256))
    result = blended(old, new, mask)
    np.testing.assert_array_equal(result[:, 0], old[:, 0])
    np.testing.assert_array_equal(result[:, 255], new[:, 255])
    exact = old + (new.astype(float) - old) * (mask / 255)[..., None]
    np.testing.assert_allclose(result, exact, atol=0.51)


def test_a_filled_image_has_its_surroundings_colors_in_the_mask_and_is_itself_outside():
    pixels = np.full((96, 96, 3), (40, 84, 214), np.uint8)
    pixels[disc() > 0] = (214, 40, 40)
    result = filled(pixels, disc())
    np.testing.assert_array_equal(result[disc() == 0], pixels[disc() == 0])
    np.testing.assert_allclose(result[disc() > 0].mean(0), (40, 84, 214), atol=3)


def test_a_filled_image_is_the_one_a1111s_blurs_make():
    pixels, mask = random_pixels(96, 96), disc()
    expected = Image.new("RGBA", (96, 96))
    kept = Image.new("RGBa", (96, 96))
    kept.paste(Image.fromarray(pixels).convert("RGBA").convert("RGBa"), mask=Image.fromarray(255 - mask))
    for radius, times in ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1)):
        blur = kept.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            expected.alpha_composite(blur)
    difference = np.abs(filled(pixels, mask).astype(int) - np.asarray(expected.convert("RGB")))
    assert difference.max() <= 6
    assert difference.mean() < 0.5


def test_far_from_what_is_kept_an_image_is_filled_with_its_average_color():
    pixels = np.full((32, 1500, 3), (40, 84, 214), np.uint8)
    mask = np.full((32, 1500), 255, np.uint8)
    mask[:, :64] = 0
    np.testing.assert_allclose(filled(pixels, mask), pixels, atol=8)


def test_an_image_of_which_nothing_is_kept_is_filled_with_gray():
    result = filled(random_pixels(16, 16), np.full((16, 16), 255, np.uint8))
    assert np.ptp(result) == 0
    assert abs(int(result[0, 0, 0]) - 127) <= 1


def test_a_latent_is_repainted_as_much_as_the_most_repainted_of_its_pixels():
    mask = np.zeros((16, 24), np.uint8)
    mask[3, 9] = 255
    mask[8:, 16:] = 51
    np.testing.assert_allclose(latent_mask(mask, 8), [[[[0, 1, 0], [0, 0, 0.2]]]])


def test_the_mask_of_an_inpainting_unet_is_the_one_diffusers_gives_it():
    mask = np.random.default_rng(1).integers(0, 256, (64, 96), np.uint8)
    binary = torch.from_numpy((mask / np.float32(255) >= 0.5).astype(np.float32))[None, None]
    np.testing.assert_array_equal(sampled_latent_mask(mask, 8), torch.nn.functional.interpolate(binary, size=(8, 12)))
    np.testing.assert_array_equal(repaints(mask), mask / np.float32(255) >= 0.5)
