"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.runtime.ops.parameter import flag, numbers
from converter.runtime.ops.window import Sides, padded, padding

_AVERAGES = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_MAXIMA = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


def _overhang(size: int, kernel: int, stride: int, sides: Sides) -> int:
    """Return how many elements beyond the padding the last window needs if the number of windows is rounded up."""
    before, after = sides
    windows = -(-(size + before + after - kernel) // stride) + 1
    if (windows - 1) * stride >= size + before and (before or after):
        windows -= 1
    return max(0, (windows - 1) * stride + kernel - size - before - after)


class _Windows(NamedTuple):
    """A pool's windows: their sizes and strides, the padding of each axis, and the overhang of its last window."""

    sizes: list[int]
    strides: list[int]
    sides: list[Sides]
    overhang: list[Sides]

    def pad(self, x: Tensor, value: float = 0.0, beyond: float = 0.0) -> Tensor:
        """Pad with ``value``, and with ``beyond`` for the overhang of the last window."""
        return padded(padded(x, self.sides, value), self.overhang, beyond)

    def average(self, x: Tensor) -> Tensor:
        """Return the average of each window of a padded tensor."""
        return _AVERAGES[len(self.sizes) - 1](x, self.sizes, self.strides)


def _windows(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | None = None,
) -> _Windows:
    sizes = numbers(kernel_sizes)
    steps = numbers(strides, [1] * len(sizes))
    sides = padding(pad_type, pad, x.shape[2:], sizes, steps)
    over = [0] * len(sizes)
    if flag(ceil_mode):
        over = [_overhang(n, k, s, p) for n, k, s, p in zip(x.shape[2:], sizes, steps, sides, strict=True)]
    return _Windows(sizes, steps, sides, [(0, n) for n in over])


def _avg_pool(x: Tensor, exclude_padding_from_average: Tensor | None = None, **parameters: Any) -> Tensor:
    windows = _windows(x, **parameters)
    # Elements of the input count, and the padding unless it is excluded; the overhang of the last window never counts.
    counted = windows.pad(torch.ones(1, 1, *x.shape[2:]), 0.0 if flag(exclude_padding_from_average) else 1.0)
    return windows.average(windows.pad(x)) / windows.average(counted)


def _l2_pool(x: Tensor, **parameters: Any) -> Tensor:
    windows = _windows(x, **parameters)
    return torch.sqrt(windows.average(windows.pad(x * x)) * math.prod(windows.sizes))


def _max_pool(x: Tensor, **parameters: Any) -> Tensor:
    windows = _windows(x, **parameters)
    low = float("-inf")
    return _MAXIMA[len(windows.sizes) - 1](windows.pad(x, low, low), windows.sizes, windows.strides)


OPERATORS: dict[str, Callable[..., Any]] = {"avg_pool": _avg_pool, "l2_pool": _l2_pool, "max_pool": _max_pool}
