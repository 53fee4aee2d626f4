"""Palettes: none is nearer to the weight, and packed indices are what decoders read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from converter.weights.blob import unpack
from converter.weights.library import library
from converter.weights.palettes import palettize


def normal(count, seed=0):
    return (np.random.default_rng(seed).standard_normal(count) * 0.03).astype(np.float16)


def decoded(array, bits, **options):
    packed, palette = palettize(array, bits, **options)
    return palette[unpack(packed, bits, False, array.shape)]


def squared_error(array, other):
    return float(((array.astype(np.float64) - other) ** 2).sum())


def least_error_of_all_partitions(array, k):
    """Try every way to cut the sorted elements into k intervals."""
    values = np.sort(array.astype(np.float64))
    cuts = itertools.combinations(range(1, values.size), k - 1)
    return min(sum(((part - part.mean()) ** 2).sum() for part in np.split(values, cut)) for cut in cuts)


@pytest.mark.parametrize("in_c", [True, False])
@pytest.mark.parametrize(("bits", "count"), [(1, 40), (2, 16)])
def test_no_partition_has_a_smaller_error(bits, count, in_c):
    for seed in range(10):
        array = normal(count, seed)
        actual = squared_error(array, decoded(array, bits, in_c=in_c))
        # The palette is rounded to fp16 last; elements lie within 2^-11 of the exact centers.
        assert actual <= least_error_of_all_partitions(array, 1 << bits) + count * (0.12 * 2**-11) ** 2


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_the_error_is_not_larger_than_that_of_coremltools_kmeans(ct, bits):
    from coremltools.models.neural_network.quantization_utils import _get_kmeans_lookup_table_and_weight

    array = normal(12_000)
    table, indices = _get_kmeans_lookup_table_and_weight(bits, array, force_kmeans1d=True)
    expected = np.asarray(table, np.float16)[np.asarray(indices)]
    assert squared_error(array, decoded(array, bits)) <= squared_error(array, expected) * (1 + 1e-6)


@pytest.mark.skipif(library("_palette") is None, reason="the library in C is not built: NumPy alone computes palettes")
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_c_and_numpy_agree_to_the_bit(bits):
    array = normal(3001, bits)
    for a, b in zip(palettize(array, bits), palettize(array, bits, in_c=False), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("in_c", [True, False])
@pytest.mark.parametrize(
    "values",
    [[0.0], [-0.0, 0.0, 1.0], [65504.0, -65504.0, 6e-8, -6e-8], list(range(64)), [0.5] * 100],
    ids=["zero", "signed zeros", "extremes", "as many as there are places", "one value"],
)
def test_a_weight_with_as_few_values_as_places_is_kept_exactly(values, in_c):
    array = np.tile(np.array(values, np.float16), 7)
    np.testing.assert_array_equal(decoded(array, 6, in_c=in_c), array)


def test_palettes_rise_and_have_all_their_places():
    _, palette = palettize(np.array([3, 1, 2] * 5, np.float16), 4)
    assert palette.shape == (16,)
    np.testing.assert_array_equal(palette, [1, 2] + [3] * 14)


@pytest.mark.parametrize("in_c", [True, False])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_an_undamped_palette_passes_on_all_of_what_the_weight_does(bits, in_c):
    array = normal(5000)
    exact = array.astype(np.float64)
    plain, undamped = (decoded(array, bits, undamped=each, in_c=in_c).astype(np.float64) for each in (False, True))
    power = float(exact @ exact)
    assert float(exact @ plain) == pytest.approx(power - squared_error(array, plain), rel=1e-3)
    damping = squared_error(array, plain) / power
    assert float(exact @ undamped) == pytest.approx(power, rel=damping / 3)
    assert squared_error(array, undamped) == pytest.approx(power * damping / (1 - damping), rel=1e-2)
    packed, _ = palettize(array, bits, undamped=True, in_c=in_c)
    assert np.array_equal(packed, palettize(array, bits, in_c=in_c)[0])


@pytest.mark.parametrize("values", [[0, 0, 0, 0], [65504, 65504, -65504, 60000, -60000, 1], [6e-8, -6e-8, 6e-8]])
def test_undamped_palettes_of_extreme_weights_are_finite(values):
    array = np.array(values, np.float16)
    found = decoded(array, 1, undamped=True)
    assert np.isfinite(found).all()
    assert np.sign(found[0]) == np.sign(array[0])
