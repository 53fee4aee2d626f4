"""Normalizations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.runtime.ops.parameter import numbers, real


def _batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    return F.batch_norm(x, mean, variance, gamma, beta, eps=real(epsilon, 1e-5))


def _standardize(x: Tensor, axes: list[int], epsilon: float) -> Tensor:
    centered = x - x.mean(axes, keepdim=True)
    return centered * torch.rsqrt((centered * centered).mean(axes, keepdim=True) + epsilon)


def _layer_norm(
    x: Tensor,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    along = sorted(n % x.ndim for n in numbers(axes, list(range(x.ndim))))
    eps = real(epsilon, 1e-5)
    if along == list(range(along[0], x.ndim)):
        return F.layer_norm(x, x.shape[along[0] :], gamma, beta, eps)
    shape = [n if i in along else 1 for i, n in enumerate(x.shape)]
    y = _standardize(x, along, eps)
    y = y if gamma is None else y * gamma.reshape(shape)
    return y if beta is None else y + beta.reshape(shape)


def _instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Tensor | None = None
) -> Tensor:
    # PyTorch's instance_norm refuses a channel with one element, which is 0 before the affine part.
    spatial = list(range(2, x.ndim))
    y = _standardize(x, spatial, real(epsilon, 1e-5))
    shape = (1, -1, *[1] * len(spatial))
    y = y if gamma is None else y * gamma.reshape(shape)
    return y if beta is None else y + beta.reshape(shape)


def _l2_norm(x: Tensor, epsilon: Tensor | None = None) -> Tensor:
    return x * torch.rsqrt((x * x).sum((-3, -2, -1), keepdim=True) + real(epsilon, 1e-6))


def _local_response_norm(
    x: Tensor, size: Tensor, alpha: Tensor | None = None, beta: Tensor | None = None, k: Tensor | None = None
) -> Tensor:
    return F.local_response_norm(x, int(size), real(alpha, 1e-4), real(beta, 0.75), real(k, 1.0))


OPERATORS: dict[str, Callable[..., Any]] = {
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "l2_norm": _l2_norm,
    "layer_norm": _layer_norm,
    "local_response_norm": _local_response_norm,
}
