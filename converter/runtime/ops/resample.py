"""Sample an image at coordinates, through an affine map, or on a grid in each of several boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from converter.runtime.ops.grid import interpolate, points
from converter.runtime.ops.parameter import flag, number, numbers, real


def _to_elements(where: Tensor, size: int, coordinates_mode: str, aligned: bool) -> Tensor:
    """Return coordinates along an axis in units of its elements."""
    if coordinates_mode == "unnormalized":
        return where
    unit = (where + 1) / 2 if coordinates_mode == "normalized_minus_one_to_one" else where
    return unit * (size - 1) if aligned else unit * size - 0.5


def _inside(index: Tensor, size: int, padding_mode: str) -> tuple[Tensor, Tensor]:
    """Return the element at an index of the padded axis, and whether it exists in the axis."""
    if padding_mode == "reflection":
        span = max(1, 2 * (size - 1))
        index = index % span
        index = torch.minimum(index, span - index)
    elif padding_mode == "symmetric":
        index = index % (2 * size)
        index = torch.minimum(index, 2 * size - 1 - index)
    exists = (index >= 0) & (index < size)
    return index.clamp(0, size - 1), exists | (padding_mode != "constant")


def _pick(x: Tensor, column: Tensor, row: Tensor, padding_mode: str, value: float) -> Tensor:
    """Return the elements of ``x`` [B, C, H, W] at the indices [B, h, w] of the padded image, [B, C, h, w]."""
    height, width = x.shape[2:]
    column, across = _inside(column, width, padding_mode)
    row, down = _inside(row, height, padding_mode)
    flat = (row * width + column).long().flatten(1)[:, None].expand(-1, x.shape[1], -1)
    values = x.flatten(2).gather(2, flat).reshape(*x.shape[:2], *column.shape[1:])
    return torch.where((across & down)[:, None], values, torch.tensor(value, dtype=x.dtype))


def _resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Tensor,
    coordinates_mode: str,
    align_corners: Tensor,
) -> Tensor:
    aligned, value = flag(align_corners), float(padding_value)
    across = _to_elements(coordinates[..., 0].float(), x.shape[3], coordinates_mode, aligned)
    down = _to_elements(coordinates[..., 1].float(), x.shape[2], coordinates_mode, aligned)
    if sampling_mode == "nearest":
        # Half-way between two elements the later one is taken, as in coremltools' recorded values.
        return _pick(x, (across + 0.5).floor(), (down + 0.5).floor(), padding_mode, value)
    left, top = across.floor(), down.floor()
    total = torch.zeros(())
    for step_x, weight_x in ((0, 1 - (across - left)), (1, across - left)):
        for step_y, weight_y in ((0, 1 - (down - top)), (1, down - top)):
            corner = _pick(x, left + step_x, top + step_y, padding_mode, value)
            total = total + corner * (weight_x * weight_y)[:, None]
    return total


def _positions(count: int, aligned: bool) -> Tensor:
    """Return the positions of an axis's elements between -1 and 1; the first and last are the ends if ``aligned``."""
    if aligned:
        return torch.linspace(-1, 1, count) if count > 1 else torch.zeros(count)
    return (2 * torch.arange(count) + 1) / count - 1


def _affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: Tensor,
    output_width: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Tensor,
    coordinates_mode: str,
    align_corners: Tensor,
) -> Tensor:
    matrices = transform_matrix.reshape(transform_matrix.shape[0], 2, 3).expand(x.shape[0], 2, 3)
    down, across = (_positions(int(n), flag(align_corners)) for n in (output_height, output_width))
    y, x_ = torch.meshgrid(down, across, indexing="ij")
    grid = torch.einsum("hwk,njk->nhwj", torch.stack([x_, y, torch.ones_like(y)], -1), matrices.float())
    return _resample(x, grid, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)


def _corners(boxes: Tensor, mode: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return top, left, bottom, right of boxes [N, 4]."""
    a, b, c, d = boxes.float().unbind(1)
    if mode == "CORNERS_HEIGHT_FIRST":
        return a, b, c, d
    if mode == "CORNERS_WIDTH_FIRST":
        return b, a, d, c
    if mode == "CENTER_SIZE_WIDTH_FIRST":
        a, b, c, d = b, a, d, c
    return a - c / 2, b - d / 2, a + c / 2, b + d / 2


def _crops(x: Tensor, rows: Tensor, columns: Tensor, value: float) -> Tensor:
    """Return ``x`` [..., H, W] at each row and column; ``value`` outside it."""
    values = interpolate(interpolate(x, -2, rows), -1, columns)
    down = (rows >= 0) & (rows <= x.shape[-2] - 1)
    across = (columns >= 0) & (columns <= x.shape[-1] - 1)
    return torch.where(down[:, None] & across, values, torch.tensor(value, dtype=x.dtype))


def _crop_resize(
    x: Tensor,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: Tensor | None = None,
    target_height: Tensor | None = None,
    target_width: Tensor | None = None,
    normalized_coordinates: Tensor | None = None,
    spatial_scale: Tensor | None = None,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: Tensor | None = None,
) -> Tensor:
    indices: list[int] | None = None
    if boxes is not None:  # since iOS 17
        indices = numbers(box_indices, list(range(boxes.shape[0])))
    else:
        assert roi is not None
        boxes = roi.reshape(roi.shape[0], -1)
        if boxes.shape[1] == 5:
            indices, boxes = numbers(boxes[:, 0]), boxes[:, 1:]
    ends = torch.stack(_corners(boxes, box_coordinate_mode)) * real(spatial_scale, 1.0)
    if flag(normalized_coordinates):
        down, across = x.shape[2] - 1, x.shape[3] - 1
        ends = ends * torch.tensor([down, across, down, across])[:, None]
    top, left, bottom, right = ends
    rows = points(top, bottom, number(target_height, 1), sampling_mode)
    columns = points(left, right, number(target_width, 1), sampling_mode)
    value = real(pad_value, 0.0)
    parts = []
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        parts.append(_crops(x if indices is None else x[indices[i]], row, column, value))
    sizes = (0, *(x.shape if indices is None else x.shape[1:])[:-2], rows.shape[1], columns.shape[1])
    crops = torch.stack(parts) if parts else x.new_empty(sizes)
    return crops[:, None] if roi is not None and indices is not None else crops


OPERATORS: dict[str, Callable[..., Any]] = {"affine": _affine, "crop_resize": _crop_resize, "resample": _resample}
