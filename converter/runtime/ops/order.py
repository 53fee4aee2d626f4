"""Operators that sort or accumulate along an axis. The sort is stable: equal values keep their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from converter.runtime.ops.parameter import flag, number


def _argsort(x: Tensor, axis: Tensor | None = None, ascending: Tensor | None = None) -> Tensor:
    along, descending = number(axis, -1), not flag(ascending)
    return torch.sort(x, dim=along, descending=descending, stable=True).indices.to(torch.int32)


def _topk(
    x: Tensor,
    k: Tensor | None = None,
    axis: Tensor | None = None,
    ascending: Tensor | None = None,
    sort: Tensor | None = None,
    return_indices: Tensor | None = None,
    output_indices_dtype: str = "int32",
) -> list[Tensor]:
    along = number(axis, -1)
    count = number(k, 1)
    count = x.shape[along] if count == -1 else count
    values, indices = torch.sort(x, dim=along, descending=not flag(ascending), stable=True)
    top = values.narrow(along, 0, count)
    return [top, indices.narrow(along, 0, count).to(torch.int32)] if flag(return_indices, True) else [top]


def _cumsum(
    x: Tensor, axis: Tensor | None = None, exclusive: Tensor | None = None, reverse: Tensor | None = None
) -> Tensor:
    along = number(axis, 0)
    x = x.flip(along) if flag(reverse) else x
    total = x.cumsum(along).to(x.dtype)
    total = total - x if flag(exclusive) else total
    return total.flip(along) if flag(reverse) else total


OPERATORS: dict[str, Callable[..., Any]] = {"argsort": _argsort, "cumsum": _cumsum, "topk": _topk}
