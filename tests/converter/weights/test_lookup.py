"""Decoding by tables and by scales, in C and with NumPy, against elements computed one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from converter.weights.blob import pack
from converter.weights.dtypes import BY_NAME
from converter.weights.library import library
from converter.weights.lookup import Lookup, Scaled

BUILDS = [
    pytest.param(
        True, marks=pytest.mark.skipif(library("_lookup") is None, reason="the library in C is not built"), id="C"
    ),
    pytest.param(False, id="NumPy"),
]


@pytest.mark.parametrize("in_c", BUILDS)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((67,), (1,)),  # ends within a byte
        ((6, 5, 3), (1, 1, 1)),
        ((6, 5, 3), (3, 1, 1)),  # groups begin within a byte
        ((4, 6, 8), (1, 2, 1)),
        ((4, 6, 8), (2, 1, 4)),
        ((2, 3), (2, 3)),  # a table for each element
        ((0, 3), (1, 1)),
    ],
)
def test_each_element_is_its_tables_value(shape, groups, bits, in_c):
    rng = np.random.default_rng(bits)
    indices = rng.integers(0, 1 << bits, shape)
    values = rng.standard_normal((int(np.prod(groups)), 1 << bits)).astype(np.float16)
    packed = np.frombuffer(pack(indices, BY_NAME[f"uint{bits}"]), np.uint8)
    expected = np.empty(shape, np.float16)
    for place in itertools.product(*map(range, shape)):
        part = [at * count // size for at, count, size in zip(place, groups, shape, strict=True)]
        expected[place] = values[np.ravel_multi_index(part, groups), indices[place]]
    lookup = Lookup(packed, bits, shape, groups, values)
    for dtype in (np.float16, np.float32, np.float64):
        decoded = lookup.dense(dtype, in_c=in_c)
        assert decoded.dtype == dtype
        np.testing.assert_array_equal(decoded, expected)


def test_an_array_is_decoded_into_a_larger_place():
    lookup = Lookup(np.array([0b11100100], np.uint8), 2, (2, 2), (1, 1), np.arange(4, dtype=np.float32)[None])
    place = np.full(6, np.nan, np.float32)
    np.testing.assert_array_equal(lookup.dense(np.float32, out=place), [[0, 1], [2, 3]])
    if library("_lookup") is not None:
        np.testing.assert_array_equal(place[:4], [0, 1, 2, 3])
    assert np.isnan(place[4:]).all()


@pytest.mark.parametrize("in_c", BUILDS)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((67,), (1,)),
        ((6, 5, 3), (1, 1, 1)),
        ((6, 5, 3), (6, 1, 1)),  # groups begin within a byte
        ((4, 6, 8), (2, 1, 4)),
        ((2, 3), (2, 3)),
        ((0, 3), (1, 1)),
        ((9, 3000), (3, 2)),  # more than are decoded at once
    ],
)
def test_each_element_is_its_integer_less_an_offset_times_a_scale_and_rounded_once(shape, groups, bits, signed, in_c):
    rng = np.random.default_rng(bits)
    low, parts = -(1 << (bits - 1)) if signed else 0, int(np.prod(groups))
    integers = rng.integers(low, low + (1 << bits), shape)
    # From numbers that fp16 rounds to zero to those that nearly fill its range.
    scales = np.exp(rng.uniform(np.log(1e-10), np.log(100), parts)).astype(np.float32) * rng.choice([-1, 1], parts)
    offsets = rng.integers(-8, 8, parts).astype(np.float32)
    packed = np.frombuffer(pack(integers, BY_NAME[f"{'' if signed else 'u'}int{bits}"]), np.uint8)
    expected = np.empty(shape, np.float16)
    for place in itertools.product(*map(range, shape)):
        part = [at * count // size for at, count, size in zip(place, groups, shape, strict=True)]
        index = np.ravel_multi_index(part, groups)
        expected[place] = (np.float32(integers[place]) - offsets[index]) * scales[index]
    scaled = Scaled(packed, bits, signed, shape, groups, scales.astype(np.float32), offsets)
    for dtype in (np.float16, np.float32, np.float64):
        decoded = scaled.dense(dtype, in_c=in_c)
        assert decoded.dtype == dtype
        np.testing.assert_array_equal(decoded, expected)
        np.testing.assert_array_equal(np.signbit(decoded), np.signbit(expected))


@pytest.mark.parametrize("in_c", BUILDS)
def test_scales_round_to_every_number_of_fp16_as_numpy_does(in_c):
    every = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (every[1:] + every[:-1]) / 2  # ties
    near = np.nextafter(between, np.float32(0)), np.nextafter(between, np.float32(np.inf))
    scales = np.concatenate([every, between, *near]) / 64
    integers = np.full(scales.size, 64, np.uint8)
    ones = Scaled(integers, 8, False, scales.shape, scales.shape, scales, np.zeros(scales.size, np.float32))
    numbers = np.where(scales * 320 < 65504, scales, 0)  # what C leaves to NumPy for its range
    kept = Scaled(integers, 8, False, scales.shape, scales.shape, numbers, np.zeros(scales.size, np.float32))
    for scaled, factors in ((ones, scales), (kept, numbers)):
        expected = (factors * 64).astype(np.float16)
        for dtype in (np.float16, np.float32):
            np.testing.assert_array_equal(scaled.dense(dtype, in_c=in_c), expected)


@pytest.mark.parametrize("scale", [300.0, np.inf, np.nan])
def test_what_fp16_does_not_have_is_infinite_or_no_number_and_says_nothing(scale):
    scales, offsets = np.array([scale, 1], np.float32), np.zeros(2, np.float32)
    decoded = Scaled(np.array([0, 255, 0, 255], np.uint8), 8, False, (2, 2), (2, 1), scales, offsets).dense(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        row = (np.array([0, 255], np.float32) * np.float32(scale)).astype(np.float16)
    np.testing.assert_array_equal(decoded, [row, [0, 255]])


@pytest.mark.parametrize("groups", [(1, 1), (8, 1)])
def test_threads_share_scaled_integers_and_leave_none_out(groups, monkeypatch):
    monkeypatch.setattr("converter.weights.lookup.cores", lambda: 3)
    rng = np.random.default_rng(1)
    integers = rng.integers(-8, 8, (1000, 3001))
    packed = np.frombuffer(pack(integers, BY_NAME["int4"]), np.uint8)
    scales = rng.random(groups[0]).astype(np.float32)
    scaled = Scaled(packed, 4, True, integers.shape, groups, scales, np.zeros(groups[0], np.float32))
    np.testing.assert_array_equal(scaled.dense(np.float32), scaled.dense(np.float32, in_c=False))


@pytest.mark.parametrize("groups", [(1, 1), (8, 1)])
def test_threads_share_a_large_array_and_leave_no_element_out(groups, monkeypatch):
    monkeypatch.setattr("converter.weights.lookup.cores", lambda: 3)
    rng = np.random.default_rng(1)
    indices = rng.integers(0, 64, (1000, 3001))
    values = rng.standard_normal((groups[0], 64)).astype(np.float16)
    packed = np.frombuffer(pack(indices, BY_NAME["uint6"]), np.uint8)
    decoded = Lookup(packed, 6, indices.shape, groups, values).dense(np.float32)
    tables = np.repeat(np.arange(groups[0]), 1000 // groups[0])
    np.testing.assert_array_equal(decoded, values[tables[:, None], indices])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": (1,)}, "groups along 1 axes are for an array of 2"),
        ({"groups": (3, 1), "values": np.zeros((3, 16))}, "3 groups along axis 0 do not divide its 4 elements"),
        ({"values": np.zeros((1, 15))}, r"4 bits need 1 tables of 16 values, not \[1, 15\]"),
        ({"indices": np.zeros(7, np.uint8)}, r"\[4, 4\] integers of 4 bits take 8 bytes, not 7"),
        (
            {"bits": 5, "indices": np.zeros(10, np.uint8), "values": np.zeros((1, 32))},
            "integers of 5 bits are not accepted",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(change, message):
    parts = {
        "indices": np.zeros(8, np.uint8),
        "bits": 4,
        "shape": (4, 4),
        "groups": (1, 1),
        "values": np.zeros((1, 16)),
    }
    with pytest.raises(ValueError, match=message):
        Lookup(**{**parts, **change})


def test_scales_that_are_not_one_for_each_group_are_refused():
    with pytest.raises(ValueError, match=r"2 groups need as many scales and offsets, not \[3\] and \[2\]"):
        Scaled(np.zeros(4, np.uint8), 8, True, (2, 2), (2, 1), np.zeros(3, np.float32), np.zeros(2, np.float32))
