"""Resizing and resampling: the grids coremltools documents, and PyTorch where it has the same."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from tests.support.mil_programs import assert_same, run_program

DRAWN = np.random.default_rng(0)
X = DRAWN.standard_normal((1, 3, 6, 5)).astype(np.float32)
STEP = np.array([[[0.0, 1.0]]], np.float32)
#: The documented grid points of the interval [0, 1], five and six of them, by mode.
DOCUMENTED = {
    "UNALIGN_CORNERS": ([0.0, 0.1, 0.5, 0.9, 1.0], [0.0, 0.0, 1 / 3, 2 / 3, 1.0, 1.0]),
    "STRICT_ALIGN_CORNERS": ([0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    "ALIGN_CORNERS": ([0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    "DEFAULT": ([0.0, 0.4, 0.8, 1.0, 1.0], [0.0, 1 / 3, 2 / 3, 1.0, 1.0, 1.0]),
    "OFFSET_CORNERS": ([0.1, 0.3, 0.5, 0.7, 0.9], [1 / 12, 0.25, 5 / 12, 7 / 12, 0.75, 11 / 12]),
}


def test_each_sampling_mode_has_its_documented_grid(tmp_path):
    def build(mb, x):
        return [
            mb.resize_bilinear(x=x, target_size_height=1, target_size_width=count, sampling_mode=mode)
            for mode in DOCUMENTED
            for count in (5, 6)
        ]

    expected = [np.array(row, np.float32).reshape(1, 1, -1) for rows in DOCUMENTED.values() for row in rows]
    assert_same(run_program(tmp_path, "iOS15", {"x": STEP}, build), expected)


def test_upsampling_is_pytorchs(tmp_path):
    def build(mb, x):
        return [
            mb.upsample_nearest_neighbor(x=x, scale_factor_height=2.0, scale_factor_width=3.0),
            mb.resize_nearest_neighbor(x=x, target_size_height=9, target_size_width=4),
            mb.upsample_bilinear(x=x, scale_factor_height=2.0, scale_factor_width=2.5, align_corners=True),
            mb.upsample_bilinear(x=x, scale_factor_height=2.0, scale_factor_width=2.5, align_corners=False),
            mb.upsample_bilinear(x=x, scale_factor_height=0.5, scale_factor_width=0.75, align_corners=False),
            mb.crop(x=x, crop_height=[1, 2], crop_width=[0, 3]),
        ]

    x = torch.from_numpy(X)
    expected = [
        F.interpolate(x, scale_factor=(2, 3), mode="nearest"),
        F.interpolate(x, (9, 4), mode="nearest"),
        F.interpolate(x, (12, 12), mode="bilinear", align_corners=True),
        F.interpolate(x, (12, 12), mode="bilinear", align_corners=False),
        F.interpolate(x, (3, 3), mode="bilinear", align_corners=False),
        x[:, :, 1:4, :2],
    ]
    assert_same(run_program(tmp_path, "iOS16", {"x": X}, build), expected)


def test_resize_takes_its_last_sizes_from_a_tensor_and_0_for_those_it_keeps(tmp_path):
    def build(mb, x, shape):
        kept = mb.resize(x=x, shape=[0, 7], resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS")
        near = mb.resize(x=x, shape=shape, resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR")
        return [kept, near]

    x = torch.from_numpy(X)
    # The nearest element to each point of the grid, not the one before it.
    rows, columns = [0, 2, 3, 5], [0, 1, 2, 2, 3, 4, 4]
    rows = np.round(np.arange(4) * 6 / 4).astype(int)
    columns = np.minimum(np.round(np.arange(7) * 5 / 7), 4).astype(int)
    expected = [F.interpolate(x, (6, 7), mode="bilinear"), X[:, :, rows][..., columns]]
    shape = np.array([1, 3, 4, 7], np.int32)
    assert_same(run_program(tmp_path, "iOS17", {"x": X, "shape": shape}, build), expected)


def test_resampling_is_pytorchs_grid_sample(tmp_path):
    grid = DRAWN.uniform(-1.6, 1.6, (1, 4, 3, 2)).astype(np.float32)
    cases = [
        (sampling, padding, aligned)
        for sampling in ("bilinear", "nearest")
        for padding in ("constant", "border", "reflection")
        for aligned in (True, False)
    ]
    # PyTorch reflects about the edge of the outer pixels unless corners are aligned: MIL's "symmetric".
    named = {("reflection", False): "symmetric"}

    def build(mb, x, grid):
        return [
            mb.resample(
                x=x,
                coordinates=grid,
                sampling_mode=sampling,
                padding_mode=named.get((padding, aligned), padding),
                padding_value=0.0,
                coordinates_mode="normalized_minus_one_to_one",
                align_corners=aligned,
            )
            for sampling, padding, aligned in cases
        ]

    kinds = {"constant": "zeros", "border": "border", "reflection": "reflection"}
    expected = [
        F.grid_sample(torch.from_numpy(X), torch.from_numpy(grid), sampling, kinds[padding], aligned)
        for sampling, padding, aligned in cases
    ]
    assert_same(run_program(tmp_path, "iOS16", {"x": X, "grid": grid}, build), expected)


def test_an_affine_map_samples_as_pytorchs_affine_grid(tmp_path):
    matrix = np.array([[0.9, 0.2, 0.1, -0.3, 1.1, -0.2]], np.float32)

    def build(mb, x, matrix):
        return [
            mb.affine(
                x=x,
                transform_matrix=matrix,
                output_height=4,
                output_width=7,
                sampling_mode="bilinear",
                padding_mode="constant",
                padding_value=0.0,
                coordinates_mode="normalized_minus_one_to_one",
                align_corners=True,
            )
        ]

    grid = F.affine_grid(torch.from_numpy(matrix).reshape(1, 2, 3), [1, 3, 4, 7], align_corners=True)
    expected = [F.grid_sample(torch.from_numpy(X), grid, align_corners=True)]
    assert_same(run_program(tmp_path, "iOS15", {"x": X, "matrix": matrix}, build), expected)


def test_boxes_are_cut_out_in_every_spelling_and_filled_outside(tmp_path):
    image = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
    boxes = np.array([[0.1, 0.3, 1.3, 1.0], [0.5, 1.8, 1.0, 0.3], [0.0, 0.4, 0.6, 0.7]], np.float32)
    spelled = {
        "CORNERS_HEIGHT_FIRST": [[1, 0, 3, 2]],
        "CORNERS_WIDTH_FIRST": [[0, 1, 2, 3]],
        "CENTER_SIZE_HEIGHT_FIRST": [[2, 1, 2, 2]],
        "CENTER_SIZE_WIDTH_FIRST": [[1, 2, 2, 2]],
    }

    def build(mb, x):
        size = {"x": x, "target_height": 2, "target_width": 2, "sampling_mode": "ALIGN_CORNERS"}
        outside = mb.crop_resize(
            **size, boxes=boxes, box_indices=[0, 0, 0], normalized_coordinates=True, pad_value=10.0
        )
        same = [
            mb.crop_resize(**size, boxes=np.array(box, np.float32), box_coordinate_mode=mode)
            for mode, box in spelled.items()
        ]
        return [outside, *same]

    # The first is coremltools' own example.
    outside = [3.1, 5.2, 10.0, 10.0, 10.0, 7.9, 10.0, 13.9, 2.2, 3.1, 9.4, 10.3]
    expected = [np.array(outside, np.float32).reshape(3, 1, 2, 2), *[image[:, :, 1::2, :3:2]] * 4]
    assert_same(run_program(tmp_path, "iOS17", {"x": image}, build), expected)


def test_boxes_before_ios17_name_their_image_or_mean_all(tmp_path):
    images = DRAWN.standard_normal((2, 1, 4, 4)).astype(np.float32)

    def build(mb, x):
        size = {"x": x, "target_height": 3, "target_width": 3, "sampling_mode": "STRICT_ALIGN_CORNERS"}
        of_second = np.array([1, 1, 0, 3, 2], np.float32).reshape(1, 1, 5, 1, 1)
        of_all = np.array([1, 0, 3, 2], np.float32).reshape(1, 1, 4, 1, 1)
        return [mb.crop_resize(**size, roi=of_second), mb.crop_resize(**size, roi=of_all)]

    cut = images[:, :, 1:, :3]
    assert_same(run_program(tmp_path, "iOS16", {"x": images}, build), [cut[None, 1:], cut[None]])
