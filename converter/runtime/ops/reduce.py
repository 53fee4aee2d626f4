"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from converter.runtime.ops.parameter import flag, number, numbers

#: A reduction of a tensor over axes; the flag keeps them as axes of one element.
_Fold = Callable[[Tensor, list[int], bool], Tensor]


def _reduction(fold: _Fold) -> Callable[..., Tensor]:
    """Return the operator of a reduction; integers stay integers."""

    def reduce(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | None = None) -> Tensor:
        along = sorted(n % x.ndim for n in numbers(axes, list(range(x.ndim))))
        if not along:  # PyTorch would take an empty list for all axes
            return fold(x.unsqueeze(-1), [x.ndim], False).to(x.dtype)
        return fold(x, along, flag(keep_dims)).to(x.dtype)

    return reduce


def _real(fold: _Fold) -> _Fold:
    """Return a reduction that PyTorch has for floats only, for any type."""
    return lambda x, axes, keep: fold(x.float(), axes, keep)


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in reversed(axes):
        x = x.prod(axis, keepdim=keep)
    return x


def _arg(fold: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor]:
    def reduce(
        x: Tensor, axis: Tensor | None = None, keep_dims: Tensor | None = None, output_dtype: str = "int32"
    ) -> Tensor:
        # PyTorch's argmax may return any of several greatest values; Core ML's returns the first, like NumPy's.
        along = number(axis, -1) % x.ndim
        length = x.shape[along]
        position = torch.arange(length).reshape([-1 if i == along else 1 for i in range(x.ndim)])
        first = torch.where(x == fold(x, along), position, length).amin(along, keepdim=flag(keep_dims))
        return first.to(torch.int32)

    return reduce


OPERATORS: dict[str, Callable[..., Any]] = {
    "reduce_argmax": _arg(lambda x, axis: x.amax(axis, keepdim=True)),
    "reduce_argmin": _arg(lambda x, axis: x.amin(axis, keepdim=True)),
    "reduce_l1_norm": _reduction(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "reduce_l2_norm": _reduction(_real(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep).sqrt())),
    "reduce_log_sum": _reduction(_real(lambda x, axes, keep: x.sum(axes, keepdim=keep).log())),
    "reduce_log_sum_exp": _reduction(_real(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep))),
    "reduce_max": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "reduce_mean": _reduction(_real(lambda x, axes, keep: x.mean(axes, keepdim=keep))),
    "reduce_min": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "reduce_prod": _reduction(_prod),
    "reduce_sum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "reduce_sum_square": _reduction(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep)),
}
