"""Operators that create a tensor from a shape, a number or positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from converter.runtime.ops.parameter import number, numbers


def _filled(shape: list[int], value: Tensor | None) -> Tensor:
    value = torch.tensor(0.0) if value is None else value
    return value.reshape([1] * len(shape)).repeat(shape)


def _fill(shape: Tensor, value: Tensor | None = None) -> Tensor:
    return _filled(numbers(shape), value)


def _fill_like(ref_tensor: Tensor, value: Tensor | None = None) -> Tensor:
    return _filled(list(ref_tensor.shape), value)


def _range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


def _one_hot(
    indices: Tensor,
    one_hot_vector_size: Tensor,
    axis: Tensor | None = None,
    on_value: Tensor | None = None,
    off_value: Tensor | None = None,
) -> Tensor:
    along = number(axis, -1) % (indices.ndim + 1)
    positions = torch.arange(int(one_hot_vector_size)).reshape([-1] + [1] * (indices.ndim - along))
    on = torch.tensor(1, dtype=torch.int32) if on_value is None else on_value
    off = torch.tensor(0, dtype=torch.int32) if off_value is None else off_value
    return torch.where(indices.unsqueeze(along) == positions, on, off)


def _non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x).to(torch.int32)


def _band_part(x: Tensor, lower: Tensor | None = None, upper: Tensor | None = None) -> Tensor:
    below, above = number(lower, -1), number(upper, -1)
    down = torch.arange(x.shape[-2])[:, None] - torch.arange(x.shape[-1])
    inside = ((down <= below) | (below < 0)) & ((-down <= above) | (above < 0))
    return torch.where(inside, x, torch.zeros((), dtype=x.dtype))


OPERATORS: dict[str, Callable[..., Any]] = {
    "band_part": _band_part,
    "fill": _fill,
    "fill_like": _fill_like,
    "non_zero": _non_zero,
    "one_hot": _one_hot,
    "range_1d": _range_1d,
}
