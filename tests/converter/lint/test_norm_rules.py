"""Decomposed norms, squares that overflow, epsilons that are zero in fp16."""

from __future__ import annotations

import numpy as np
import pytest

SHAPE = (1, 64, 1, 256)


def decomposed_norm(mil, x, axes, *, centre=True, square=None, epsilon=1e-5):
    """Return a norm in small operations."""
    mb = mil.mb
    y = mb.sub(x=x, y=mb.reduce_mean(x=x, axes=axes, keep_dims=True)) if centre else x
    squares = mb.square(x=y) if square is None else square(y)
    variance = mb.reduce_mean(x=squares, axes=axes, keep_dims=True)
    return mb.real_div(x=y, y=mb.sqrt(x=mb.add(x=variance, y=np.float16(epsilon))))


@pytest.mark.parametrize("form", ["square", "mul", "pow"])
def test_a_layer_norm_in_small_operations_is_a_warning(mil, linted, serious, form):
    mb = mil.mb
    squares = {"square": None, "mul": lambda y: mb.mul(x=y, y=y), "pow": lambda y: mb.pow(x=y, y=np.float16(2))}
    findings = linted(lambda x: decomposed_norm(mil, x, [1], square=squares[form]), SHAPE)
    assert serious(findings) == {"W6", "N2"}


def test_a_layer_norm_of_its_own_is_not_reported(mil, linted, serious):
    mb = mil.mb
    gamma, beta = np.ones(64, np.float16), np.zeros(64, np.float16)
    findings = linted(lambda x: mb.layer_norm(x=x, axes=[1], gamma=gamma, beta=beta, epsilon=np.float16(1e-5)), SHAPE)
    assert not serious(findings)


def test_a_root_mean_square_in_fp16_is_a_warning_and_in_fp32_is_not(mil, linted, serious):
    assert serious(linted(lambda x: decomposed_norm(mil, x, [1], centre=False), SHAPE)) == {"N2"}

    def wide(x):
        square = mil.mb.square(x=mil.mb.cast(x=x, dtype="fp32"))
        return mil.mb.cast(x=mil.mb.reduce_mean(x=square, axes=[1], keep_dims=True), dtype="fp16")

    assert not serious(linted(wide, SHAPE))


def test_a_mean_of_other_values_than_squares_is_not_a_norm(mil, linted, serious):
    def build(x):
        return mil.mb.reduce_mean(x=mil.mb.pow(x=x, y=np.float16(3)), axes=[1], keep_dims=True)

    assert not serious(linted(build, SHAPE))


def test_a_group_norm_as_coremltools_lowers_it_is_a_note(mil, linted, serious, noted):
    def build(x):
        groups = mil.mb.reshape(x=x, shape=(1, 4, 16, 16, 16))
        return mil.mb.reshape(x=decomposed_norm(mil, groups, [2, 3, 4]), shape=(1, 64, 16, 16))

    findings = linted(build, (1, 64, 16, 16))
    assert (serious(findings), noted(findings)) == (set(), {"W6", "N2"})


@pytest.mark.parametrize(("by", "overflows"), [("its own peak", False), ("another's", True)])
def test_squares_of_values_divided_by_their_peak_do_not_overflow(mil, linted, by, overflows):
    mb = mil.mb

    def build(x, other):
        def square(y):
            values = y if by == "its own peak" else other
            peak = mb.reduce_max(x=mb.abs(x=values), axes=[1], keep_dims=True)
            return mb.square(x=mb.real_div(x=y, y=mb.add(x=peak, y=np.float16(0.01))))

        return decomposed_norm(mil, x, [1], square=square)

    assert ("N2" in {f.rule for f in linted(build, SHAPE, SHAPE)}) == overflows


@pytest.mark.parametrize(("epsilon", "broken"), [(1e-12, {"N5"}), (1e-5, set()), (1e-6, set())])
def test_an_epsilon_that_is_zero_in_fp16_is_a_warning(mil, linted, serious, epsilon, broken):
    gamma = np.ones(64, np.float16)

    def build(x):
        return mil.mb.layer_norm(x=x, axes=[1], gamma=gamma, beta=gamma, epsilon=np.float16(epsilon))

    assert serious(linted(build, SHAPE)) == broken
    assert serious(linted(lambda x: decomposed_norm(mil, x, [1], epsilon=epsilon), SHAPE)) == {"W6", "N2"} | broken


def test_softplus_and_the_logarithm_of_a_sum_of_exponentials_overflow_on_the_engine(mil, linted, serious):
    mb = mil.mb
    assert serious(linted(lambda x: mb.softplus(x=x), SHAPE)) == {"N2"}
    assert serious(linted(lambda x: mb.reduce_log_sum_exp(x=x, axes=[1], keep_dims=True), SHAPE)) == {"N2"}

    def stable(x):
        small = mb.exp(x=mb.mul(x=mb.abs(x=x), y=np.float16(-1)))
        return mb.add(x=mb.relu(x=x), y=mb.log(x=mb.add(x=small, y=np.float16(1)), epsilon=np.float16(0)))

    assert not serious(linted(stable, SHAPE))


def test_softplus_in_fp32_is_off_the_engine_and_does_not_overflow(mil, linted):
    assert "N2" not in {f.rule for f in linted(lambda x: mil.mb.softplus(x=x), (SHAPE, "fp32"))}
