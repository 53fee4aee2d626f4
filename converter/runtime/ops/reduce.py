"""Operators that fold axes away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _axes(x: Tensor, axes: Tensor | None) -> list[int]:
    return list(range(x.ndim)) if axes is None else [int(a) % x.ndim for a in axes.reshape(-1).tolist()]


def _reduction(fold: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    def reduce(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | None = None) -> Tensor:
        return fold(x, _axes(x, axes), bool(keep_dims) if keep_dims is not None else False)

    return reduce


def _arg(find: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduce(
        x: Tensor, axis: Tensor | None = None, keep_dims: Tensor | None = None, output_dtype: str = "int32"
    ) -> Tensor:
        keep = bool(keep_dims) if keep_dims is not None else False
        return find(x, int(axis) if axis is not None else -1, keep).to(torch.int32)

    return reduce


def _first_greatest(x: Tensor, axis: int, keep: bool) -> Tensor:
    # PyTorch's argmax may return any of several greatest values; Core ML's, like NumPy's, the first.
    length = x.shape[axis]
    place = torch.arange(length).reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    return torch.where(x == x.amax(axis, keepdim=True), place, length).amin(axis, keepdim=keep)


OPERATORS: dict[str, Callable[..., Any]] = {
    "reduce_argmax": _arg(_first_greatest),
    "reduce_argmin": _arg(lambda x, axis, keep: _first_greatest(-x, axis, keep)),
    "reduce_l2_norm": _reduction(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep).sqrt()),
    "reduce_max": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "reduce_mean": _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "reduce_min": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "reduce_sum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep).to(x.dtype)),
    "reduce_sum_square": _reduction(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep)),
}
