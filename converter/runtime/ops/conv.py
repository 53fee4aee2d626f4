"""Convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from converter.runtime.ops.parameter import number, numbers
from converter.runtime.ops.window import padded, padding


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
    stride, dilation = numbers(strides, [1] * rank), numbers(dilations, [1] * rank)
    kernels = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    sides = padding(pad_type, pad, x.shape[2:], kernels, stride)
    symmetric = all(before == after for before, after in sides)
    x = x if symmetric else padded(x, sides)
    conv = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    inner = [before for before, _ in sides] if symmetric else [0] * rank
    return conv(x, weight, bias, stride, inner, dilation, number(groups, 1))


def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Tensor | None = None,
    output_shape: Tensor | None = None,
    pad_type: str = "valid",
    strides: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    rank = x.ndim - 2
    stride, dilation = numbers(strides, [1] * rank), numbers(dilations, [1] * rank)
    conv = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    full = conv(x, weight, None, stride, 0, 0, number(groups, 1), dilation)
    asked = numbers(output_shape)[2:]
    sides = []
    for axis, size in enumerate(full.shape[2:]):
        if pad_type in ("same", "same_lower"):
            length = asked[axis] if asked else x.shape[2 + axis] * stride[axis]
            extra = max(0, size - length)
            before = extra - extra // 2 if pad_type == "same_lower" else extra // 2
        else:
            before, after = padding(pad_type, pad, full.shape[2:], [], [])[axis]
            length = asked[axis] if asked else size - before - after
        # The output shape may extend beyond the last element that an input reaches.
        sides.append((-before, before + length - size))
    full = padded(full, sides)
    return full if bias is None else full + bias.reshape(1, -1, *[1] * rank)


OPERATORS: dict[str, Callable[..., Any]] = {"conv": _conv, "conv_transpose": _conv_transpose}
