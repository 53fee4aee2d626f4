"""Sampling points of resizing along an axis, and interpolation at them."""

from __future__ import annotations

import torch
from torch import Tensor


def points(first: Tensor, last: Tensor, count: int, mode: str) -> Tensor:
    """Return ``count`` points in the interval from the element ``first`` to the element ``last``, fp32.

    The modes are those of ``resize_bilinear`` in coremltools' documentation, where the interval is a whole axis. Either
    end may be a vector; the result then has a row of points for each. Points stay within the interval, which may run
    backwards.
    """
    first, last = first.float()[..., None], last.float()[..., None]
    i = torch.arange(count, dtype=torch.float32)
    if mode == "ALIGN_CORNERS" and count == 1:
        where = (first + last) / 2
    elif mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        where = first + i * ((last - first) / max(1, count - 1))
    elif mode == "OFFSET_CORNERS":
        where = first + (i + 0.5) * ((last - first).clamp(min=1.0) / count)
    elif mode == "UNALIGN_CORNERS":
        where = first + (i + 0.5) * ((last - first + 1) / count) - 0.5
    else:
        where = first + i * ((last - first + 1) / count)
    return torch.minimum(torch.maximum(where, torch.minimum(first, last)), torch.maximum(first, last))


def axis_points(size: int, count: int, mode: str) -> Tensor:
    """Return ``count`` points along an axis of ``size`` elements."""
    return points(torch.tensor(0.0), torch.tensor(size - 1.0), count, mode)


def interpolate(x: Tensor, axis: int, where: Tensor) -> Tensor:
    """Interpolate ``x`` along an axis at the points ``where``, which must be within it."""
    low = where.floor().clamp(0, x.shape[axis] - 1)
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    fraction = (where - low).reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    below, above = x.index_select(axis, low.long()), x.index_select(axis, high.long())
    return below + (above - below) * fraction
