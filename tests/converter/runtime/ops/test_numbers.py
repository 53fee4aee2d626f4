"""Quantization, random numbers and products, as programs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.mil_programs import assert_same, run_program

DRAWN = np.random.default_rng(0)
X = DRAWN.uniform(-3, 3, (2, 3, 4)).astype(np.float32)


def test_numbers_are_quantized_to_the_nearest_step_within_range_and_back(tmp_path):
    scales, zeros = np.array([0.01, 0.02, 0.05], np.float32), np.array([-3, 0, 7], np.int8)

    def build(mb, x):
        whole = mb.quantize(input=x, scale=np.float32(0.01), zero_point=np.uint8(100), output_dtype="uint8")
        by_row = mb.quantize(input=x, scale=scales, zero_point=zeros, axis=1, output_dtype="int8")
        return [
            whole,
            by_row,
            mb.dequantize(input=whole, scale=np.float32(0.01), zero_point=np.uint8(100)),
            mb.dequantize(input=by_row, scale=scales, axis=-2),
        ]

    column = scales[:, None]
    whole = np.clip(np.round(X / np.float32(0.01)) + 100, 0, 255)
    by_row = np.clip(np.round(X / column) + zeros[:, None], -128, 127)
    assert_same(run_program(tmp_path, "iOS17", {"x": X}, build), [whole, by_row, (whole - 100) * 0.01, by_row * column])


def test_random_numbers_follow_their_law_and_their_seed(tmp_path):
    logits = np.log(np.array([[0.1, 0.9], [0.5, 0.5]], np.float32))

    def build(mb, x):
        return [
            mb.random_normal(shape=[4000], mean=2.0, stddev=0.5, seed=7),
            mb.random_normal(shape=[4000], mean=2.0, stddev=0.5, seed=7),
            mb.random_uniform(shape=[4000], low=-1.0, high=3.0, seed=7),
            mb.random_bernoulli(shape=[4000], prob=0.25, seed=7),
            mb.random_categorical(x=x, size=4000, seed=7),
            mb.random_categorical(x=mb.exp(x=x), mode="probs", size=4000, seed=7),
            mb.random_normal(shape=[4]),
            mb.random_normal(shape=[4]),
        ]

    normal, again, uniform, coin, drawn, same, free, other = run_program(tmp_path, "iOS15", {"x": logits}, build)
    np.testing.assert_array_equal(normal, again)
    np.testing.assert_array_equal(drawn, same)
    assert not np.array_equal(free, other)
    assert (abs(normal.mean() - 2) < 0.05, abs(normal.std() - 0.5) < 0.05) == (True, True)
    assert (uniform.min() >= -1, uniform.max() < 3, abs(uniform.mean() - 1) < 0.1) == (True, True, True)
    assert (set(coin), abs(coin.mean() - 0.25) < 0.05) == ({0.0, 1.0}, True)
    np.testing.assert_allclose(drawn.mean(1), [0.9, 0.5], atol=0.05)


def test_matrix_products_of_every_kind(tmp_path):
    a, b, weight, bias = (DRAWN.standard_normal(s).astype(np.float32) for s in ((2, 3, 4), (2, 5, 4), (6, 4), (6,)))

    def build(mb, a, b):
        return [
            mb.matmul(x=a, y=b, transpose_y=True),
            mb.matmul(x=a, y=a, transpose_x=True),
            mb.linear(x=a, weight=weight, bias=bias),
        ]

    t, u = torch.from_numpy(a), torch.from_numpy(b)
    expected = [
        t @ u.transpose(1, 2),
        t.transpose(1, 2) @ t,
        torch.nn.functional.linear(t, torch.from_numpy(weight), torch.from_numpy(bias)),
    ]
    assert_same(run_program(tmp_path, "iOS15", {"a": a, "b": b}, build), expected)


@pytest.mark.parametrize("height", [1, 2])
def test_the_neural_engines_einsums_are_einsums_at_any_height(tmp_path, height):
    sizes = {"b": 2, "k": 5, "h": height, "c": 3, "q": 4}
    equations = ["bkhc,bchq->bkhq", "bchk,bkhq->bchq"]
    sides = [side for equation in equations for side in equation.split("->")[0].split(",")]
    given = {f"x{i}": DRAWN.standard_normal([sizes[n] for n in s]).astype(np.float32) for i, s in enumerate(sides)}

    def build(mb, x0, x1, x2, x3):
        return [
            mb.einsum(values=(x0, x1), equation=equations[0]),
            mb.einsum(values=(x2, x3), equation=equations[1]),
        ]

    x = list(given.values())
    expected = [np.einsum(equations[0], *x[:2]), np.einsum(equations[1], *x[2:])]
    assert_same(run_program(tmp_path, "iOS15", given, build), expected)
