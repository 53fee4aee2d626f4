"""OKLab, a space in which distances are about as large as they look (Ottosson 2020, https://bottosson.github.io/posts/oklab/)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Lightness 0 to 1, then green to red and blue to yellow, about -0.4 to 0.4; the last axis has the three.
Lab = NDArray[np.float32]

_CONES_OF_LINEAR = np.asarray(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB_OF_CONES = np.asarray(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_CONES_OF_LAB = np.linalg.inv(_LAB_OF_CONES)
_LINEAR_OF_CONES = np.linalg.inv(_CONES_OF_LINEAR)


def _linear_of_levels() -> NDArray[np.float32]:
    """Return the linear light of each level of sRGB (IEC 61966-2-1)."""
    level = np.arange(256) / 255
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4).astype(np.float32)


_LINEAR = _linear_of_levels()


def to_oklab(pixels: NDArray[np.uint8]) -> Lab:
    """Return the colors of sRGB ``pixels`` [..., 3] in OKLab, fp32 [..., 3]."""
    cones = _LINEAR[pixels] @ _CONES_OF_LINEAR.T.astype(np.float32)
    return np.asarray(np.cbrt(cones) @ _LAB_OF_CONES.T.astype(np.float32), np.float32)


def to_srgb(lab: Lab) -> NDArray[np.uint8]:
    """Return colors of OKLab [..., 3] as sRGB, uint8 [..., 3]; a color beyond sRGB is clipped channel by channel."""
    linear = np.clip((lab @ _CONES_OF_LAB.T.astype(np.float32)) ** 3 @ _LINEAR_OF_CONES.T.astype(np.float32), 0, 1)
    levels = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * levels).astype(np.uint8)
