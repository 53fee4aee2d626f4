"""Enlarges an image to an exact size: by a network as often as needed and then resampled, or resampled alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from PIL import Image

from server.pipeline.images import Pixels
from server.pipeline.upscaling.tiles import Tile, TileNetwork, enlarged_rows, tile_count

#: The upscalers without a network, and how Pillow calls them.
RESAMPLINGS = {"lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST}


def passes(width: int, height: int, to_width: int, to_height: int, scale: int) -> int:
    """Return how many times a network of this scale runs, one after the other: until the image is large enough, and once at least."""
    factor = max(to_width / width, to_height / height)
    if scale == 1 or factor <= scale:
        return 1
    # 8 is 2 three times, though the logarithms' quotient may be a little above.
    return math.ceil(math.log(factor) / math.log(scale) - 1e-9)


def tiles_needed(width: int, height: int, to_width: int, to_height: int, *, tile: int, scale: int) -> int:
    """Return how many tiles `enlarged` takes in all its passes."""
    count = passes(width, height, to_width, to_height, scale)
    return sum(tile_count(width * scale**i, height * scale**i, tile) for i in range(count))


def crop_to_ratio(pixels: Pixels, width: int, height: int) -> Pixels:
    """Return the largest part in the middle of an image that has the ratio of ``width`` to ``height``, to a pixel."""
    rows, columns, _ = pixels.shape
    kept = min(columns, max(1, round(rows * width / height))), min(rows, max(1, round(columns * height / width)))
    left, top = (columns - kept[0]) // 2, (rows - kept[1]) // 2
    return pixels[top : top + kept[1], left : left + kept[0]]


def _resized(pixels: Pixels, width: int, height: int, resampling: Image.Resampling) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize((width, height), resampling))


def _through(pixels: Pixels, network: TileNetwork, width: int) -> Iterator[Tile | Pixels]:
    """Yield the tiles of one pass, then the image, its rows already resampled to ``width`` columns."""
    rows = []
    for done in enlarged_rows(pixels, network):
        if isinstance(done, Tile):
            yield done
        elif done.shape[1] == width:
            rows.append(np.ascontiguousarray(done))
        else:
            rows.append(_resized(done, width, len(done), Image.Resampling.LANCZOS))
    yield np.concatenate(rows)


def enlarged(pixels: Pixels, width: int, height: int, upscaler: TileNetwork | str) -> Iterator[Tile | Pixels]:
    """Yield the tiles of an image, uint8 [H, W, 3], as they are done, and at last the image of ``width`` x ``height``.

    ``upscaler`` is a network, or one of RESAMPLINGS. An image of another ratio is cropped first. The last pass's columns
    are resampled row of tiles by row of tiles, so that what a network makes too large is never in memory as a whole.
    """
    pixels = crop_to_ratio(pixels, width, height)
    if isinstance(upscaler, str):
        yield _resized(pixels, width, height, RESAMPLINGS[upscaler])
        return
    count = passes(pixels.shape[1], pixels.shape[0], width, height, upscaler.scale)
    for number in range(count):
        to = width if number == count - 1 else pixels.shape[1] * upscaler.scale
        for done in _through(pixels, upscaler, to):
            if isinstance(done, Tile):
                yield done
            else:
                pixels = done
    yield pixels if pixels.shape[:2] == (height, width) else _resized(pixels, width, height, Image.Resampling.LANCZOS)
