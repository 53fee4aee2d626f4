"""Converts colors by an image's ICC profile, and puts transparency on a ground."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from server.pipeline.decoding.file import ImageFile

#: Changes up to so many levels are rounding: most profiles are sRGB's own.
_ROUNDING = 1
#: What a profile says of itself (ICC.1, 7.2.6), by the mode of the pixels it is for.
_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}

Convert = Callable[[Image.Image], Image.Image]


def to_rgb(image: Image.Image, file: ImageFile, convert: Convert | None, ground: str = "white") -> Image.Image:
    """Return decoded pixels of the file as RGB with 8 bits, on a ground; ``convert`` is the file's `converter`."""
    if image.mode == "PA" or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode == "P":
        image = image.convert("RGB")
    visible = None if file.transparent is None else _visible(np.asarray(image), file.transparent)
    if image.mode.startswith("I"):
        image = _to_8_bits(image)
    elif image.mode == "1":
        image = image.convert("L")
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else visible
    if convert is not None:
        image = convert(image.convert({"LA": "L", "RGBA": "RGB"}.get(image.mode, image.mode)))
    if alpha is None or alpha.getextrema() == (255, 255):
        return image.convert("RGB")
    image = image.convert("RGBA")  # a copy: the caller keeps its image
    image.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", image.size, ground), image).convert("RGB")


def converter(profile: bytes | None, mode: str) -> Convert | None:
    """Return the conversion to sRGB of pixels that have this profile, once decoded to ``mode``.

    None if they need none: without a profile, with one that says the same as sRGB, or with a damaged one.
    """
    space = {"CMYK": "CMYK", "L": "L", "LA": "L", "1": "L"}.get(mode, "L" if mode.startswith("I") else "RGB")
    if profile is None:
        return None
    try:
        of_image = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if of_image.profile.xcolor_space != _SPACES[space]:
            return None
        transform = ImageCms.buildTransform(of_image, ImageCms.createProfile("sRGB"), space, "RGB")
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return None

    def convert(image: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(image, transform)
        assert converted is not None  # it is not done in place
        return converted

    if space == "CMYK":
        return convert
    probe = _probe(space)
    change = np.asarray(convert(probe)).astype(int) - np.asarray(probe.convert("RGB"))
    return convert if np.abs(change).max() > _ROUNDING else None


def _probe(space: str) -> Image.Image:
    """Return an image of every gray, or of 9 x 9 x 9 colors."""
    if space == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(9, 81, 3))


def _visible(values: NDArray[Any], transparent: int | tuple[int, int, int]) -> Image.Image:
    """Return alpha: 0 where a value or color is the transparent one, else 255."""
    if values.dtype == bool:
        values = values * np.uint8(255)
    same = values == np.asarray(transparent)
    hidden = same.all(-1) if isinstance(transparent, tuple) else same
    return Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8))


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Return a 16-bit gray image with 8 bits; Pillow would clip it at 255 (#2574)."""
    values = np.asarray(image).astype(np.uint32)
    return Image.fromarray(np.minimum((values + 128) // 257, 255).astype(np.uint8))
