"""Quantization to 8-bit integers and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from converter.runtime.ops.parameter import number

_RANGES = {"int8": (-128, 127, torch.int8), "uint8": (0, 255, torch.uint8)}


def _along(values: Tensor, like: Tensor, axis: Tensor | None) -> Tensor:
    """Return a scale or zero point, one for all or one per position of an axis, in fp32, to broadcast with ``like``."""
    if values.ndim == 0:
        return values.float()
    along = number(axis, 0) % like.ndim
    return values.float().reshape([-1 if i == along else 1 for i in range(like.ndim)])


def _quantize(
    input: Tensor,  # the operator's name for it
    scale: Tensor,
    output_dtype: str,
    zero_point: Tensor | None = None,
    axis: Tensor | None = None,
) -> Tensor:
    low, high, dtype = _RANGES[output_dtype]
    steps = torch.round(input / _along(scale, input, axis))
    steps = steps if zero_point is None else steps + _along(zero_point, input, axis)
    return steps.clamp(low, high).to(dtype)


def _dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    steps = input.float() if zero_point is None else input.float() - _along(zero_point, input, axis)
    return steps * _along(scale, input, axis)


OPERATORS: dict[str, Callable[..., Any]] = {"dequantize": _dequantize, "quantize": _quantize}
