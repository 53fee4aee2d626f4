"""The boxes that complete an extended image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from server.pipeline.boxes.box import Box
from server.pipeline.boxes.outpainting import outpainting_boxes

EXTENSIONS = [
    (0, 0, 44, 0),
    (64, 0, 0, 0),
    (0, 100, 0, 0),
    (0, 0, 0, 600),
    (128, 128, 128, 128),
    (700, 0, 700, 300),
    (1, 0, 0, 0),
]


def canvas(size, extension):
    (width, height), (left, top, right, bottom) = size, extension
    return width + left + right, height + top + bottom, Box(left, top, left + width, top + height)


@pytest.mark.parametrize("shape", [(256, 256), (512, 512), (768, 512)])
@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("size", [(256, 256), (512, 384), (100, 700), (1600, 1200), (64, 64)])
def test_the_boxes_complete_the_image_each_with_something_new_and_something_known(size, extension, shape):
    width, height, known = canvas(size, extension)
    done = np.zeros((height, width), bool)
    done[known.top : known.bottom, known.left : known.right] = True
    for box in outpainting_boxes(width, height, known, shape):
        assert box.within(width, height) == box
        part = done[box.top : box.bottom, box.left : box.right]
        assert part.any()
        assert not part.all()
        part[:] = True
    assert done.all()


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_the_boxes_have_the_ratio_of_the_shape(extension):
    for shape, size in itertools.product([(256, 256), (768, 512)], [(512, 384), (1600, 1200)]):
        width, height, known = canvas(size, extension)
        for box in outpainting_boxes(width, height, known, shape):
            assert box.width / box.height == pytest.approx(shape[0] / shape[1], rel=0.05)


def test_a_strip_beside_an_image_of_the_models_size_is_one_box_at_its_own_scale():
    assert outpainting_boxes(300, 256, Box(0, 0, 256, 256), (256, 256)) == [Box(44, 0, 300, 256)]
    assert outpainting_boxes(256, 320, Box(0, 64, 256, 320), (256, 256)) == [Box(0, 0, 256, 256)]


def test_a_little_on_every_side_is_one_box_that_is_the_whole_image():
    assert outpainting_boxes(300, 300, Box(20, 20, 276, 276), (256, 256)) == [Box(0, 0, 300, 300)]


def test_a_wide_extension_grows_outwards_in_several_boxes():
    boxes = outpainting_boxes(656, 256, Box(0, 0, 256, 256), (256, 256))
    assert [box.left for box in boxes] == [171, 342, 400]


def test_boxes_grow_before_they_are_many():
    boxes = outpainting_boxes(4096, 4096, Box(0, 0, 3596, 4096), (512, 512))
    assert len(boxes) <= 8
    assert boxes[0].width > 512


def test_a_small_image_is_computed_enlarged():
    assert outpainting_boxes(128, 96, Box(0, 0, 96, 96), (512, 512)) == [Box(32, 0, 128, 96)]
