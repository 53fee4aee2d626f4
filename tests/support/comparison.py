"""How near an image is to another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def psnr(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the peak signal-to-noise ratio of an image in 0 to 255, in dB; 300 at most, for equal ones."""
    error = np.sqrt(np.mean((actual.astype(np.float64) - expected.astype(np.float64)) ** 2))
    return float(20 * np.log10(255 / max(error, 255e-15)))
