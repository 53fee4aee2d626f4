"""Find the colors of an image with their shares: k-means in OKLab over the image's histogram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from server.pipeline.images import LARGE, decode_image, fit_image, plain_png, read_image
from server.pipeline.palette.oklab import Lab, to_oklab, to_srgb

#: How many colors a palette may have.
FEWEST, MOST = 2, 16
#: Colors of a palette unless a number is asked for.
USUAL = 5
#: The image is reduced to this longer side first: shares are then right to 0.01 %, and edges are still narrow.
_SIDE = 128
#: Bits of each channel in the histogram whose cells are clustered; a cell is 8 levels wide and has its pixels' mean.
_BITS = 5
_ROUNDS = 20
#: The longer side that files of more than `LARGE` pixels are reduced to as they are decoded.
_LARGE_SIDE = 512
#: Colors nearer than this in OKLab look the same in an image (a just noticeable difference is about 0.02), and are one.
_SAME = 0.02
#: Pixels of each color's square in a strip.
_SQUARE = 64


@dataclass(frozen=True)
class Color:
    """A color of a palette. share: the part of the image's pixels nearest to it, 0 to 1."""

    rgb: tuple[int, int, int]
    share: float

    @property
    def hex(self) -> str:
        """The color as #rrggbb."""
        return "#{:02x}{:02x}{:02x}".format(*self.rgb)

    def shown(self) -> dict[str, Any]:
        """Return the color as clients see it in JSON."""
        return {"hex": self.hex, "rgb": self.rgb, "share": round(self.share, 4)}


#: The largest share first; the shares' sum is 1.
Palette = tuple[Color, ...]


def _histogram(pixels: NDArray[np.uint8]) -> tuple[Lab, NDArray[np.float64]]:
    """Return the mean color of each cell that has pixels, fp32 [N, 3], and how many it has, [N]."""
    rows = pixels.reshape(-1, 3)
    levels = rows.astype(np.int64) >> (8 - _BITS)
    cells, number = np.unique(levels @ [1 << 2 * _BITS, 1 << _BITS, 1], return_inverse=True)
    counts = np.bincount(number)
    lab = to_oklab(rows)
    means = np.stack([np.bincount(number, lab[:, axis], len(cells)) for axis in range(3)], 1) / counts[:, None]
    return means.astype(np.float32), counts.astype(np.float64)


def _distances(colors: Lab, centers: Lab) -> NDArray[np.float32]:
    """Return the squared distance of each color to each center, [N, K]; rounding may leave it a little below 0."""
    squares = (colors**2).sum(1)[:, None] + (centers**2).sum(1)
    return np.asarray(squares - 2 * colors @ centers.T, np.float32)


def _first_centers(colors: Lab, weights: NDArray[np.float64], count: int) -> Lab:
    """Return the heaviest color, then always the one whose weight and squared distance to the chosen ones are greatest.

    k-means++ (Arthur and Vassilvitskii 2007) without chance, so that an image always has the same palette.
    """
    chosen = [int(np.argmax(weights))]
    nearest = _distances(colors, colors[chosen])[:, 0]
    while len(chosen) < count and nearest.max() > _SAME**2:
        chosen.append(int(np.argmax(weights * nearest)))
        nearest = np.minimum(nearest, _distances(colors, colors[chosen[-1:]])[:, 0])
    return colors[chosen]


def _means(colors: Lab, weights: NDArray[np.float64], nearest: NDArray[np.int64], centers: Lab) -> Lab:
    """Return the mean of the colors nearest to each center; a center without colors stays."""
    totals = np.bincount(nearest, weights, len(centers))
    sums = np.stack([np.bincount(nearest, weights * colors[:, axis], len(centers)) for axis in range(3)], 1)
    return np.where(totals[:, None] > 0, sums / np.maximum(totals, 1)[:, None], centers).astype(np.float32)


def _joined(centers: Lab, totals: NDArray[np.float64]) -> tuple[Lab, NDArray[np.float64]]:
    """Return centers that differ visibly: the two nearest become one until none look the same."""
    while len(centers) > 1:
        apart = _distances(centers, centers) + np.diag(np.full(len(centers), np.inf, np.float32))
        one, other = divmod(int(np.argmin(apart)), len(centers))
        if apart[one, other] > _SAME**2:
            break
        pair = totals[[one, other]]
        centers[one] = (pair @ centers[[one, other]]) / pair.sum()
        totals[one] = pair.sum()
        centers, totals = np.delete(centers, other, 0), np.delete(totals, other)
    return centers, totals


def palette_of(pixels: NDArray[np.uint8], count: int = USUAL) -> Palette:
    """Return the colors of an image, uint8 [H, W, 3]: at most ``count`` (2 to 16), fewer if it has no more that differ.

    The same pixels always give the same palette.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    colors, weights = _histogram(np.asarray(image))
    centers = _first_centers(colors, weights, count)
    for _ in range(_ROUNDS):
        moved = _means(colors, weights, _distances(colors, centers).argmin(1), centers)
        settled = np.abs(moved - centers).max() < 1e-4
        centers = moved
        if settled:
            break
    totals = np.bincount(_distances(colors, centers).argmin(1), weights, len(centers)).astype(np.float64)
    centers, totals = _joined(centers[totals > 0], totals[totals > 0])
    order = np.argsort(-totals, kind="stable")
    shares, levels = totals[order] / totals.sum(), to_srgb(centers[order])
    return tuple(
        Color((int(red), int(green), int(blue)), float(share))
        for (red, green, blue), share in zip(levels, shares, strict=True)
    )


def palette_of_file(data: bytes, count: int = USUAL) -> Palette:
    """Return the colors of an image file as `palette_of` does, transparency on white; raises ImageError."""
    file = read_image(data)
    if file.pixels <= LARGE:
        return palette_of(np.asarray(decode_image(data)), count)
    # Decoded strip by strip: an image of 32 megapixels would take 400 MB.
    factor = _LARGE_SIDE / max(file.upright)
    width, height = (max(1, round(side * factor)) for side in file.upright)
    return palette_of(fit_image(data, width, height), count)


def strip(palette: Palette) -> bytes:
    """Return a palette as a PNG of 64 pixels' height, a square for each color from left to right."""
    row = np.repeat(np.asarray([color.rgb for color in palette], np.uint8), _SQUARE, 0)
    return plain_png(np.repeat(row[None], _SQUARE, 0))
