"""Operators that cut out a part, write one, or pad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.runtime.ops.parameter import flags, number, numbers, real


def _ranges(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None,
    begin_mask: Tensor | None,
    end_mask: Tensor | None,
    squeeze_mask: Tensor | None,
) -> tuple[list[range], list[int]]:
    """Which elements a slice takes of each axis, and the axes it then drops."""
    open_begin, open_end, gone = (flags(m, x.ndim) for m in (begin_mask, end_mask, squeeze_mask))
    bounds = zip(numbers(begin), numbers(end), numbers(stride, [1] * x.ndim), strict=True)
    found = []
    for axis, (first, last, step) in enumerate(bounds):
        size = x.shape[axis]
        if gone[axis]:
            found.append(range(first % size, first % size + 1))
        else:
            window = slice(None if open_begin[axis] else first, None if open_end[axis] else last, step)
            found.append(range(*window.indices(size)))
    return found, [axis for axis in range(x.ndim) if gone[axis]]


def _ascending(taken: list[range]) -> tuple[tuple[slice, ...], list[int]]:
    """The same elements as slices with positive steps, and the axes along which they come in reverse."""
    slices, turned = [], []
    for axis, r in enumerate(taken):
        if r.step < 0 and len(r):
            turned.append(axis)
            r = r[::-1]
        slices.append(slice(r.start, r.start + len(r) * abs(r.step), abs(r.step)))
    return tuple(slices), turned


def _slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    taken, gone = _ranges(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    slices, turned = _ascending(taken)
    found = x[slices]
    found = found.flip(turned) if turned else found
    return found.squeeze(gone) if gone else found


def _slice_update(
    x: Tensor,
    update: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    taken, _ = _ranges(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    slices, turned = _ascending(taken)
    written = x.clone()
    written[slices] = update.reshape([len(r) for r in taken]).flip(turned)
    return written


def _slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    for axis, (start, length) in enumerate(zip(numbers(begin), numbers(size), strict=True)):
        first = start % x.shape[axis] if start else 0  # also of an axis without elements
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
            at = torch.arange(-before, last + 1 + after)
            inside = at.clamp(0, last) if mode == "replicate" else last - (last - at.abs()).abs()
            x = x.index_select(axis, inside)
    return x


OPERATORS: dict[str, Callable[..., Any]] = {
    "pad": _pad,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "slice_update": _slice_update,
    "sliding_windows": _sliding_windows,
}
