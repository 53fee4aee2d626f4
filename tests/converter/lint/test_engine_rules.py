"""What leaves the engine: types, ranks, axes, operations, kernels, islands."""

from __future__ import annotations

import numpy as np
import pytest

from converter.lint import lint_package
from converter.mil import FP16

ROW = (1, 64, 1, 256)


def widened(mb, x, inside):
    return mb.cast(x=inside(x=mb.cast(x=x, dtype="fp32")), dtype="fp16")


def test_an_fp32_operation_between_convolutions_is_an_error_and_an_island(mil, linted, conv, serious):
    findings = linted(lambda x: conv(widened(mil.mb, conv(x, 64), mil.mb.exp), 64), ROW)
    assert serious(findings) == {"E1", "W10"}
    (types,) = (f for f in findings if f.rule == "E1")
    assert (types.severity, types.level) == ("off the engine", "error")
    assert sorted(p.operation for p in types.places) == ["cast", "cast", "exp"]
    assert all(p.shapes == (ROW,) and p.function == "main" for p in types.places)
    (island,) = (f for f in findings if f.rule == "W10")
    (place,) = island.places
    assert place.detail.startswith("3 operations, 2 casts")


def test_two_islands_are_two_places(mil, linted, conv):
    def build(x):
        for _ in range(2):
            x = widened(mil.mb, conv(x, 64), mil.mb.exp)
        return conv(x, 64)

    (island,) = (f for f in linted(build, ROW) if f.rule == "W10")
    assert len(island.places) == 2


@pytest.mark.parametrize("where", ["before", "after"])
def test_small_fp32_operations_beside_inputs_and_outputs_are_a_note(mil, linted, conv, serious, noted, where):
    def build(x):
        if where == "before":
            return conv(widened(mil.mb, x, mil.mb.exp), 64)
        return mil.mb.exp(x=mil.mb.cast(x=conv(x, 64), dtype="fp32"))

    findings = linted(build, ROW)
    assert not serious(findings)
    assert "E1" in noted(findings)


def test_a_large_fp32_operation_is_an_error_wherever_it_stands(mil, linted, conv, serious):
    def build(x):
        return mil.mb.exp(x=mil.mb.cast(x=conv(x, 64), dtype="fp32"))

    assert serious(linted(build, (1, 64, 1, 8192))) == {"E1"}


def test_a_network_in_fp32_is_an_error_for_every_operation(mil, linted, serious):
    weight = np.ones((64, 64, 1, 1), np.float32)

    def build(x):
        return mil.mb.relu(x=mil.mb.conv(x=x, weight=weight))

    findings = linted(build, (ROW, "fp32"))
    assert serious(findings) == {"E1"}
    assert {p.operation for p in findings[0].places} == {"conv", "relu"}


@pytest.mark.parametrize(("shape", "broken"), [((1, 4, 4, 4, 2, 512), {"E2"}), ((1, 16, 4, 2, 512), set())])
def test_more_than_five_axes_are_an_error(own_package, serious, shape, broken):
    # Our own graph: coremltools refuses to write such a program.
    def build(g):
        x = g.reshape(g.input("x", (1, 64, 2, 512), FP16), shape, "apart")
        g.output(g.reshape(g.unary("relu", x, "relu"), (1, 64, 2, 512), "whole"), "y")

    findings = lint_package(own_package(build))
    assert serious(findings) == broken
    if broken:
        assert {p.name for p in findings[0].places} == {"apart", "relu", "whole"}


@pytest.mark.parametrize(
    ("shape", "chip", "broken"),
    [
        ((1, 2, 1, 16384), "M1", set()),
        ((1, 2, 1, 16385), "M1", {"E3"}),
        ((1, 2, 16385, 32), "M3", {"E3"}),
        ((1, 2, 1, 16385), "M4", set()),
        ((1, 2, 1, 65537), "M4", {"E3"}),
        ((1, 2, 1, 65536), "M5", set()),
        ((1, 2, 1, 65537), "M5", {"E3"}),
        ((1, 65536, 1, 32), "M1", set()),
        ((1, 65537, 1, 32), "M4", {"E3"}),
    ],
)
def test_axes_are_checked_against_the_limits_of_the_chip(mil, linted, serious, shape, chip, broken):
    assert serious(linted(lambda x: mil.mb.relu(x=x), shape, chip=chip)) == broken


def test_an_operation_without_a_path_is_an_error_between_and_a_note_at_the_ends(mil, linted, conv, serious, noted):
    between = linted(lambda x: conv(mil.mb.softsign(x=conv(x, 64)), 64), ROW)
    assert serious(between) == {"E5", "W10"}
    at_end = linted(lambda x: mil.mb.softsign(x=conv(x, 64)), ROW)
    assert not serious(at_end)
    assert "E5" in noted(at_end)


def test_the_cure_for_select_is_a_formula(mil, linted, conv):
    def build(x):
        y = conv(x, 64)
        return conv(mil.mb.select(cond=mil.mb.greater(x=y, y=np.float16(0)), a=y, b=x), 64)

    (finding,) = (f for f in linted(build, ROW) if f.rule == "E5")
    assert "(1 - condition) * b" in finding.cure


@pytest.mark.parametrize(("chip", "broken"), [("M1", {"E5", "W10"}), ("M2", {"E5", "W10"}), ("M3", set())])
def test_sines_run_from_m3(mil, linted, conv, serious, chip, broken):
    assert serious(linted(lambda x: conv(mil.mb.sin(x=conv(x, 64)), 64), ROW, chip=chip)) == broken


@pytest.mark.parametrize(("chip", "rules"), [("M1", {"E5"}), ("M2", set())])
def test_upsampling_is_a_note_on_m1(mil, linted, conv, serious, noted, chip, rules):
    def build(x):
        two = {"scale_factor_height": np.float32(2), "scale_factor_width": np.float32(2)}
        return conv(mil.mb.upsample_nearest_neighbor(x=conv(x, 64), **two), 64)

    findings = linted(build, (1, 64, 32, 32), chip=chip)
    assert not serious(findings)
    assert noted(findings) == rules


@pytest.mark.parametrize(
    ("parameters", "chip", "broken"),
    [
        ({"kernel": 29}, "M1", set()),
        ({"kernel": 31}, "M1", {"E8"}),
        ({"kernel": 31}, "M2", set()),
        ({"kernel": 5, "strides": [4, 4]}, "M1", set()),
        ({"kernel": 5, "strides": [5, 5]}, "M1", {"E8"}),
        ({"kernel": 2, "dilations": [6, 6]}, "M1", set()),
        ({"kernel": 2, "dilations": [7, 7]}, "M1", {"E8"}),
        ({"groups": 2}, "M1", set()),
        ({"groups": 3}, "M1", {"E8"}),
    ],
)
def test_kernels_are_checked_against_the_limits_of_the_chip(linted, conv, serious, parameters, chip, broken):
    assert serious(linted(lambda x: conv(x, 6, **parameters), (1, 6, 64, 64), chip=chip)) == broken


@pytest.mark.parametrize(("stride", "broken"), [(2, set()), (4, {"E8"})])
def test_a_palette_is_not_read_at_strides_above_two(mil, linted, serious, stride, broken):
    def build(x):
        weight = mil.mb.constexpr_lut_to_dense(
            indices=np.array([228] * 16, np.uint8),
            lut=np.array([-1, 0, 1, 2], np.float16),
            shape=np.array([4, 4, 2, 2], np.uint32),
        )
        return mil.mb.conv(x=x, weight=weight, strides=[stride, stride])

    assert serious(linted(build, (1, 4, 64, 64))) == broken


@pytest.mark.parametrize(("stride", "broken"), [(2, set()), (3, {"E8"})])
def test_pooling_is_done_at_strides_of_two_and_four(mil, linted, serious, stride, broken):
    def build(x):
        return mil.mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[stride, stride], pad_type="valid")

    assert serious(linted(build, (1, 4, 64, 64))) == broken


def test_a_small_kernel_before_all_else_is_a_note(linted, conv, serious, noted):
    def build(x):
        x = conv(x, 6, kernel=7, strides=[7, 7])
        for _ in range(3):
            x = conv(x, 256) if x.shape[1] == 6 else conv(x, 512)
        return x

    findings = linted(build, (1, 2, 56, 56))
    assert serious(findings) == set()
    assert noted(findings) == {"E8"}
