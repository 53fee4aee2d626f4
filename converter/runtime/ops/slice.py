"""Operators that read or write a slice, or pad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.runtime.ops.parameter import flags, number, numbers, real


class _Part(NamedTuple):
    """A slice with steps above 0, the axes to reverse and then drop, and the shape before dropping."""

    slices: tuple[slice, ...]
    reversed: list[int]
    dropped: list[int]
    shape: list[int]


def _part(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> _Part:
    open_begin, open_end, dropped = (flags(m, x.ndim) for m in (begin_mask, end_mask, squeeze_mask))
    bounds = zip(numbers(begin), numbers(end), numbers(stride, [1] * x.ndim), strict=True)
    part = _Part((), [], [axis for axis in range(x.ndim) if dropped[axis]], [])
    slices = []
    for axis, (first, last, step) in enumerate(bounds):
        size = x.shape[axis]
        if dropped[axis]:
            positions = range(first % size, first % size + 1)
        else:
            window = slice(None if open_begin[axis] else first, None if open_end[axis] else last, step)
            positions = range(*window.indices(size))
        part.shape.append(len(positions))
        if positions.step < 0 and positions:
            part.reversed.append(axis)
            positions = positions[::-1]
        slices.append(
            slice(positions.start, positions.start + len(positions) * abs(positions.step), abs(positions.step))
        )
    return part._replace(slices=tuple(slices))


def _slice_by_index(x: Tensor, **bounds: Any) -> Tensor:
    part = _part(x, **bounds)
    cut = x[part.slices]
    cut = cut.flip(part.reversed) if part.reversed else cut
    return cut.squeeze(part.dropped) if part.dropped else cut


def _slice_update(x: Tensor, update: Tensor, **bounds: Any) -> Tensor:
    part = _part(x, **bounds)
    written = x.clone()
    written[part.slices] = update.reshape(part.shape).flip(part.reversed)
    return written


def _slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    for axis, (start, length) in enumerate(zip(numbers(begin), numbers(size), strict=True)):
        first = start % x.shape[axis] if start else 0  # 0 is valid for an axis without elements too
        x = x.narrow(axis, first, x.shape[axis] - first if length == -1 else length)
    return x


def _sliding_windows(x: Tensor, axis: Tensor, size: Tensor, stride: Tensor | None = None) -> Tensor:
    along = int(axis) % x.ndim
    if x.shape[along] < int(size):
        return x.new_empty([*x.shape[:along], 0, int(size), *x.shape[along + 1 :]])
    return x.unfold(along, int(size), number(stride, 1)).movedim(-1, along + 1)


def _pad(x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Tensor | None = None) -> Tensor:
    sizes = numbers(pad)
    pairs = list(zip(sizes[::2], sizes[1::2], strict=True))
    if mode == "constant":
        return F.pad(x, [n for pair in reversed(pairs) for n in pair], value=real(constant_val, 0.0))
    for axis, (before, after) in zip(range(-len(pairs), 0), pairs, strict=True):
        if before or after:
            last = x.shape[axis] - 1
            positions = torch.arange(-before, last + 1 + after)
            inside = positions.clamp(0, last) if mode == "replicate" else last - (last - positions.abs()).abs()
            x = x.index_select(axis, inside)
    return x


OPERATORS: dict[str, Callable[..., Any]] = {
    "pad": _pad,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "slice_update": _slice_update,
    "sliding_windows": _sliding_windows,
}
