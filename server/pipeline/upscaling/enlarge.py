"""Enlarges an image to an exact size: by a network as often as needed and then resampled, or resampled alone."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
from PIL import Image

from server.pipeline.images import Pixels, resize_pixels
from server.pipeline.networks import Call
from server.pipeline.upscaling.names import Resampling
from server.pipeline.upscaling.tiles import TileNetwork, enlarged_rows, tile_count

_PILLOW: dict[Resampling, Image.Resampling] = {
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


def passes(width: int, height: int, to_width: int, to_height: int, scale: int) -> int:
    """Return how many times a network of this scale runs, one after the other: until the image is large enough, and once at least."""
    factor = max(to_width / width, to_height / height)
    if scale == 1 or factor <= scale:
        return 1
    # 8 is 2 three times, though the logarithms' quotient may be a little above.
    return math.ceil(math.log(factor) / math.log(scale) - 1e-9)


def _kept(columns: int, rows: int, width: int, height: int) -> tuple[int, int]:
    """Return the size of the largest part of an image that has the ratio of ``width`` to ``height``, to a pixel."""
    return min(columns, max(1, round(rows * width / height))), min(rows, max(1, round(columns * height / width)))


def _crop_to_ratio(pixels: Pixels, width: int, height: int) -> Pixels:
    rows, columns, _ = pixels.shape
    kept = _kept(columns, rows, width, height)
    left, top = (columns - kept[0]) // 2, (rows - kept[1]) // 2
    return pixels[top : top + kept[1], left : left + kept[0]]


def tiles_needed(width: int, height: int, to_width: int, to_height: int, *, tile: int, scale: int) -> int:
    """Return how many tiles `enlarged` takes in all its passes."""
    width, height = _kept(width, height, to_width, to_height)
    width, height = min(width, to_width), min(height, to_height)
    count = passes(width, height, to_width, to_height, scale)
    return sum(tile_count(width * scale**i, height * scale**i, tile) for i in range(count))


def _through(pixels: Pixels, network: TileNetwork, width: int) -> Iterator[Call | Pixels]:
    """Yield the calls of one pass, then the image, its rows already resampled to ``width`` columns."""
    rows = []
    for done in enlarged_rows(pixels, network):
        if isinstance(done, Call):
            yield done
        elif done.shape[1] == width:
            rows.append(np.ascontiguousarray(done))
        else:
            rows.append(resize_pixels(done, width, len(done)))
    yield np.concatenate(rows)


def enlarged(pixels: Pixels, width: int, height: int, upscaler: TileNetwork | Resampling) -> Iterator[Call | Pixels]:
    """Yield a call for each tile of an image, uint8 [H, W, 3], and at last the image of ``width`` x ``height``.

    An image of another ratio is cropped first, and one larger than the result is reduced to its size before a network sees it:
    31 megapixels for a thumbnail took more than five minutes. The last pass's columns are resampled row of tiles by row of
    tiles, so that what a network makes too large is never in memory as a whole.
    """
    pixels = _crop_to_ratio(pixels, width, height)
    if isinstance(upscaler, str):
        began = time.perf_counter()
        resampled = resize_pixels(pixels, width, height, _PILLOW[upscaler])
        yield Call(time.perf_counter() - began)
        yield resampled
        return
    if pixels.shape[0] > height or pixels.shape[1] > width:
        smaller = min(pixels.shape[1], width), min(pixels.shape[0], height)
        pixels = resize_pixels(pixels, *smaller)
    count = passes(pixels.shape[1], pixels.shape[0], width, height, upscaler.scale)
    for number in range(count):
        to = width if number == count - 1 else pixels.shape[1] * upscaler.scale
        for done in _through(pixels, upscaler, to):
            if isinstance(done, Call):
                yield done
            else:
                pixels = done
    yield pixels if pixels.shape[:2] == (height, width) else resize_pixels(pixels, width, height)
