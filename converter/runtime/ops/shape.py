"""Operators that rearrange values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _numbers(x: Tensor) -> list[int]:
    return [int(n) for n in x.reshape(-1).tolist()]


def _reshape(x: Tensor, shape: Tensor) -> Tensor:
    # A 0 keeps the input's size at that place, as the operator's documentation says.
    sizes = [x.shape[i] if n == 0 and i < x.ndim and x.shape[i] else n for i, n in enumerate(_numbers(shape))]
    return x.reshape(sizes)


def _transpose(x: Tensor, perm: Tensor) -> Tensor:
    return x.permute([n % x.ndim for n in _numbers(perm)])


def _expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + axes.numel()
    for axis in sorted(n % rank for n in _numbers(axes)):
        x = x.unsqueeze(axis)
    return x


def _squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze([n % x.ndim for n in _numbers(axes)])


def _concat(values: list[Tensor], axis: Tensor, interleave: Tensor | None = None) -> Tensor:
    along = int(axis) % values[0].ndim
    if interleave is None or not bool(interleave):
        return torch.cat(values, along)
    return torch.stack(values, along + 1).flatten(along, along + 1)


def _stack(values: list[Tensor], axis: Tensor) -> Tensor:
    return torch.stack(values, int(axis))


def _split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> list[Tensor]:
    along = int(axis)
    if split_sizes is not None:
        return list(torch.split(x, _numbers(split_sizes), along))
    assert num_splits is not None
    return list(torch.split(x, x.shape[along] // int(num_splits), along))


def _slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    starts, ends = _numbers(begin), _numbers(end)
    strides = [1] * x.ndim if stride is None else _numbers(stride)
    open_starts = [False] * x.ndim if begin_mask is None else begin_mask.tolist()
    open_ends = [False] * x.ndim if end_mask is None else end_mask.tolist()
    gone = [False] * x.ndim if squeeze_mask is None else squeeze_mask.tolist()
    for axis in reversed(range(x.ndim)):
        if gone[axis]:
            x = x.select(axis, starts[axis])
            continue
        window = slice(
            None if open_starts[axis] else starts[axis], None if open_ends[axis] else ends[axis], strides[axis]
        )
        first, last, step = window.indices(x.shape[axis])
        if step > 0:
            whole = first == 0 and last == x.shape[axis] and step == 1
            x = x if whole else x[(slice(None),) * axis + (slice(first, last, step),)]
        else:
            x = x.index_select(axis, torch.arange(first, last, step))
    return x


def _slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    for axis, (start, length) in enumerate(zip(_numbers(begin), _numbers(size), strict=True)):
        x = x.narrow(axis, start, x.shape[axis] - start if length == -1 else length)
    return x


def _pad(x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Tensor | None = None) -> Tensor:
    sizes = _numbers(pad)
    ordered = [n for i in reversed(range(0, len(sizes), 2)) for n in sizes[i : i + 2]]
    if mode == "constant":
        return F.pad(x, ordered, value=0.0 if constant_val is None else float(constant_val))
    while len(ordered) > 2 and ordered[-2:] == [0, 0]:  # PyTorch reflects and replicates trailing axes only
        ordered = ordered[:-2]
    return F.pad(x, ordered, mode={"reflect": "reflect", "replicate": "replicate"}[mode])


def _tile(x: Tensor, reps: Tensor) -> Tensor:
    return x.repeat(_numbers(reps))


OPERATORS: dict[str, Callable[..., Any]] = {
    "concat": _concat,
    "const": lambda val: val,
    "expand_dims": _expand_dims,
    "identity": lambda x: x,
    "pad": _pad,
    "reshape": _reshape,
    "shape": lambda x: torch.tensor(x.shape, dtype=torch.int32),
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
}
