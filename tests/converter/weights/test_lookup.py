"""Decoding by tables, in C and with NumPy, against elements chosen one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from converter.weights.blob import pack
from converter.weights.dtypes import BY_NAME
from converter.weights.library import library
from converter.weights.lookup import Lookup

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
        ({"groups": (1,)}, "tables along 1 axes are for an array of 2"),
        ({"groups": (3, 1), "values": np.zeros((3, 16))}, "3 tables along axis 0 do not divide its 4 elements"),
        ({"values": np.zeros((1, 15))}, r"4 bits need 1 tables of 16 values, not \[1, 15\]"),
        ({"indices": np.zeros(7, np.uint8)}, r"\[4, 4\] integers of 4 bits take 8 bytes, not 7"),
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
