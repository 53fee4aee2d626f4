"""Overlapping windows that cover a plane, for networks that take one size (MultiDiffusion, Bar-Tal et al. 2023).

What the network gives for the windows is averaged where they overlap, with less weight towards a window's edge, so that
no seam is left.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from server.pipeline.boxes.box import OVERLAP, overlapping

Float32 = NDArray[np.float32]
Place = tuple[slice, slice]
_T = TypeVar("_T")


def _weight(window: int) -> Float32:
    """Return the weights along a window: rising from its edge over the overlap."""
    place = np.arange(window, dtype=np.float32) + 0.5
    return np.asarray(np.clip(np.minimum(place, window - place) / (window * OVERLAP), 0, 1), np.float32)


@dataclass(frozen=True)
class Windows:
    """Windows of ``window`` (height, width) on a plane of ``shape`` (height, width), which is not smaller."""

    shape: tuple[int, int]
    window: tuple[int, int]

    def __post_init__(self) -> None:
        if any(side < window for side, window in zip(self.shape, self.window, strict=True)):
            raise ValueError(f"windows of {self.window} do not fit into a plane of {self.shape}")

    @property
    def places(self) -> list[Place]:
        """The rows and columns of each window."""
        (height, width), (rows, columns) = self.shape, self.window
        return [
            (slice(top, top + rows), slice(left, left + columns))
            for top in overlapping(height, rows)
            for left in overlapping(width, columns)
        ]

    def blend(
        self, compute: Callable[[Place], Generator[_T, None, Float32]], into: float = 1
    ) -> Generator[_T, None, Float32]:
        """Return the average of what ``compute`` returns for the windows, fp32 [1, C, h, w] each, as one plane.

        Yields what ``compute`` yields.
        ``into`` is how many times larger than its window a result is: 8 for a decoder, 1/8 for an encoder.
        """
        height, width = (round(side * into) for side in self.shape)
        rows, columns = (round(side * into) for side in self.window)
        weight = _weight(rows)[:, None] * _weight(columns)
        total, weights = np.zeros((), np.float32), np.zeros((height, width), np.float32)
        for place in self.places:
            result = yield from compute(place)
            if not total.ndim:
                total = np.zeros((1, result.shape[1], height, width), np.float32)
            top, left = (round(side.start * into) for side in place)
            here = (slice(top, top + rows), slice(left, left + columns))
            total[:, :, here[0], here[1]] += result * weight
            weights[here] += weight
        return np.asarray(total / weights, np.float32)
