"""Pools."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.runtime.ops.parameter import flag, numbers
from converter.runtime.ops.window import Sides, padded, padding

_AVERAGES = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_MAXIMA = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


def _overhang(size: int, kernel: int, stride: int, sides: Sides) -> int:
    """How far behind the padding the last window reaches when the number of windows is rounded up."""
    before, after = sides
    windows = -(-(size + before + after - kernel) // stride) + 1
    if (windows - 1) * stride >= size + before and (before or after):
        windows -= 1
    return max(0, (windows - 1) * stride + kernel - size - before - after)


def _windows(
    x: Tensor,
    kernel_sizes: Tensor,
    strides: Tensor | None,
    pad_type: str,
    pad: Tensor | None,
    ceil_mode: Tensor | None,
) -> tuple[list[int], list[int], list[Sides], list[Sides]]:
    """The windows' sizes and strides, the padding of each axis, and what of the padding is only overhang."""
    kernels = numbers(kernel_sizes)
    stride = numbers(strides, [1] * len(kernels))
    sides = padding(pad_type, pad, x.shape[2:], kernels, stride)
    over = [0] * len(kernels)
    if flag(ceil_mode):
        over = [_overhang(n, k, s, p) for n, k, s, p in zip(x.shape[2:], kernels, stride, sides, strict=True)]
    return kernels, stride, sides, [(0, n) for n in over]


def _average(x: Tensor, kernels: list[int], stride: list[int]) -> Tensor:
    return _AVERAGES[len(kernels) - 1](x, kernels, stride)


def _avg_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    exclude_padding_from_average: Tensor | None = None,
    ceil_mode: Tensor | None = None,
) -> Tensor:
    kernels, stride, sides, over = _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    sums = _average(padded(padded(x, sides), over), kernels, stride)
    # An element counts if it is the input's, or padding that was asked for; never what a last window overhangs.
    counted = torch.ones(1, 1, *x.shape[2:])
    counted = padded(counted, sides, 0.0 if flag(exclude_padding_from_average) else 1.0)
    return sums / _average(padded(counted, over), kernels, stride)


def _l2_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | None = None,
) -> Tensor:
    kernels, stride, sides, over = _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return torch.sqrt(_average(padded(padded(x * x, sides), over), kernels, stride) * math.prod(kernels))


def _max_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | None = None,
) -> Tensor:
    kernels, stride, sides, over = _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    low = float("-inf")
    return _MAXIMA[len(kernels) - 1](padded(padded(x, sides, low), over, low), kernels, stride)


OPERATORS: dict[str, Callable[..., Any]] = {"avg_pool": _avg_pool, "l2_pool": _l2_pool, "max_pool": _max_pool}
