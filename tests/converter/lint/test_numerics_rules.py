"""Constants, angles, slices, indices and palettes that fp16 does not hold."""

from __future__ import annotations

import numpy as np
import pytest

from converter.lint import lint_package
from converter.mil import FP16, FP32

SHAPE = (1, 64, 1, 64)


@pytest.mark.parametrize(("dtype", "kind"), [(np.float16, "fp16"), (np.float32, "fp32")])
@pytest.mark.parametrize(("value", "broken"), [(np.inf, {"N1"}), (np.nan, {"N1"}), (65504, set())])
def test_a_constant_that_is_not_finite_is_a_warning(mil, linted, serious, value, broken, dtype, kind):
    constant = np.zeros(SHAPE, dtype)
    constant[0, 3, 0, 5] = value
    findings = linted(lambda x: mil.mb.mul(x=x, y=constant), (SHAPE, kind))
    assert serious(findings) == broken
    if broken:
        (finding,) = (f for f in findings if f.rule == "N1")
        assert finding.places[0].detail == "1 of 4096"


@pytest.mark.parametrize(("value", "broken"), [(-40000, set()), (-50000, {"N1"}), (-np.inf, {"N1"})])
def test_a_mask_too_low_for_fp16_is_a_warning(mil, linted, serious, value, broken):
    mask = np.zeros(SHAPE, np.float16)
    mask[0, 1:] = value
    assert serious(linted(lambda x: mil.mb.softmax(x=mil.mb.add(x=x, y=mask), axis=1), SHAPE)) == broken
    if np.isfinite(value):
        assert not serious(linted(lambda x: mil.mb.add(x=x, y=mask), SHAPE))


@pytest.mark.parametrize(("value", "broken"), [(1e5, {"N1"}), (6e4, set())])
def test_a_constant_cast_beyond_fp16_is_a_warning(own_package, serious, value, broken):
    def build(g):
        wide = g.weight("wide", (1, 64, 1, 1), FP32, lambda: np.full((1, 64, 1, 1), value, np.float32))
        g.output(g.mul(g.input("x", SHAPE, FP16), g.cast(wide, FP16, "narrow"), "scaled"), "y")

    assert serious(lint_package(own_package(build))) == broken


@pytest.mark.parametrize("chip", ["M1", "M4"])
def test_the_sine_of_an_input_in_fp16_is_a_warning(mil, linted, serious, chip):
    frequencies = np.ones((1, 8), np.float16)

    def angle(x):
        return mil.mb.mul(x=mil.mb.expand_dims(x=x, axes=[1]), y=frequencies)

    assert serious(linted(lambda t: mil.mb.sin(x=angle(t)), (2,), chip=chip)) == {"N4"}

    def wide(t):
        sine = mil.mb.cos(x=mil.mb.cast(x=angle(t), dtype="fp32"))
        return mil.mb.cast(x=sine, dtype="fp16")

    assert not serious(linted(wide, (2,), chip=chip))


def test_the_sine_of_what_a_network_computed_is_not_reported(mil, linted, conv, serious):
    assert not serious(linted(lambda x: mil.mb.sin(x=conv(x, 64)), SHAPE, chip="M3"))


@pytest.mark.parametrize(
    ("constant", "begin", "chip", "broken"),
    [
        (5000, [0, 0, 0, 32], "M1", {"N6"}),
        (5000, [0, 0, 0, 32], "M4", set()),
        (5000, [0, 32, 0, 0], "M1", set()),
        (4000, [0, 0, 0, 32], "M1", set()),
    ],
)
def test_a_slice_within_rows_of_values_moved_far_is_a_warning(mil, linted, serious, constant, begin, chip, broken):
    def build(x):
        return mil.mb.slice_by_index(x=mil.mb.add(x=x, y=np.float16(constant)), begin=begin, end=list(SHAPE))

    assert serious(linted(build, SHAPE, chip=chip)) == broken


@pytest.mark.parametrize(
    ("rows", "kind", "broken"), [(3000, "fp16", {"N7"}), (2048, "fp16", set()), (3000, "fp32", set())]
)
def test_indices_that_were_fp16_are_a_warning_beyond_2048(mil, linted, serious, rows, kind, broken):
    table = np.ones((rows, 4), np.float16)

    def build(ids):
        return mil.mb.gather(x=table, indices=mil.mb.cast(x=ids, dtype="int32"), axis=0)

    assert serious(linted(build, ((1, 77), kind))) == broken


@pytest.mark.parametrize(
    ("palette", "expected"),
    [
        ([0, 1, 2, 3], []),
        ([0, 1, 1, 3], [("N8", "note")]),
        ([0, 1, np.inf, 3], [("N8", "warning")]),
    ],
)
def test_palettes_are_checked(mil, linted, palette, expected):
    def build(x):
        weight = mil.mb.constexpr_lut_to_dense(
            indices=np.full(1024, 228, np.uint8),
            lut=np.array(palette, np.float16),
            shape=np.array([64, 64, 1, 1], np.uint32),
        )
        return mil.mb.conv(x=x, weight=weight)

    assert [(f.rule, f.level) for f in linted(build, SHAPE)] == expected


def test_palettes_of_groups_are_checked_one_by_one(mil, linted):
    def build(x):
        palette = np.tile(np.array([0, 1, 2, 3], np.float16).reshape(1, 1, 1, 1, 4, 1), (2, 1, 1, 1, 1, 1))
        palette[1, 0, 0, 0, 3] = 0
        indices = np.zeros((64, 64, 1, 1), np.dtype(np.uint8))
        weight = mil.mb.constexpr_lut_to_dense(indices=indices.astype(mil.types.np_uint2_dtype), lut=palette)
        return mil.mb.conv(x=x, weight=weight)

    (finding,) = linted(build, SHAPE, target="iOS18")
    assert (finding.rule, finding.places[0].detail) == ("N8", "1 of 8 entries equal an earlier one")
