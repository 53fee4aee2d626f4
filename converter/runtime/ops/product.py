"""Products of matrices, and attention as one operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.runtime.ops.parameter import flag


def _same_type(*factors: Tensor) -> tuple[Tensor, ...]:
    """Return the factors in one type: since iOS 17, a product may mix integers and floats."""
    return factors if len({f.dtype for f in factors}) == 1 else tuple(f.float() for f in factors)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(*_same_type(x, weight) if bias is None else _same_type(x, weight, bias))


def _matmul(x: Tensor, y: Tensor, transpose_x: Tensor | None = None, transpose_y: Tensor | None = None) -> Tensor:
    x = x.transpose(-1, -2) if flag(transpose_x) and x.ndim > 1 else x
    y = y.transpose(-1, -2) if flag(transpose_y) and y.ndim > 1 else y
    return torch.matmul(*_same_type(x, y))


def _einsum(values: list[Tensor], equation: str) -> Tensor:
    a, b = values
    # The Neural Engine's two forms with height 1, as one batched product each.
    if equation in ("bkhc,bchq->bkhq", "bchk,bkhq->bchq") and a.shape[2] == 1 and b.shape[2] == 1:
        return torch.matmul(a[:, :, 0], b[:, :, 0])[:, :, None]
    return torch.einsum(equation, a, b)


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:-1], key.shape[-2])
    return F.scaled_dot_product_attention(query, key, value, attn_mask)


OPERATORS: dict[str, Callable[..., Any]] = {
    "einsum": _einsum,
    "linear": _linear,
    "matmul": _matmul,
    "scaled_dot_product_attention": _attention,
}
