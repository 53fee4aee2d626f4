"""Operators that pick values by index. Negative indices count from the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from converter.runtime.ops.parameter import flag, number


def within(indices: Tensor, length: int, validate: Tensor | None = None) -> Tensor:
    """Indices into an axis of ``length`` elements, none negative, as int64.

    Raises IndexError where the program asks for valid ones (from iOS 17 on it can) and one is not; negative ones are
    invalid then, too.
    """
    whole = indices.long()
    if flag(validate) and bool(((whole < 0) | (whole >= length)).any()):
        raise IndexError(f"an index is {int(whole.min())} or {int(whole.max())}; 0 to {length - 1} are valid")
    return torch.where(whole < 0, whole + length, whole)


def _gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | None = None,
    batch_dims: Tensor | None = None,
    validate_indices: Tensor | None = None,
) -> Tensor:
    along = number(axis, 0) % x.ndim
    batch = number(batch_dims, 0)
    picked = within(indices, x.shape[along], validate_indices)
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
    along = number(axis, 0) % x.ndim
    return torch.take_along_dim(x, within(indices, x.shape[along], validate_indices), along)


def _gather_nd(
    x: Tensor, indices: Tensor, batch_dims: Tensor | None = None, validate_indices: Tensor | None = None
) -> Tensor:
    batch = number(batch_dims, 0)
    if batch:
        lead = x.shape[:batch]
        pairs = zip(x.reshape(-1, *x.shape[batch:]), indices.reshape(-1, *indices.shape[batch:]), strict=True)
        flat = torch.stack([_gather_nd(a, i, None, validate_indices) for a, i in pairs])
        return flat.reshape(*lead, *flat.shape[1:])
    places = zip(indices.unbind(-1), x.shape, strict=False)
    return x[tuple(within(i, n, validate_indices) for i, n in places)]


OPERATORS: dict[str, Callable[..., Any]] = {
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
}
