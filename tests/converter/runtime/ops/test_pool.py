"""Pools against PyTorch's."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from tests.support.mil_programs import assert_same, run_program

X = np.random.default_rng(0).standard_normal((1, 3, 8, 7)).astype(np.float32)


def test_pools_pad_count_and_round_up_as_pytorch_does(tmp_path):
    def build(mb, x):
        padded = {"x": x, "kernel_sizes": [3, 2], "strides": [2, 2], "pad_type": "custom", "pad": [1, 1, 1, 1]}
        return [
            mb.max_pool(**padded),
            mb.max_pool(**padded, ceil_mode=True),
            mb.avg_pool(**padded),
            mb.avg_pool(**padded, ceil_mode=True),
            mb.avg_pool(**padded, exclude_padding_from_average=True),
            mb.avg_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid"),
            mb.l2_pool(x=x, kernel_sizes=[2, 3], strides=[2, 2], pad_type="valid"),
        ]

    x = torch.from_numpy(X)
    expected = [
        F.max_pool2d(x, (3, 2), 2, 1),
        F.max_pool2d(x, (3, 2), 2, 1, ceil_mode=True),
        F.avg_pool2d(x, (3, 2), 2, 1),
        F.avg_pool2d(x, (3, 2), 2, 1, ceil_mode=True),
        F.avg_pool2d(x, (3, 2), 2, 1, count_include_pad=False),
        F.avg_pool2d(x, 2, 2),
        F.lp_pool2d(x, 2, (2, 3), 2),
    ]
    assert_same(run_program(tmp_path, "iOS15", {"x": X}, build), expected)


def test_same_padding_of_a_maximum_never_wins(tmp_path):
    x = -1 - np.abs(X)

    def build(mb, x):
        return [mb.max_pool(x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="same")]

    expected = F.max_pool2d(F.pad(torch.from_numpy(x), (1, 1, 0, 1), value=float("-inf")), 3, 2)
    assert_same(run_program(tmp_path, "iOS16", {"x": x}, build), [expected])


def test_lines_and_volumes_are_pooled(tmp_path):
    line, volume = X[0], X[None]

    def build(mb, line, volume):
        return [
            mb.avg_pool(x=line, kernel_sizes=[2], strides=[2], pad_type="valid"),
            mb.max_pool(x=volume, kernel_sizes=[2, 2, 2], pad_type="valid"),
        ]

    expected = [F.avg_pool1d(torch.from_numpy(line), 2), F.max_pool3d(torch.from_numpy(volume), 2, 1)]
    assert_same(run_program(tmp_path, "iOS16", {"line": line, "volume": volume}, build), expected)
