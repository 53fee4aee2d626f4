"""Runs an upscaling network over an image, tile by tile, and blends the tiles without seams.

Tiles overlap by `OVERLAP` pixels. What a tile has within `MARGIN` pixels of its edge, where the network sees the zeros that
its convolutions pad with, is not used; over the rest of the overlap one tile fades into the next. Only a row of tiles is
in memory, in eight bits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server.pipeline.images import Pixels
from server.pipeline.networks import Call

#: Pixels at a tile's edge that are not used. The zeros reach one pixel further with every convolution, of which the bundled
#: upscaler has ten; in RRDB networks, which have hundreds, their influence fades before that.
MARGIN = 12
_FADE = 8
#: Pixels that neighboring tiles have in common.
OVERLAP = 2 * MARGIN + _FADE


class TileNetwork(Protocol):
    """A network that enlarges tiles of one size."""

    @property
    def tile(self) -> int:
        """The side of a tile, in pixels."""

    @property
    def scale(self) -> int:
        """How many times it enlarges a tile."""

    def enlarge(self, tile: Pixels) -> Pixels:
        """Return a tile, uint8 [tile, tile, 3], enlarged."""


def _starts(length: int, tile: int) -> list[int]:
    """Return where tiles begin along an axis of ``length`` pixels, of which they cover all; the last ends with it."""
    return [*range(0, length - tile, tile - OVERLAP), length - tile]


def _padded_length(length: int, tile: int) -> int:
    return max(length + 2 * MARGIN, tile)


def tile_count(width: int, height: int, tile: int) -> int:
    """Return how many tiles an image of this size takes."""
    return len(_starts(_padded_length(width, tile), tile)) * len(_starts(_padded_length(height, tile), tile))


def _fade(below: Pixels, above: Pixels, scale: int, axis: int) -> Pixels:
    """Return the overlap of two tiles along an axis, in which the one below fades into the one above."""
    place = np.arange(below.shape[axis], dtype=np.float32) + 0.5
    share = np.clip((place - MARGIN * scale) / (_FADE * scale), 0, 1)
    share = share[:, None, None] if axis == 0 else share[None, :, None]
    first = below.astype(np.float32)
    return np.rint(first + (above - first) * share).astype(np.uint8)


def _row(padded: NDArray[np.uint8], top: int, network: TileNetwork) -> Iterator[Call | Pixels]:
    """Yield the calls for the tiles of a row, then the row."""
    size, scale = network.tile, network.scale
    row = np.empty((size * scale, padded.shape[1] * scale, 3), np.uint8)
    end = 0
    for left in _starts(padded.shape[1], size):
        began = time.perf_counter()
        tile = network.enlarge(padded[top : top + size, left : left + size])
        begin, common = left * scale, max(0, end - left * scale)
        if common:
            tile[:, :common] = _fade(row[:, begin:end], tile[:, :common], scale, 1)
        end = begin + size * scale
        row[:, begin:end] = tile
        yield Call(time.perf_counter() - began)
    yield row


def enlarged_rows(pixels: Pixels, network: TileNetwork) -> Iterator[Call | Pixels]:
    """Yield the call for each tile of an image, uint8 [H, W, 3], and its enlarged rows in order, as many as are ready.

    The rows together are uint8 [s * H, s * W, 3]. An image smaller than a tile is continued by its mirror image, as every
    image is at its edges.
    """
    (height, width, _), size, scale = pixels.shape, network.tile, network.scale
    pads = [(MARGIN, _padded_length(n, size) - n - MARGIN) for n in (height, width)]
    padded = np.pad(pixels, (*pads, (0, 0)), "symmetric")
    starts = _starts(padded.shape[0], size)
    columns = slice(MARGIN * scale, (MARGIN + width) * scale)
    first, last = MARGIN * scale, (MARGIN + height) * scale
    carried: Pixels | None = None
    for top, following in zip(starts, [*starts[1:], padded.shape[0]], strict=True):
        for done in _row(padded, top, network):
            if isinstance(done, Call):
                yield done
                continue
            if carried is not None:
                done[: len(carried)] = _fade(carried, done[: len(carried)], scale, 0)
            begin, ready = top * scale, (following - top) * scale
            carried = done[ready:]
            rows = done[max(0, first - begin) : min(ready, last - begin), columns]
            if len(rows):
                yield rows
