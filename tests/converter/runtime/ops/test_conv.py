"""Convolutions and their transposes against PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.support.mil_programs import assert_same, run_program

DRAWN = np.random.default_rng(0)


def drawn(*shape):
    return DRAWN.standard_normal(shape).astype(np.float32)


def t(array):
    return torch.from_numpy(array)


IMAGE = drawn(1, 4, 9, 7)
WEIGHT, BIAS = drawn(6, 2, 3, 3), drawn(6)
CONVOLUTIONS = [
    ({"pad_type": "valid"}, lambda x, w: F.conv2d(x, w, t(BIAS), (2, 1), 0, 1, 2)),
    ({"pad_type": "custom", "pad": [1, 1, 2, 2]}, lambda x, w: F.conv2d(x, w, t(BIAS), (2, 1), (1, 2), 1, 2)),
    (
        {"pad_type": "custom", "pad": [0, 1, 2, 0]},
        lambda x, w: F.conv2d(F.pad(x, (2, 0, 0, 1)), w, t(BIAS), (2, 1), 0, 1, 2),
    ),
    ({"pad_type": "same"}, lambda x, w: F.conv2d(F.pad(x, (1, 1, 1, 1)), w, t(BIAS), (2, 1), 0, 1, 2)),
]


def test_convolution_pads_by_its_parameters(tmp_path):
    def build(mb, x):
        common = {"x": x, "weight": WEIGHT, "bias": BIAS, "strides": [2, 1], "groups": 2}
        return [mb.conv(**common, **case) for case, _ in CONVOLUTIONS]

    outputs = run_program(tmp_path, "iOS16", {"x": IMAGE}, build)
    assert_same(outputs, [expected(t(IMAGE), t(WEIGHT)) for _, expected in CONVOLUTIONS])


def test_an_odd_element_of_same_padding_comes_last_or_first(tmp_path):
    x, weight = drawn(1, 2, 6, 6), drawn(3, 2, 3, 3)

    def build(mb, x):
        return [mb.conv(x=x, weight=weight, strides=[2, 2], pad_type=kind) for kind in ("same", "same_lower")]

    expected = [F.conv2d(F.pad(t(x), sides), t(weight), None, 2) for sides in ((0, 1, 0, 1), (1, 0, 1, 0))]
    assert_same(run_program(tmp_path, "iOS16", {"x": x}, build), expected)


@pytest.mark.parametrize("rank", [1, 3])
def test_lines_and_volumes_are_convolved(tmp_path, rank):
    x, weight, back = drawn(2, 4, *[6] * rank), drawn(5, 4, *[2] * rank), drawn(4, 3, *[2] * rank)

    def build(mb, x):
        two = [2] * rank
        return [mb.conv(x=x, weight=weight, dilations=two), mb.conv_transpose(x=x, weight=back, strides=two)]

    conv = (F.conv1d, F.conv3d)[rank // 3]
    transpose = (F.conv_transpose1d, F.conv_transpose3d)[rank // 3]
    expected = [conv(t(x), t(weight), dilation=2), transpose(t(x), t(back), stride=2)]
    assert_same(run_program(tmp_path, "iOS15", {"x": x}, build), expected)


def test_transposed_convolution_crops_extends_and_groups(tmp_path):
    x, weight, bias = drawn(2, 4, 5, 6), drawn(4, 3, 4, 3), drawn(6)

    def build(mb, x):
        common = {"x": x, "weight": weight, "bias": bias, "groups": 2}
        return [
            mb.conv_transpose(**common),
            mb.conv_transpose(**common, strides=[2, 2], dilations=[1, 2], pad_type="custom", pad=[1, 1, 2, 2]),
            # PyTorch's output_padding, as its frontend writes it: the end reaches past what the input does.
            mb.conv_transpose(
                **common, strides=[3, 3], pad_type="custom", pad=[0, 0, 0, 0], output_shape=[2, 6, 18, 20]
            ),
            mb.conv_transpose(**common, strides=[2, 2], pad_type="same"),
        ]

    def expected(*settings):
        return F.conv_transpose2d(t(x), t(weight), t(bias), *settings)

    whole = expected((2, 2), (0, 0), 0, 2)
    wanted = [
        expected(1, 0, 0, 2),
        expected(2, (1, 2), 0, 2, (1, 2)),
        expected(3, 0, (2, 2), 2),
        whole[:, :, 1:11, 0:12],
    ]
    assert_same(run_program(tmp_path, "iOS16", {"x": x}, build), wanted)
