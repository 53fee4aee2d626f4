"""Resize and crop along axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.runtime.ops.grid import axis_points, interpolate
from converter.runtime.ops.parameter import flag, number, numbers, real


def _scaled(x: Tensor, height: Tensor | None, width: Tensor | None) -> tuple[int, int]:
    return int(x.shape[-2] * real(height, 1.0)), int(x.shape[-1] * real(width, 1.0))


def _nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize so that every output takes the element under its upper left corner."""
    batched = x.reshape(1, math.prod(x.shape[:-2]), *x.shape[-2:])
    return F.interpolate(batched, size, mode="nearest").reshape(*x.shape[:-2], *size)


def _bilinear(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    for axis, count in zip((-2, -1), size, strict=True):
        x = interpolate(x, axis, axis_points(x.shape[axis], count, mode))
    return x


def _upsample_nearest_neighbor(
    x: Tensor, scale_factor_height: Tensor | None = None, scale_factor_width: Tensor | None = None
) -> Tensor:
    return _nearest(x, _scaled(x, scale_factor_height, scale_factor_width))


def _resize_nearest_neighbor(x: Tensor, target_size_height: Tensor, target_size_width: Tensor) -> Tensor:
    return _nearest(x, (int(target_size_height), int(target_size_width)))


def _upsample_bilinear(
    x: Tensor,
    scale_factor_height: Tensor | None = None,
    scale_factor_width: Tensor | None = None,
    align_corners: Tensor | None = None,
    half_pixel_centers: Tensor | None = None,
) -> Tensor:
    size = _scaled(x, scale_factor_height, scale_factor_width)
    aligned = flag(align_corners, True)
    if aligned:
        mode = "STRICT_ALIGN_CORNERS"
    else:
        mode = "UNALIGN_CORNERS" if flag(half_pixel_centers, not aligned) else "DEFAULT"
    return _bilinear(x, size, mode)


def _resize_bilinear(
    x: Tensor,
    target_size_height: Tensor | None = None,
    target_size_width: Tensor | None = None,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    return _bilinear(x, (number(target_size_height, 1), number(target_size_width, 1)), sampling_mode)


def _resize(
    x: Tensor,
    shape: Tensor,
    resized_dims: Tensor,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    count = int(resized_dims)
    for axis, size in zip(range(-count, 0), numbers(shape)[-count:], strict=True):
        where = axis_points(x.shape[axis], size or x.shape[axis], sampling_mode)
        if interpolation_mode == "LINEAR":
            x = interpolate(x, axis, where).to(x.dtype)
        else:
            x = x.index_select(axis, torch.round(where).long())
    return x


def _crop(x: Tensor, crop_height: Tensor, crop_width: Tensor) -> Tensor:
    (top, bottom), (left, right) = numbers(crop_height), numbers(crop_width)
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


OPERATORS: dict[str, Callable[..., Any]] = {
    "crop": _crop,
    "resize": _resize,
    "resize_bilinear": _resize_bilinear,
    "resize_nearest_neighbor": _resize_nearest_neighbor,
    "upsample_bilinear": _upsample_bilinear,
    "upsample_nearest_neighbor": _upsample_nearest_neighbor,
}
