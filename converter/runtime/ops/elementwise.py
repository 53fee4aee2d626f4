"""Elementwise operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from converter.runtime.ops.parameter import real

#: 16-bit unsigned integers become 32-bit ones, because PyTorch supports few operations on them.
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
    return torch.div(x, y, rounding_mode="trunc")


def _cast(x: Tensor, dtype: str) -> Tensor:
    return x.to(_CASTS[dtype])


def _clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, alpha), beta)


def _inverse(x: Tensor, epsilon: Tensor | None = None) -> Tensor:
    return 1 / (x + real(epsilon, 1e-4))


def _rsqrt(x: Tensor, epsilon: Tensor | None = None) -> Tensor:
    return torch.rsqrt(x + real(epsilon, 1e-12))


def _log(x: Tensor, epsilon: Tensor | None = None) -> Tensor:
    return torch.log(x + real(epsilon, 1e-45))


def _select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond.bool(), a, b)


OPERATORS: dict[str, Callable[..., Any]] = {
    "abs": lambda x: torch.abs(x),
    "acos": lambda x: torch.acos(x),
    "add": lambda x, y: x + y,
    "asin": lambda x: torch.asin(x),
    "atan": lambda x: torch.atan(x),
    "atanh": lambda x: torch.atanh(x),
    "cast": _cast,
    "ceil": lambda x: torch.ceil(x),
    "clip": _clip,
    "cos": lambda x: torch.cos(x),
    "cosh": lambda x: torch.cosh(x),
    "equal": lambda x, y: x == y,
    "erf": lambda x: torch.erf(x),
    "exp": lambda x: torch.exp(x),
    "exp2": lambda x: torch.exp2(x).to(x.dtype),
    "floor": lambda x: torch.floor(x),
    "floor_div": lambda x, y: torch.floor_divide(x, y),
    "greater": lambda x, y: x > y,
    "greater_equal": lambda x, y: x >= y,
    "inverse": _inverse,
    "less": lambda x, y: x < y,
    "less_equal": lambda x, y: x <= y,
    "log": _log,
    "logical_and": lambda x, y: torch.logical_and(x, y),
    "logical_not": lambda x: torch.logical_not(x),
    "logical_or": lambda x, y: torch.logical_or(x, y),
    "logical_xor": lambda x, y: torch.logical_xor(x, y),
    "maximum": lambda x, y: torch.maximum(x, y),
    "minimum": lambda x, y: torch.minimum(x, y),
    "mod": lambda x, y: torch.remainder(x, y),
    "mul": lambda x, y: x * y,
    "not_equal": lambda x, y: x != y,
    "pow": lambda x, y: torch.pow(x, y),
    "real_div": _real_div,
    "round": lambda x: torch.round(x),
    "rsqrt": _rsqrt,
    "select": _select,
    "sign": lambda x: torch.sign(x),
    "sin": lambda x: torch.sin(x),
    "sinh": lambda x: torch.sinh(x),
    "sqrt": lambda x: torch.sqrt(x),
    "square": lambda x: x * x,
    "sub": lambda x, y: x - y,
    "tan": lambda x: torch.tan(x),
    "tanh": lambda x: torch.tanh(x),
    "threshold": lambda x, alpha: torch.maximum(x, alpha),
}
