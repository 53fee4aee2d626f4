"""Vectors get the moments of others, by the map that moves them least."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from server.pipeline.palette.moments import Moments, matched


def vectors(seed, count=500):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, 3)) @ rng.standard_normal((3, 3)) + rng.standard_normal(3)).astype(np.float32)


def test_matched_vectors_have_the_wanted_mean_and_covariance():
    wanted = Moments.of(vectors(1))
    result = Moments.of(matched(vectors(2), wanted))
    assert result.mean == pytest.approx(wanted.mean, abs=1e-5)
    assert result.covariance == pytest.approx(wanted.covariance, rel=1e-2, abs=1e-3)


def test_the_map_is_the_optimal_transport_of_normal_distributions():
    source, wanted = vectors(3), Moments.of(vectors(4))
    own = Moments.of(source)
    root = sqrtm(own.covariance)
    inverse = np.linalg.inv(root)
    change = inverse @ sqrtm(root @ wanted.covariance @ root) @ inverse
    assert matched(source, wanted) == pytest.approx((source - own.mean) @ change + wanted.mean, abs=1e-4)


def test_vectors_that_have_the_moments_stay():
    source = vectors(5)
    assert matched(source, Moments.of(source)) == pytest.approx(source, abs=1e-5)


@pytest.mark.parametrize("source", [np.zeros((50, 3), np.float32), np.full((50, 3), 0.5, np.float32)])
def test_vectors_without_variance_move_to_the_mean(source):
    wanted = Moments.of(vectors(6))
    assert matched(source, wanted) == pytest.approx(np.tile(wanted.mean, (50, 1)), abs=1e-4)
    assert np.isfinite(matched(vectors(6), Moments.of(source))).all()
