"""Convolutions, products, norms and attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _numbers(x: Tensor | None, default: list[int]) -> list[int]:
    return default if x is None else [int(n) for n in x.reshape(-1).tolist()]


def _same_pad(size: int, kernel: int, stride: int, dilation: int, *, lower: bool) -> tuple[int, int]:
    total = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
    small, large = total // 2, total - total // 2
    return (large, small) if lower else (small, large)


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    rank = x.ndim - 2
    stride, dilation = _numbers(strides, [1] * rank), _numbers(dilations, [1] * rank)
    padding = [0] * rank
    if pad_type == "custom":
        sides = _numbers(pad, [0] * 2 * rank)
        if sides[::2] == sides[1::2]:
            padding = sides[::2]
        else:
            x = F.pad(x, [n for i in reversed(range(rank)) for n in sides[2 * i : 2 * i + 2]])
    elif pad_type in ("same", "same_lower"):
        lower = pad_type == "same_lower"
        pairs = [
            _same_pad(x.shape[2 + i], weight.shape[2 + i], stride[i], dilation[i], lower=lower) for i in range(rank)
        ]
        x = F.pad(x, [n for pair in reversed(pairs) for n in pair])
    conv = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return conv(x, weight, bias, stride, padding, dilation, 1 if groups is None else int(groups))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


def _matmul(x: Tensor, y: Tensor, transpose_x: Tensor | None = None, transpose_y: Tensor | None = None) -> Tensor:
    x = x.transpose(-1, -2) if transpose_x is not None and bool(transpose_x) and x.ndim > 1 else x
    y = y.transpose(-1, -2) if transpose_y is not None and bool(transpose_y) and y.ndim > 1 else y
    return torch.matmul(x, y)


def _einsum(values: list[Tensor], equation: str) -> Tensor:
    a, b = values
    # The Neural Engine's two forms with height 1, as one batched product each.
    if equation == "bkhc,bchq->bkhq" and a.shape[2] == 1 and b.shape[2] == 1:
        return torch.matmul(a[:, :, 0], b[:, :, 0])[:, :, None]
    if equation == "bchk,bkhq->bchq" and a.shape[2] == 1 and b.shape[2] == 1:
        return torch.matmul(a[:, :, 0], b[:, :, 0])[:, :, None]
    return torch.einsum(equation, a, b)


def _batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    return F.batch_norm(x, mean, variance, gamma, beta, eps=1e-5 if epsilon is None else float(epsilon))


def _layer_norm(
    x: Tensor,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    along = [n % x.ndim for n in _numbers(axes, list(range(x.ndim)))]
    eps = 1e-5 if epsilon is None else float(epsilon)
    variance, mean = torch.var_mean(x, along, correction=0, keepdim=True)
    y = (x - mean) * torch.rsqrt(variance + eps)
    shape = [n if i in along else 1 for i, n in enumerate(x.shape)]
    y = y if gamma is None else y * gamma.reshape(shape)
    return y if beta is None else y + beta.reshape(shape)


def _instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Tensor | None = None
) -> Tensor:
    return F.instance_norm(x, weight=gamma, bias=beta, eps=1e-5 if epsilon is None else float(epsilon))


def _softmax(x: Tensor, axis: Tensor | None = None) -> Tensor:
    return torch.softmax(x, -1 if axis is None else int(axis))


def _upsample_nearest(
    x: Tensor, scale_factor_height: Tensor | None = None, scale_factor_width: Tensor | None = None
) -> Tensor:
    high = 1.0 if scale_factor_height is None else float(scale_factor_height)
    wide = 1.0 if scale_factor_width is None else float(scale_factor_width)
    size = (int(x.shape[-2] * high), int(x.shape[-1] * wide))
    return F.interpolate(x, size=size, mode="nearest")


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask)


OPERATORS: dict[str, Callable[..., Any]] = {
    "batch_norm": _batch_norm,
    "conv": _conv,
    "einsum": _einsum,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "matmul": _matmul,
    "scaled_dot_product_attention": _attention,
    "softmax": _softmax,
    "upsample_nearest_neighbor": _upsample_nearest,
}
