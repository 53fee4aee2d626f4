"""How an image is put together on its canvas, with numbers in place of networks."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from server.pipeline.boxes.box import Box
from server.pipeline.canvas.canvas import canvas_of
from server.pipeline.images import resize_and_crop
from server.pipeline.request import bind
from tests.support.fake_pipeline import MANIFEST
from tests.support.image_files import encoded

SHAPES = [(64, 64), (100, 70), (70, 100), (131, 64), (300, 200)]


def smooth(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / width, y * 255 / height, 128 + 0 * x], -1).astype(np.uint8)


def canvas(pixels=None, mask=None, **fields):
    files, size = {}, None
    if pixels is not None:
        files["image"], size = encoded(Image.fromarray(pixels)), pixels.shape[1::-1]
    if mask is not None:
        files["mask"] = encoded(Image.fromarray(mask))
    request = bind(MANIFEST, image_size=size, **{"prompt": "a", "seed": 1, **{n: n for n in files}, **fields})
    return canvas_of(request, files)


@pytest.mark.parametrize("size", SHAPES)
def test_what_the_networks_return_unchanged_is_the_source_with_its_framing(size):
    pixels = smooth(150, 110)
    one = canvas(pixels, width=size[0], height=size[1])
    painting = one.painting()
    (box,) = one.boxes
    painting.paint(box, painting.view(box).source)
    expected = resize_and_crop(Image.fromarray(pixels), *size).astype(int)
    assert painting.pixels.shape == expected.shape
    assert np.abs(painting.pixels - expected).max() <= 6


@pytest.mark.parametrize("size", SHAPES)
def test_an_image_of_noise_alone_is_what_is_computed_scaled_and_cropped(size):
    one = canvas(width=size[0], height=size[1])
    painting = one.painting()
    assert painting.view(one.boxes[0]).source is None
    computed = smooth(*one.shape)
    painting.paint(one.boxes[0], computed)
    expected = resize_and_crop(Image.fromarray(computed), *size).astype(int)
    assert np.abs(painting.pixels - expected).max() <= 8


def test_a_view_beyond_the_edges_goes_on_as_in_a_mirror():
    tall = canvas(smooth(64, 128), width=64, height=128)
    (box,) = tall.boxes
    assert box == Box(-32, 0, 96, 128)
    red = tall.painting().view(box).source[:, :, 0].astype(int)
    np.testing.assert_allclose(red[:, :16], red[:, 16:32][:, ::-1], atol=12)
    np.testing.assert_allclose(red[:, 48:], red[:, 32:48][:, ::-1], atol=12)


def test_painting_one_image_leaves_the_canvas_as_it_was():
    mask = np.full((64, 64), 255, np.uint8)
    one = canvas(smooth(64, 64), mask)
    before = one.pixels.copy()
    one.painting().paint(one.boxes[0], np.zeros((64, 64, 3), np.uint8))
    np.testing.assert_array_equal(one.pixels, before)


def test_without_keeping_the_rest_is_what_is_computed():
    mask = np.zeros((64, 64), np.uint8)
    mask[:8] = 255
    one = canvas(smooth(64, 64), mask, keep_unmasked=False)
    painting = one.painting()
    painting.paint(one.boxes[0], np.zeros((64, 64, 3), np.uint8))
    assert not painting.pixels.any()


def test_each_box_of_an_extended_image_sees_what_those_before_it_painted():
    one = canvas(smooth(64, 64), extend_right=120, feather=0)
    painting = one.painting()
    for number, box in enumerate(one.boxes):
        view = painting.view(box)
        new = view.mask > 0
        assert new.any()
        assert not new.all()
        if number:
            assert (view.source[~new] == 100 + number - 1).any()
        painting.paint(box, np.full((*one.shape[::-1], 3), 100 + number, np.uint8))
    np.testing.assert_array_equal(painting.pixels[:, :64], smooth(64, 64))
    assert (painting.pixels[:, 64:] >= 100).all()


def test_what_extends_an_image_begins_with_its_own_colors():
    one = canvas(np.full((64, 64, 3), (10, 200, 30), np.uint8), extend_left=32, strength=0.5)
    difference = one.painting().view(one.boxes[0]).source.astype(int) - (10, 200, 30)
    assert np.abs(difference).max() <= 6
    assert np.abs(difference.mean((0, 1))).max() < 1
