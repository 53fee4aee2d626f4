"""Boxes of an image, and the shapes that they are computed at."""

from __future__ import annotations

import pytest

from server.pipeline.boxes.box import Box, around, covering, nearest_shape

SHAPES = [(512, 512), (768, 512), (512, 768), (1024, 1024), (1536, 1024)]


@pytest.mark.parametrize(
    ("asked", "shape"),
    [
        ((512, 512), (512, 512)),
        ((700, 700), (512, 512)),
        ((800, 800), (1024, 1024)),
        ((4096, 4096), (1024, 1024)),
        ((64, 64), (512, 512)),
        ((777, 512), (768, 512)),
        ((3000, 2000), (1536, 1024)),
        ((200, 300), (512, 768)),
        ((64, 4096), (512, 768)),
        ((4096, 64), (768, 512)),
        # Nearer to 768x512 in area, but a fifth of its height would be cropped.
        ((512, 620), (512, 512)),
        ((640, 610), (512, 512)),
    ],
)
def test_the_shape_of_the_nearest_ratio_is_computed_and_of_those_the_nearest_in_area(asked, shape):
    assert nearest_shape(*asked, SHAPES) == shape


def test_ratios_that_differ_by_a_few_pixels_count_as_one():
    assert nearest_shape(512, 510, [(1024, 1016), (512, 512)]) == (512, 512)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(300, 200), (777, 512), (512, 512), (64, 4096), (4095, 4093), (333, 1000)])
def test_a_covering_box_has_the_image_in_its_middle_and_touches_two_of_its_edges(size, shape):
    box = covering(*size, shape)
    assert box.within(*size) == Box(0, 0, *size)
    assert min(box.width - size[0], box.height - size[1]) == 0
    assert box.width / box.height == pytest.approx(shape[0] / shape[1], abs=1.1 * box.width / box.height / min(size))
    for before, after in ((-box.left, box.right - size[0]), (-box.top, box.bottom - size[1])):
        assert 0 <= after - before <= 1


def test_an_image_of_a_converted_shape_is_covered_by_itself():
    for width, height in SHAPES:
        assert covering(width, height, (width, height)) == Box(0, 0, width, height)


@pytest.mark.parametrize(
    ("part", "padding", "shape", "expected"),
    [
        # A1111's expand_crop_region gives the same boxes.
        (Box(100, 100, 228, 132), 0, (512, 512), Box(100, 52, 228, 180)),
        (Box(0, 100, 32, 228), 0, (512, 512), Box(0, 100, 128, 228)),
        (Box(480, 100, 512, 228), 0, (512, 512), Box(384, 100, 512, 228)),
        (Box(100, 100, 132, 132), 32, (512, 512), Box(68, 68, 164, 164)),
        (Box(4, 4, 36, 36), 32, (512, 512), Box(0, 0, 68, 68)),
        (Box(100, 100, 132, 132), 0, (768, 512), Box(92, 100, 140, 132)),
    ],
)
def test_a_box_around_a_part_has_the_shapes_ratio_and_lies_in_the_image(part, padding, shape, expected):
    assert around(part, padding, shape, 512, 512) == expected


def test_a_box_around_a_part_reaches_beyond_an_image_that_is_too_narrow():
    assert around(Box(0, 0, 100, 400), 0, (512, 512), 100, 400) == Box(-150, 0, 250, 400)
