"""Reads the sizes of hires fix where an infotext has them in place of a scale."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from server.pipeline.boxes.box import Shape

_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")
#: The size of the first pass if none is known.
_USUAL = (512, 512)


def read_size(text: str) -> Shape | None:
    """Return width and height of ``512x768``; None for another text."""
    found = _SIZE.fullmatch(text)
    return None if found is None else (int(found[1]), int(found[2]))


@dataclass(frozen=True)
class SizedPasses:
    """The first pass's size, None as the text's ``Size`` says; and the scale of the second.

    exact: whether the result has the size that is asked for; the second pass keeps the ratio of the first.
    """

    first: Shape | None
    scale: float
    exact: bool


def read_sizes(size: Shape | None, first_pass: Shape | None, resize: Shape | None) -> SizedPasses | None:
    """Return the passes by the text's ``Size``, ``First pass size`` and ``Hires resize``; None if they do not tell.

    A1111's first versions wrote the result's size as ``Size``, and 0x0 for a first pass of as many pixels as 512x512, in
    multiples of 64. In ``Hires resize``, a side of 0 follows from the other one.
    """
    first = size or _USUAL
    result = resize
    if first_pass is not None:
        result, first = first, first_pass if all(first_pass) else _usual_first_pass(first)
    if result is None or not any(result) or not all(first):
        return None
    scale = max(result[0] / first[0], result[1] / first[1])
    exact = all(not asked or round(side * scale) == asked for side, asked in zip(first, result, strict=True))
    return SizedPasses(None if first_pass is None else first, scale, exact)


def _usual_first_pass(result: Shape) -> Shape:
    scale = math.sqrt(_USUAL[0] * _USUAL[1] / max(1, result[0] * result[1]))
    width, height = (math.ceil(scale * side / 64) * 64 for side in result)
    return width, height
