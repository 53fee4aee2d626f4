"""Activation functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.runtime.ops.parameter import number


def _by_channel(x: Tensor, values: Tensor) -> Tensor:
    """Return one value per channel (the second axis), shaped to broadcast with ``x``."""
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def _clamped_relu(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.minimum(torch.where(x >= 0, x, x * alpha), beta)


def _elu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x))


def _gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x)


def _leaky_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x >= 0, x, x * alpha)


def _prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * _by_channel(x, alpha))


def _sigmoid_hard(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def _softmax(x: Tensor, axis: Tensor | None = None) -> Tensor:
    return torch.softmax(x, number(axis, -1))


def _softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return _by_channel(x, alpha) * F.softplus(x * _by_channel(x, beta))


OPERATORS: dict[str, Callable[..., Any]] = {
    "clamped_relu": _clamped_relu,
    "elu": _elu,
    "gelu": _gelu,
    "leaky_relu": _leaky_relu,
    "linear_activation": lambda x, alpha, beta: alpha * x + beta,
    "prelu": _prelu,
    "relu": lambda x: torch.relu(x),
    "relu6": lambda x: F.relu6(x),
    "scaled_tanh": lambda x, alpha, beta: alpha * torch.tanh(beta * x),
    "sigmoid": lambda x: torch.sigmoid(x),
    "sigmoid_hard": _sigmoid_hard,
    "silu": lambda x: F.silu(x),
    "softmax": _softmax,
    "softplus": lambda x: F.softplus(x),
    "softplus_parametric": _softplus_parametric,
    "softsign": lambda x: F.softsign(x),
    "thresholded_relu": lambda x, alpha: torch.where(x >= alpha, x, torch.zeros((), dtype=x.dtype)),
}
