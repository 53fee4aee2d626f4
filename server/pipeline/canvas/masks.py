"""Masks: which pixels of an image are repainted, from 0 (kept) to 255 (repainted)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from server.pipeline.boxes.box import Box
from server.pipeline.images import Gray, Pixels

#: A1111's fill (masking.fill): radii of the blurs, the widest first, and how many times each is laid over those before.
_FILL_BLURS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2))
#: Pillow's blur reaches three times its radius.
_REACH = 3


def inverted(mask: Gray) -> Gray:
    """Return the mask that repaints what this one keeps."""
    return np.asarray(255 - mask, np.uint8)


def blurred(mask: Gray, radius: float) -> Gray:
    """Return the mask blurred by a Gaussian with this standard deviation in pixels; it is 0 farther than three of them away.

    Pillow's approximation by three box filters.
    """
    if radius == 0:
        return mask
    return np.asarray(Image.fromarray(mask).filter(ImageFilter.GaussianBlur(radius)))


def feathered(new: NDArray[np.bool_], feather: int) -> Gray:
    """Return 255 where pixels are new, falling to 0 over ``feather`` pixels around them."""
    blur = blurred(np.where(new, 255, 0).astype(np.uint8), feather / _REACH)
    # Half of the blurred edge lies in the new part, which is to be new as a whole.
    return np.minimum(2 * blur.astype(np.uint16), 255).astype(np.uint8)


def bounds(mask: Gray) -> Box | None:
    """Return the smallest box with every pixel above 0; None if there is none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return None
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def blended(old: Pixels, new: Pixels, mask: Gray) -> Pixels:
    """Return ``old`` [H, W, 3] where the mask is 0, exactly, ``new`` where it is 255, and a mixture between."""
    weight = mask[..., None].astype(np.uint16)
    return ((old * (255 - weight) + new * weight + 127) // 255).astype(np.uint8)


def filled(pixels: Pixels, mask: Gray) -> Pixels:
    """Return the image with what is repainted replaced by its blurred surroundings, as A1111 does (masking.fill).

    Far from everything that is kept, where A1111's 8 bits leave hardly a color, it is the average of what is kept.
    """
    weight = inverted(mask).astype(np.float32)[..., None]
    # Gray, the middle of what the networks see, if nothing is kept.
    average = (pixels * weight).sum((0, 1)) / weight.sum() if weight.any() else np.full(3, 127.5)
    fill = np.broadcast_to(average.astype(np.float32), pixels.shape).copy()
    # Premultiplied by what is kept, so that the blur takes in no color of what is repainted.
    kept = Image.fromarray(np.dstack([pixels, inverted(mask)])).convert("RGBa")
    for radius, times in _FILL_BLURS:
        blur = np.asarray(kept.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")).astype(np.float32)
        opacity = 1 - (1 - blur[..., 3:] / 255) ** times
        fill += (blur[..., :3] - fill) * opacity
    return blended(pixels, np.clip(np.round(fill), 0, 255).astype(np.uint8), mask)


def latent_mask(mask: Gray, factor: int) -> NDArray[np.float32]:
    """Return the share of the steps in which each latent is repainted, 0 to 1 [1, 1, H / factor, W / factor].

    A latent is that of ``factor`` x ``factor`` pixels and takes the greatest of their values: a thin stroke is repainted
    too, and the pixels beside it are kept when the image is put together.
    """
    height, width = mask.shape
    cells = mask.reshape(height // factor, factor, width // factor, factor)
    return np.asarray(cells.max((1, 3))[None, None] / np.float32(255), np.float32)


def sampled_latent_mask(mask: Gray, factor: int) -> NDArray[np.float32]:
    """Return the mask that an inpainting UNet takes, 0 or 1 [1, 1, H / factor, W / factor].

    It is the mask of 0 and 1 at every ``factor``-th pixel, as the models were trained and as diffusers does.
    """
    return np.asarray(repaints(mask)[::factor, ::factor][None, None], np.float32)


def repaints(mask: Gray) -> NDArray[np.bool_]:
    """Return where an inpainting UNet is to repaint: at half and above, as diffusers rounds (VaeImageProcessor.binarize)."""
    return mask >= 128
