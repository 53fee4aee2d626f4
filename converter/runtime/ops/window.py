"""Padding of convolutions and pooling: the padding types in numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from converter.runtime.ops.parameter import numbers

#: Elements before and after along one axis.
Sides = tuple[int, int]


def _same(size: int, kernel: int, stride: int, *, lower: bool) -> Sides:
    """Return the padding for ``size / stride`` windows, rounded up; an odd element is last, or first with ``lower``."""
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    small, large = total // 2, total - total // 2
    return (large, small) if lower else (small, large)


def padding(
    pad_type: str, pad: Tensor | None, sizes: Sequence[int], kernels: Sequence[int], strides: Sequence[int]
) -> list[Sides]:
    """Return the padding of each spatial axis for windows of the sizes ``kernels``, with dilation."""
    if pad_type == "custom":
        elements = numbers(pad, [0] * 2 * len(sizes))
        return list(zip(elements[::2], elements[1::2], strict=True))
    if pad_type in ("same", "same_lower"):
        lower = pad_type == "same_lower"
        return [_same(n, k, s, lower=lower) for n, k, s in zip(sizes, kernels, strides, strict=True)]
    return [(0, 0)] * len(sizes)


def padded(x: Tensor, sides: Sequence[Sides], value: float = 0.0) -> Tensor:
    """Pad the last axes of ``x``; a negative padding cuts elements off."""
    flat = [n for pair in reversed(sides) for n in pair]
    return F.pad(x, flat, value=value) if any(flat) else x
