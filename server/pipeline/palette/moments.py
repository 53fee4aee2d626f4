"""Match the first and second moments of two sets of vectors: colors of pixels, or latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Added to variances, as a share of their sum: an image of one color has none, and its map would be infinite.
_LEAST = 1e-4


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)


@dataclass(frozen=True)
class Moments:
    """The mean [C] and the covariance [C, C] of vectors."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @staticmethod
    def of(vectors: NDArray[np.float32]) -> Moments:
        """Return the moments of ``vectors`` [N, C]."""
        mean = vectors.mean(0, dtype=np.float64)
        centered = vectors - mean
        covariance = centered.T @ centered / len(vectors)
        return Moments(mean, covariance + _LEAST * max(np.trace(covariance), _LEAST) * np.eye(len(mean)))


def matched(vectors: NDArray[np.float32], wanted: Moments) -> NDArray[np.float32]:
    """Return ``vectors`` [N, C] after the linear map that gives them the wanted moments and moves them least.

    The Monge-Kantorovich map between normal distributions (Pitié and Kokaram 2007, "The linear Monge-Kantorovitch linear
    colour mapping for example-based colour transfer"). Reinhard et al. 2001 scale each channel by itself, which is the same
    where the channels are uncorrelated.
    """
    own = Moments.of(vectors)
    root = _root(own.covariance)
    inverse = np.linalg.inv(root)
    change = inverse @ _root(root @ wanted.covariance @ root) @ inverse
    return np.asarray((vectors - own.mean) @ change + wanted.mean, np.float32)
