"""Operators that move blocks of pixels between height and width and the channels or the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from converter.runtime.ops.parameter import numbers
from converter.runtime.ops.window import padded


def _depth_to_space(x: Tensor, block_size: Tensor) -> Tensor:
    # The channel index has the position within a block as its outer part; for pixel_shuffle that is the inner part.
    n, c, h, w = x.shape
    b = int(block_size)
    return x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // (b * b), h * b, w * b)


def _space_to_depth(x: Tensor, block_size: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = int(block_size)
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


def _space_to_batch(x: Tensor, block_shape: Tensor, paddings: Tensor) -> Tensor:
    (top, bottom, left, right), (b, d) = numbers(paddings), numbers(block_shape)
    x = padded(x, [(top, bottom), (left, right)])
    n, c, h, w = x.shape
    return x.reshape(n, c, h // b, b, w // d, d).permute(3, 5, 0, 1, 2, 4).reshape(b * d * n, c, h // b, w // d)


def _batch_to_space(x: Tensor, block_shape: Tensor, crops: Tensor) -> Tensor:
    (top, bottom, left, right), (b, d) = numbers(crops), numbers(block_shape)
    n, c, h, w = x.shape
    x = x.reshape(b, d, n // (b * d), c, h, w).permute(2, 3, 4, 0, 5, 1).reshape(n // (b * d), c, h * b, w * d)
    return x[..., top : h * b - bottom, left : w * d - right]


def _pixel_unshuffle(x: Tensor, downscale_factor: Tensor) -> Tensor:
    # PyTorch's pixel_unshuffle does not change the shape of an empty batch.
    *lead, c, h, w = x.shape
    b = int(downscale_factor)
    split = x.reshape(*lead, c, h // b, b, w // b, b)
    return split.movedim((-3, -1), (-4, -3)).reshape(*lead, c * b * b, h // b, w // b)


OPERATORS: dict[str, Callable[..., Any]] = {
    "batch_to_space": _batch_to_space,
    "depth_to_space": _depth_to_space,
    "pixel_shuffle": lambda x, upscale_factor: F.pixel_shuffle(x, int(upscale_factor)),
    "pixel_unshuffle": _pixel_unshuffle,
    "space_to_batch": _space_to_batch,
    "space_to_depth": _space_to_depth,
}
