"""Operators that write values at indices. Negative indices count from the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from converter.runtime.ops.gather import valid_indices
from converter.runtime.ops.parameter import number

_FOLDS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _write(data: Tensor, axis: int, places: Tensor, updates: Tensor, mode: str) -> Tensor:
    """Return ``data`` with ``updates`` at ``places`` along an axis; all have the same rank."""
    if mode == "update":
        return data.scatter(axis, places, updates)
    if mode == "sub":
        return data.scatter_reduce(axis, places, -updates, "sum")
    if mode == "div":
        return data / torch.ones_like(data).scatter_reduce(axis, places, updates, "prod")
    return data.scatter_reduce(axis, places, updates, _FOLDS[mode])


def _scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | None = None,
    mode: str = "add",
    validate_indices: Tensor | None = None,
) -> Tensor:
    along = number(axis, 0) % data.ndim
    return _write(data, along, valid_indices(indices, data.shape[along], validate_indices), updates, mode)


def _scatter(data: Tensor, indices: Tensor, updates: Tensor, axis: Tensor | None = None, **options: Any) -> Tensor:
    """Write slices along an axis: all elements of a slice have the same index."""
    along = number(axis, 0) % data.ndim
    updates = updates.reshape(*data.shape[:along], indices.numel(), *data.shape[along + 1 :])
    places = indices.reshape([-1 if i == along else 1 for i in range(data.ndim)]).expand(updates.shape)
    return _scatter_along_axis(data, places, updates, axis, **options)


def _scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add", validate_indices: Tensor | None = None
) -> Tensor:
    depth = indices.shape[-1]
    lead, rest = data.shape[:depth], math.prod(data.shape[depth:])
    place = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for index, size in zip(indices.unbind(-1), lead, strict=True):
        place = place * size + valid_indices(index, size, validate_indices)
    count = place.numel()
    rows = place.reshape(count, 1).expand(count, rest)
    flat = _write(data.reshape(math.prod(lead), rest), 0, rows, updates.reshape(count, rest), mode)
    return flat.reshape(data.shape)


OPERATORS: dict[str, Callable[..., Any]] = {
    "scatter": _scatter,
    "scatter_along_axis": _scatter_along_axis,
    "scatter_nd": _scatter_nd,
}
