"""The canvas of a request: what the networks see of it, and how an image is put together from what they return.

A canvas is as large as the finished image. The networks compute one or several boxes of it, each at a shape that the model
was converted for; a box of another size is scaled to that shape, and what is computed is scaled back and put in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from server.pipeline.boxes.box import Box, Shape, around
from server.pipeline.canvas.layout import boxes_of, image_box, shape_of
from server.pipeline.canvas.masks import blended, blurred, bounds, feathered, filled, inverted
from server.pipeline.decoding.file import ImageError
from server.pipeline.images import Gray, Pixels, fit_image, gray_of, resize_pixels
from server.pipeline.request import GenerationRequest


def attached(attachments: Mapping[str, bytes], name: str) -> bytes:
    """Return an attachment's bytes; raises ImageError if it is gone."""
    data = attachments.get(name)
    if data is None:
        raise ImageError(f"the file of {name} is missing from the data folder; send it again")
    return data


@dataclass(frozen=True)
class View:
    """What the networks see of a box, at the computed size.

    source: uint8 [H, W, 3]; None if the image starts from noise alone.
    mask: uint8 [H, W], 255 where the box is painted; None if all of it is.
    """

    source: Pixels | None
    mask: Gray | None


@dataclass(frozen=True)
class Canvas:
    """The canvas of all images of a request.

    pixels: what is there before anything is painted, uint8 [H, W, 3].
    boxes: what the networks compute, at ``shape`` each.
    starts_from_pixels: whether the networks see the pixels; otherwise an image starts from noise alone.
    mask: where an image is painted, uint8 [H, W]; None: everywhere, or where it is ``new``.
    new: where an extended image has nothing yet, bool [H, W]; None if it is not extended.
    feather: pixels around what is new that are painted, too, less and less.
    fills: whether what is painted is replaced by its blurred surroundings first.
    keeps: whether what is not painted stays as it is; otherwise it is what the networks make of it.
    """

    pixels: Pixels
    boxes: tuple[Box, ...]
    shape: Shape
    starts_from_pixels: bool = False
    mask: Gray | None = None
    new: NDArray[np.bool_] | None = None
    feather: int = 0
    fills: bool = False
    keeps: bool = True

    def painting(self) -> Painting:
        """Return a new image, of which nothing is painted."""
        return Painting(self)


class Painting:
    """One image of a canvas while its boxes are painted. ``pixels`` is what is there so far, uint8 [H, W, 3]."""

    def __init__(self, canvas: Canvas) -> None:
        self._canvas, self.pixels = canvas, canvas.pixels.copy()
        self._new = None if canvas.new is None else canvas.new.copy()

    def _mask(self) -> Gray | None:
        if self._new is not None:
            return feathered(self._new, self._canvas.feather)
        return self._canvas.mask

    def view(self, box: Box) -> View:
        """Return what the networks see of a box."""
        canvas, mask = self._canvas, self._mask()
        if not canvas.starts_from_pixels:
            return View(None, None)
        source = taken(self.pixels, box, canvas.shape, Image.Resampling.LANCZOS)
        if mask is None:
            return View(source, None)
        mask = taken(mask, box, canvas.shape, Image.Resampling.BILINEAR)
        return View(filled(source, mask) if canvas.fills else source, mask)

    def paint(self, box: Box, computed: Pixels) -> None:
        """Put what the networks computed of a box, uint8 [H, W, 3] of the canvas's shape, in its place."""
        mask = self._mask() if self._canvas.keeps else None
        height, width, _ = self.pixels.shape
        inner = box.within(width, height)
        scaled = computed
        if computed.shape[:2] != (box.height, box.width):
            scaled = resize_pixels(computed, box.width, box.height)
        painted = scaled[_slices(inner, box.left, box.top)]
        place = _slices(inner)
        self.pixels[place] = painted if mask is None else blended(self.pixels[place], painted, mask[place])
        if self._new is not None:
            self._new[place] = False


def _slices(box: Box, left: int = 0, top: int = 0) -> tuple[slice, slice]:
    return slice(box.top - top, box.bottom - top), slice(box.left - left, box.right - left)


def taken(values: Gray, box: Box, shape: Shape, resampling: Image.Resampling) -> Gray:
    """Return a box of an image or mask, scaled to a shape. Beyond its edges, the image goes on as in a mirror."""
    inner = box.within(values.shape[1], values.shape[0])
    part = values[_slices(inner)]
    beyond = [(inner.top - box.top, box.bottom - inner.bottom), (inner.left - box.left, box.right - inner.right)]
    if any(map(any, beyond)):
        part = np.pad(part, [*beyond, (0, 0)][: part.ndim], mode="symmetric")
    if (box.width, box.height) == shape:
        return part
    return np.asarray(Image.fromarray(part).resize(shape, resampling))


def canvas_of(request: GenerationRequest, attachments: Mapping[str, bytes]) -> Canvas:
    """Return the canvas of a request. Raises ImageError if an attachment cannot be used."""
    width, height, boxes, shape = request.size.width, request.size.height, boxes_of(request), shape_of(request)
    if request.source is None:
        return Canvas(np.zeros((height, width, 3), np.uint8), tuple(boxes), shape)
    place = image_box(request)
    image = fit_image(attached(attachments, request.source.image), place.width, place.height)
    canvas = Canvas(image, tuple(boxes), shape, starts_from_pixels=True)
    if request.outpaint is not None:
        return _extended(canvas, place, width, height, request.outpaint.feather)
    return canvas if request.mask is None else _masked(canvas, request, attachments)


def _extended(canvas: Canvas, place: Box, width: int, height: int, feather: int) -> Canvas:
    """Return a canvas around an image, whose edges go on until something is painted there."""
    new = np.ones((height, width), bool)
    new[_slices(place)] = False
    sides = ((place.top, height - place.bottom), (place.left, width - place.right), (0, 0))
    pixels = np.pad(canvas.pixels, sides, mode="edge")
    return replace(canvas, pixels=pixels, new=new, feather=feather, fills=True)


def _masked(canvas: Canvas, request: GenerationRequest, attachments: Mapping[str, bytes]) -> Canvas:
    """Return the canvas of an image with a mask."""
    settings = request.mask
    assert settings is not None  # see canvas_of
    mask = gray_of(attached(attachments, settings.mask))
    mask = blurred(inverted(mask) if settings.invert_mask else mask, settings.mask_blur)
    part, (height, width) = bounds(mask), mask.shape
    if settings.only_masked and part is not None:
        canvas = replace(canvas, boxes=(around(part, settings.mask_padding, canvas.shape, width, height),))
    return replace(canvas, mask=mask, fills=settings.mask_fill == "fill", keeps=settings.keep_unmasked)
