"""Operators that work value by value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CASTS = {
    "fp16": torch.float32,
    "fp32": torch.float32,
    "int32": torch.int32,
    "int16": torch.int16,
    "uint16": torch.int32,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


def _real_div(x: Tensor, y: Tensor) -> Tensor:
    if x.is_floating_point() or y.is_floating_point():
        return x / y
    return (x / y).to(x.dtype)


def _cast(x: Tensor, dtype: str) -> Tensor:
    return x.to(_CASTS[dtype])


def _gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x)


def _clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, alpha), beta)


def _rsqrt(x: Tensor, epsilon: Tensor | None = None) -> Tensor:
    return torch.rsqrt(x + (1e-12 if epsilon is None else epsilon))


def _log(x: Tensor, epsilon: Tensor | None = None) -> Tensor:
    return torch.log(x + (1e-45 if epsilon is None else epsilon))


def _select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond.bool(), a, b)


def _leaky_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x >= 0, x, x * alpha)


OPERATORS: dict[str, Callable[..., Any]] = {
    "abs": lambda x: torch.abs(x),
    "add": lambda x, y: x + y,
    "cast": _cast,
    "clip": _clip,
    "cos": lambda x: torch.cos(x),
    "equal": lambda x, y: x == y,
    "erf": lambda x: torch.erf(x),
    "exp": lambda x: torch.exp(x),
    "exp2": lambda x: torch.exp2(x),
    "floor": lambda x: torch.floor(x),
    "floor_div": lambda x, y: torch.floor_divide(x, y),
    "gelu": _gelu,
    "greater": lambda x, y: x > y,
    "greater_equal": lambda x, y: x >= y,
    "leaky_relu": _leaky_relu,
    "less": lambda x, y: x < y,
    "less_equal": lambda x, y: x <= y,
    "log": _log,
    "logical_and": lambda x, y: torch.logical_and(x, y),
    "logical_not": lambda x: torch.logical_not(x),
    "logical_or": lambda x, y: torch.logical_or(x, y),
    "maximum": lambda x, y: torch.maximum(x, y),
    "minimum": lambda x, y: torch.minimum(x, y),
    "mul": lambda x, y: x * y,
    "not_equal": lambda x, y: x != y,
    "pow": lambda x, y: torch.pow(x, y),
    "real_div": _real_div,
    "relu": lambda x: torch.relu(x),
    "rsqrt": _rsqrt,
    "select": _select,
    "sigmoid": lambda x: torch.sigmoid(x),
    "silu": lambda x: F.silu(x),
    "sin": lambda x: torch.sin(x),
    "sqrt": lambda x: torch.sqrt(x),
    "square": lambda x: x * x,
    "sub": lambda x, y: x - y,
    "tanh": lambda x: torch.tanh(x),
}
