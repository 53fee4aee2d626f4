"""Operators that pick values by index. Negative indices count from the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from converter.runtime.ops.parameter import flag, number


def valid_indices(indices: Tensor, length: int, validate: Tensor | None = None) -> Tensor:
    """Return indices into an axis of ``length`` elements as int64, negative ones counted from the end.

    With ``validate`` (a parameter since iOS 17), raises IndexError for an index out of range; negative ones are then out
    of range too.
    """
    wide = indices.long()
    if flag(validate) and bool(((wide < 0) | (wide >= length)).any()):
        raise IndexError(f"an index is {int(wide.min())} or {int(wide.max())}; 0 to {length - 1} are valid")
    return torch.where(wide < 0, wide + length, wide)


def _gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | None = None,
    batch_dims: Tensor | None = None,
    validate_indices: Tensor | None = None,
) -> Tensor:
    along = number(axis, 0) % x.ndim
    batch = number(batch_dims, 0)
    positions = valid_indices(indices, x.shape[along], validate_indices)
    shape = [*x.shape[:along], *indices.shape[batch:], *x.shape[along + 1 :]]
    if batch == 0:
        return x.index_select(along, positions.reshape(-1)).reshape(shape)
    count, before, after = (math.prod(x.shape[a:b]) for a, b in ((0, batch), (batch, along), (along + 1, x.ndim)))
    count_each = math.prod(indices.shape[batch:])
    places = positions.reshape(count, 1, count_each, 1).expand(count, before, count_each, after)
    return x.reshape(count, before, x.shape[along], after).gather(2, places).reshape(shape)


def _gather_along_axis(
    x: Tensor, indices: Tensor, axis: Tensor | None = None, validate_indices: Tensor | None = None
) -> Tensor:
    along = number(axis, 0) % x.ndim
    return torch.take_along_dim(x, valid_indices(indices, x.shape[along], validate_indices), along)


def _gather_nd(
    x: Tensor, indices: Tensor, batch_dims: Tensor | None = None, validate_indices: Tensor | None = None
) -> Tensor:
    batch = number(batch_dims, 0)
    lead, rest = x.shape[:batch], x.shape[batch:]
    x, indices = (t.reshape(math.prod(lead), *t.shape[batch:]) for t in (x, indices))
    places = [valid_indices(i, n, validate_indices) for i, n in zip(indices.unbind(-1), rest, strict=False)]
    first = torch.arange(x.shape[0], device=x.device).reshape([-1] + [1] * (indices.ndim - 2))
    values = x[(first, *places)]
    return values.reshape([*lead, *values.shape[1:]])


OPERATORS: dict[str, Callable[..., Any]] = {
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
}
