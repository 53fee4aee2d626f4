"""Reads from an image's pixels alone the ground's color, and each thing's color, shape and place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from demo.scenes import COLORS, PLACES, SHAPES, shape_distance

_SIDE = 24


@dataclass(frozen=True)
class Seen:
    """One thing in an image; ``center`` in fractions of the image's side (x, y)."""

    shape: str
    color: str
    center: tuple[float, float]
    area: int

    @property
    def place(self) -> str:
        """The name of the nearest of the nine places."""
        return min(PLACES, key=lambda p: float(np.hypot(*np.subtract(PLACES[p], self.center))))


def _lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert sRGB in 0..255 to CIE L*a*b* (D65), where distances resemble perceived differences."""
    linear = np.where(rgb <= 10.31475, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


_PALETTE = _lab(np.array(list(COLORS.values()), np.float64))


def color_name(rgb: NDArray[np.float64]) -> str:
    """Return the name of the palette's nearest color. Lightness counts half: shading and patterns change it, not the hue."""
    weight = np.array([0.5, 1.0, 1.0])
    return list(COLORS)[int(np.argmin((((_lab(rgb) - _PALETTE) * weight) ** 2).sum(-1)))]


@cache
def _templates() -> NDArray[np.float64]:
    """Return filled silhouettes (holes kept), each scaled to its bounding box: [shapes, 24, 24]."""
    silhouettes = []
    y, x = np.meshgrid(np.linspace(-1.3, 1.3, 256), np.linspace(-1.3, 1.3, 256), indexing="ij")
    for shape in SHAPES:
        silhouettes.append(_boxed(shape_distance(shape, x.astype(np.float32), y.astype(np.float32)) < 0))
    return np.stack(silhouettes)


def _boxed(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float64)
    zoom = (_SIDE / box.shape[0], _SIDE / box.shape[1])
    smoothed = ndimage.gaussian_filter(box, [max(0.0, 0.4 / z - 0.4) for z in zoom])
    grid = np.meshgrid(*[(np.arange(_SIDE) + 0.5) / z - 0.5 for z in zoom], indexing="ij")
    return ndimage.map_coordinates(smoothed, grid, order=1, mode="nearest")


def shape_name(mask: NDArray[np.bool_]) -> str:
    """Return the shape whose silhouette overlaps best (intersection over union of soft masks)."""
    box, templates = _boxed(mask), _templates()
    overlap = np.minimum(box, templates).sum((1, 2)) / np.maximum(box, templates).sum((1, 2))
    return SHAPES[int(overlap.argmax())]


def look(image: NDArray[np.uint8]) -> tuple[str, list[Seen]]:
    """Return the ground's color and the things in an image (uint8 [256, 256, 3]), largest first.

    The ground is the main color of the border; a thing is a connected region that differs from both of the ground's tones,
    without its outline.
    """
    pixels = ndimage.median_filter(image, size=(3, 3, 1)).astype(np.float64)
    border = np.concatenate([pixels[:14].reshape(-1, 3), pixels[-14:].reshape(-1, 3)])
    border = np.concatenate([border, pixels[:, :14].reshape(-1, 3), pixels[:, -14:].reshape(-1, 3)])
    first = np.median(border, 0)
    apart = np.linalg.norm(_lab(border) - _lab(first), axis=-1)
    second = np.median(border[apart > 6], 0) if (apart > 6).mean() > 0.12 else first
    ground = color_name(first if second is first else (first + second) / 2)
    # A pattern's two tones span a line in color space; pixels far from the line are not ground.
    a, b = _lab(first), _lab(second)
    lab = _lab(pixels)
    along = np.clip(((lab - a) @ (b - a)) / max(1e-6, float((b - a) @ (b - a))), 0, 1)[..., None]
    distance = np.linalg.norm(lab - (a + along * (b - a)), axis=-1)
    regions, count = ndimage.label(ndimage.binary_opening(distance > 16, iterations=1))
    things = []
    for index in range(1, count + 1):
        mask = regions == index
        area = int(mask.sum())
        if area < 150:
            continue
        inner = ndimage.binary_erosion(mask, iterations=5)
        inner = inner if inner.sum() > 40 else ndimage.binary_erosion(mask, iterations=2)
        inner = inner if inner.any() else mask
        ys, xs = np.nonzero(ndimage.binary_fill_holes(mask))
        box = ((xs.min() + xs.max() + 1) / 512, (ys.min() + ys.max() + 1) / 512)
        things.append(Seen(shape_name(mask), color_name(np.median(pixels[inner], 0)), box, area))
    return ground, sorted(things, key=lambda s: -s.area)
