"""Boxes of an image: which parts of it the networks compute, at a shape that the model was converted for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Width and height of an image that the networks compute.
Shape = tuple[int, int]

#: The share of a side that neighboring boxes, or windows, have in common at least.
OVERLAP = 1 / 4
#: How much more a side may be cropped (5 %) for a shape whose area is nearer.
_CROP = math.log(1.05)


@dataclass(frozen=True)
class Box:
    """A part of an image in its pixels, right and bottom excluded. It may reach beyond the image."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.bottom - self.top

    def within(self, width: int, height: int) -> Box:
        """Return the part of the box that lies in an image of this size."""
        return Box(max(self.left, 0), max(self.top, 0), min(self.right, width), min(self.bottom, height))

    def grown(self, by: int) -> Box:
        """Return the box with so many pixels more on every side."""
        return Box(self.left - by, self.top - by, self.right + by, self.bottom + by)


def overlapping(length: int, part: int) -> list[int]:
    """Return where overlapping parts of an axis begin, at equal distances; the last ends with the axis."""
    room = length - part
    if room == 0:
        return [0]
    count = math.ceil(room / (part * (1 - OVERLAP))) + 1
    return [round(i * room / (count - 1)) for i in range(count)]


def nearest_shape(width: int, height: int, shapes: Sequence[Shape]) -> Shape:
    """Return the shape that suits an image of this size best: first by its ratio, then by its area.

    Ratios that cost up to 5 % of a side more than the best one count as equal.
    """

    def cropped(shape: Shape) -> float:
        return abs(math.log(shape[0] / shape[1] * height / width))

    least = min(map(cropped, shapes))
    alike = [shape for shape in shapes if cropped(shape) <= least + _CROP]
    return min(alike, key=lambda shape: (abs(math.log(shape[0] * shape[1] / (width * height))), cropped(shape)))


def covering(width: int, height: int, shape: Shape) -> Box:
    """Return the smallest box of a shape's ratio that has an image of this size in its middle."""
    scale = max(width / shape[0], height / shape[1])
    # 1e-9: a product such as 3 * (100 / 3) may come out a little above the whole number.
    box_width, box_height = (
        max(side, math.ceil(of * scale - 1e-9)) for side, of in zip((width, height), shape, strict=True)
    )
    left, top = -((box_width - width) // 2), -((box_height - height) // 2)
    return Box(left, top, left + box_width, top + box_height)


def around(part: Box, padding: int, shape: Shape, width: int, height: int) -> Box:
    """Return a box of a shape's ratio around a part of an image of this size, with up to ``padding`` pixels about it.

    As in A1111 (masking.expand_crop_region), it is moved into the image where it would reach beyond it; where the image is
    too small for that, it reaches beyond it on both sides.
    """
    padded = part.grown(padding).within(width, height)
    scale = max(padded.width / shape[0], padded.height / shape[1])
    box_width, box_height = (
        max(side, round(of * scale)) for side, of in zip((padded.width, padded.height), shape, strict=True)
    )
    left = _placed(padded.left - (box_width - padded.width) // 2, box_width, width)
    top = _placed(padded.top - (box_height - padded.height) // 2, box_height, height)
    return Box(left, top, left + box_width, top + box_height)


def _placed(start: int, length: int, side: int) -> int:
    """Return where a length begins that lies within a side if it fits, and in its middle otherwise."""
    return min(max(start, 0), side - length) if length <= side else -((length - side) // 2)
