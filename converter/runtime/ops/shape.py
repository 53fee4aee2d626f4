"""Operators that change the shape or order of values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from converter.runtime.ops.parameter import flag, number, numbers


def _reshape(x: Tensor, shape: Tensor) -> Tensor:
    sizes = numbers(shape)
    for i, n in enumerate(sizes):
        if n == 0:  # the input's size at the same axis, counted from the right; iOS 15 requires equal ranks
            axis = i - len(sizes) + x.ndim
            sizes[i] = x.shape[axis] if axis >= 0 else 1
    return x.reshape(sizes)


def _reshape_like(
    x: Tensor, ref_tensors: list[Tensor], begins: list[Tensor], ends: list[Tensor], end_masks: list[Tensor]
) -> Tensor:
    sizes: list[int] = []
    for reference, begin, end, open_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        sizes += reference.shape[int(begin) : None if bool(open_end) else int(end)]
    return x.reshape(sizes)


def _flatten2d(x: Tensor, axis: Tensor | None = None) -> Tensor:
    split = number(axis, 1)
    return x.reshape(math.prod(x.shape[:split]), math.prod(x.shape[split:]))


def _transpose(x: Tensor, perm: Tensor) -> Tensor:
    return x.permute([n % x.ndim for n in numbers(perm)]) if x.ndim else x


def _expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + axes.numel()
    for axis in sorted(n % rank for n in numbers(axes)):
        x = x.unsqueeze(axis)
    return x


def _squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze([n % x.ndim for n in numbers(axes)])


def _concat(values: list[Tensor], axis: Tensor, interleave: Tensor | None = None) -> Tensor:
    if values[0].ndim == 0:
        return torch.stack(values)
    along = int(axis) % values[0].ndim
    if not flag(interleave):
        return torch.cat(values, along)
    return torch.stack(values, along + 1).flatten(along, along + 1)


def _stack(values: list[Tensor], axis: Tensor) -> Tensor:
    return torch.stack(values, int(axis))


def _split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> list[Tensor]:
    along = int(axis)
    if split_sizes is not None:
        return list(torch.split(x, numbers(split_sizes), along))
    return list(torch.split(x, x.shape[along] // number(num_splits, 1), along))


def _tile(x: Tensor, reps: Tensor) -> Tensor:
    return x.repeat(numbers(reps))


def _reverse(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.flip(numbers(axes, list(range(x.ndim))))


def _reverse_sequence(
    x: Tensor, lengths: Tensor, seq_axis: Tensor | None = None, batch_axis: Tensor | None = None
) -> Tensor:
    along, batch = number(seq_axis, 0) % x.ndim, number(batch_axis, 0) % x.ndim
    within = along - (along > batch)  # the axis without the batch axis
    parts = []
    for part, length in zip(x.unbind(batch), numbers(lengths), strict=True):
        head, tail = torch.split(part, [length, part.shape[within] - length], within)
        parts.append(torch.cat([head.flip(within), tail], within))
    return torch.stack(parts, batch)


OPERATORS: dict[str, Callable[..., Any]] = {
    "concat": _concat,
    "const": lambda val: val,
    "expand_dims": _expand_dims,
    "flatten2d": _flatten2d,
    "identity": lambda x: x,
    "reshape": _reshape,
    "reshape_like": _reshape_like,
    "reverse": _reverse,
    "reverse_sequence": _reverse_sequence,
    "shape": lambda x: torch.tensor(x.shape, dtype=torch.int32),
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
}
