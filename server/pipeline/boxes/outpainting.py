"""Which boxes of an extended image are computed, and in which order: each has some of what is known, and some that is new."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from server.pipeline.boxes.box import Box, Shape, overlapping

#: The share of a box's side that shows what is known already.
_CONTEXT = 1 / 3
#: Up to this many image pixels for a computed one, the whole image is a single box: nothing has to be fitted together.
_ONE_BOX = 1.25
#: Boxes grow, which blurs what is new, rather than be more than so many.
_MANY, _GROWTH = 8, 1.25


def outpainting_boxes(width: int, height: int, known: Box, shape: Shape) -> list[Box]:
    """Return the boxes that complete an image of ``width`` x ``height`` of which only ``known`` is there.

    All boxes lie within the image and have a shape's ratio, as nearly as whole pixels allow. First the new columns beside
    the known rows are covered, from the known ones outwards, then the new rows.
    """
    largest = min(width / shape[0], height / shape[1])
    if largest >= max(width / shape[0], height / shape[1]) / 1.05 and largest <= _ONE_BOX:
        return [Box(0, 0, width, height)]
    scale = min(1.0, largest)
    while True:
        boxes = _needed(_at_scale(width, height, known, shape, scale), known, width, height)
        if len(boxes) <= _MANY or scale >= largest:
            return boxes
        scale = min(scale * _GROWTH, largest)


def _at_scale(width: int, height: int, known: Box, shape: Shape, scale: float) -> Iterator[Box]:
    """Yield the boxes with ``scale`` image pixels for a computed one."""
    across, down = min(width, round(shape[0] * scale)), min(height, round(shape[1] * scale))
    rows = _along(known.top, known.bottom, down, height)
    for left in _outwards(known.left, known.right, across, width):
        yield from (Box(left, top, left + across, top + down) for top in rows)
    columns = _along(0, width, across, width)
    for top in _outwards(known.top, known.bottom, down, height):
        yield from (Box(left, top, left + across, top + down) for left in columns)


def _outwards(first: int, last: int, length: int, side: int) -> list[int]:
    """Return where boxes of a length start that cover a side before ``first`` and after ``last``, the nearest ones first."""
    context = round(length * _CONTEXT)
    after, start = [], last
    while start < side:
        after.append(min(max(start - context, 0), side - length))
        start = after[-1] + length
    before, end = [], first
    while end > 0:
        before.append(min(max(end + context - length, 0), side - length))
        end = before[-1]
    return before + after


def _along(first: int, last: int, length: int, side: int) -> list[int]:
    """Return where overlapping boxes of a length start that cover a side from ``first`` to ``last``."""
    room = last - first - length
    if room <= 0:
        return [min(max(first + room // 2, 0), side - length)]
    return [first + start for start in overlapping(last - first, length)]


def _needed(boxes: Iterator[Box], known: Box, width: int, height: int) -> list[Box]:
    """Return the boxes that have something new which no box before them has."""
    boxes_in_order = list(boxes)
    every = [Box(0, 0, width, height), known, *boxes_in_order]
    columns = sorted({edge for box in every for edge in (box.left, box.right)})
    rows = sorted({edge for box in every for edge in (box.top, box.bottom)})
    # A cell for each rectangle between neighboring edges.
    done = np.zeros((len(rows), len(columns)), bool)

    def cells(box: Box) -> tuple[slice, slice]:
        return _between(rows, box.top, box.bottom), _between(columns, box.left, box.right)

    done[cells(known)] = True
    needed = []
    for box in boxes_in_order:
        if not done[cells(box)].all():
            needed.append(box)
            done[cells(box)] = True
    return needed


def _between(edges: Sequence[int], first: int, last: int) -> slice:
    return slice(edges.index(first), edges.index(last))
