"""Operators that pick values by index. Negative indices count from the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _within(indices: Tensor, length: int) -> Tensor:
    whole = indices.long()
    return torch.where(whole < 0, whole + length, whole)


def _gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | None = None,
    batch_dims: Tensor | None = None,
    validate_indices: Tensor | None = None,
) -> Tensor:
    along = int(axis) % x.ndim if axis is not None else 0
    batch = int(batch_dims) if batch_dims is not None else 0
    picked = _within(indices, x.shape[along])
    if batch == 0:
        found = x.index_select(along, picked.reshape(-1))
        return found.reshape(*x.shape[:along], *indices.shape, *x.shape[along + 1 :])
    lead = x.shape[:batch]
    flat = [
        _gather(a, i, torch.tensor(along - batch))
        for a, i in zip(x.reshape(-1, *x.shape[batch:]), picked.reshape(-1, *indices.shape[batch:]), strict=True)
    ]
    return torch.stack(flat).reshape(*lead, *flat[0].shape)


def _gather_along_axis(
    x: Tensor, indices: Tensor, axis: Tensor | None = None, validate_indices: Tensor | None = None
) -> Tensor:
    along = int(axis) % x.ndim if axis is not None else 0
    return torch.take_along_dim(x, _within(indices, x.shape[along]), along)


def _gather_nd(
    x: Tensor, indices: Tensor, batch_dims: Tensor | None = None, validate_indices: Tensor | None = None
) -> Tensor:
    batch = int(batch_dims) if batch_dims is not None else 0
    if batch:
        lead = x.shape[:batch]
        pairs = zip(x.reshape(-1, *x.shape[batch:]), indices.reshape(-1, *indices.shape[batch:]), strict=True)
        flat = torch.stack([_gather_nd(a, i) for a, i in pairs])
        return flat.reshape(*lead, *flat.shape[1:])
    return x[tuple(_within(i, n) for i, n in zip(indices.unbind(-1), x.shape, strict=False))]


OPERATORS: dict[str, Callable[..., Any]] = {
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
}
