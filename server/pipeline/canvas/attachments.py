"""What is kept of a request's uploads: as many of their pixels as its images need, and what a client should know of them."""

from __future__ import annotations

from dataclasses import dataclass

from server.pipeline.boxes.box import Shape
from server.pipeline.canvas.layout import image_box
from server.pipeline.decoding.file import ImageError, ImageFile
from server.pipeline.fields import place_of
from server.pipeline.images import as_attachment, fit_mask, plain_png, read_image
from server.pipeline.request import FIELDS, GenerationRequest, JobRequest


@dataclass(frozen=True)
class Kept:
    """What is kept of an upload, and notes about it."""

    data: bytes
    notes: tuple[str, ...] = ()


def kept(request: JobRequest, name: str, file: ImageFile, data: bytes, image_size: Shape | None) -> Kept:
    """Return what is kept of the upload of this name; ``image_size`` is the upright source image's width and height.

    A source image is kept at the size at which it lies in the finished one, so that what is not painted can stay as it is;
    a mask is kept as gray values of the same pixels. Raises ImageError if it is damaged or cannot be used.
    """
    part = _kept(request, name, file, data, image_size)
    return Kept(part.data, (*frame_notes(name, file), *part.notes))


def frame_notes(name: str, file: ImageFile) -> tuple[str, ...]:
    """Return a note on an attachment of this name if it has frames that are not used."""
    return (f"{place_of(FIELDS, name)} is animated: its first frame is used",) if file.animated else ()


def _kept(request: JobRequest, name: str, file: ImageFile, data: bytes, image_size: Shape | None) -> Kept:
    if not isinstance(request, GenerationRequest):
        return Kept(as_attachment(file, data, request.attached.width, request.attached.height))
    if request.mask is not None and name == request.mask.mask and image_size is not None:
        return _kept_mask(request, file, image_size)
    size = image_box(request) if request.source is not None and name == request.source.image else request.attached
    return Kept(as_attachment(file, data, size.width, size.height))


def _kept_mask(request: GenerationRequest, file: ImageFile, image_size: Shape) -> Kept:
    settings, notes = request.mask, []
    assert settings is not None  # see kept
    mask = fit_mask(file, image_size, request.size.width, request.size.height)
    low, high = int(mask.min()), int(mask.max())
    painted, untouched = ("black", "white") if settings.invert_mask else ("white", "black")
    if low == high == (255 if settings.invert_mask else 0):
        raise ImageError(f"it is {untouched} all over, so that nothing is painted", f"a mask with some {painted}")
    if low == high == (0 if settings.invert_mask else 255):
        notes.append("the mask covers everything: the whole image is painted again")
    if file.upright != image_size:
        (width, height), (of_width, of_height) = file.upright, image_size
        notes.append(f"the mask is {width}x{height} and was scaled to the image's {of_width}x{of_height}")
    return Kept(plain_png(mask), tuple(notes))


def mask_from_alpha(data: bytes) -> bytes:
    """Return a mask, as a PNG, that repaints where an image is transparent: what a mask means in OpenAI's API.

    Takes as much memory as `fit_mask`. Raises ImageError if it is damaged or has no transparent part.
    """
    file = read_image(data)
    mask = fit_mask(file, file.upright, *file.upright, transparent=True)
    if not mask.any():
        raise ImageError("it has no transparent part, so that nothing is painted", "a mask that is transparent there")
    return plain_png(mask)
