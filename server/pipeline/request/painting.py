"""What a mask or an extension means for a request's other fields: their defaults, and what contradicts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.pipeline.boxes.box import Shape
from server.pipeline.request.edits import ORIGINAL, PAINTING_STRENGTH, Mask, Outpaint
from server.pipeline.request.errors import RequestError
from server.pipeline.request.request import GenerationRequest
from server.pipeline.request.sampling import SIDE


def painting_defaults(sent: Mapping[str, Any], image_size: Shape | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the defaults of a request whose source image is painted in part, and notes about them.

    Other requests get no defaults and no notes. Raises RequestError if an extended image has a size that is not accepted.
    """
    if "image" not in sent or not (Mask.is_asked(sent) or Outpaint.is_asked(sent)):
        return {}, ()
    own: dict[str, Any] = {"strength": PAINTING_STRENGTH}
    notes: tuple[str, ...] = ()
    if sent.get("mask_fill", ORIGINAL) != ORIGINAL and sent.get("strength", PAINTING_STRENGTH) == 1:
        notes = ("mask_fill has no effect at strength 1: what is painted starts from noise alone",)
    if image_size is None:
        return own, notes
    if Outpaint.is_asked(sent):
        return own | _extended_size(sent, image_size), notes
    fitting = _within_limits(*image_size)
    own |= {"width": fitting[0], "height": fitting[1]}
    if fitting == image_size or "width" in sent or "height" in sent:
        return own, notes
    (width, height), (to_width, to_height) = image_size, fitting
    scaled = f"the image is {width}x{height} and was scaled to {to_width}x{to_height}: a side may have {SIDE} pixels"
    return own, (*notes, scaled)


def _within_limits(width: int, height: int) -> Shape:
    """Return a size of the same ratio, as nearly as the limits of its sides allow."""
    low, high = int(SIDE.low), int(SIDE.high)
    scale = min(high / max(width, height), max(1.0, low / min(width, height)))
    return max(low, round(width * scale)), max(low, round(height * scale))


def _extended_size(sent: Mapping[str, Any], image_size: Shape) -> dict[str, Any]:
    """Return the width and height of an image with what extends it."""
    size = {}
    for name, side, first, last in zip(
        ("width", "height"), image_size, ("extend_left", "extend_top"), ("extend_right", "extend_bottom"), strict=True
    ):
        if name in sent:
            raise RequestError(name, sent[name], "leave it out: the image's own, and the pixels that are added to it")
        size[name] = side + sent.get(first, 0) + sent.get(last, 0)
        if not SIDE.accepts(size[name]):
            field = first if sent.get(first) else last
            accepted = f"so many that the {name} is {SIDE}; it would be {size[name]}"
            raise RequestError(field, sent.get(field, 0), accepted)
    return size


def check_painting(request: GenerationRequest) -> None:
    """Raise RequestError for a mask or an extension without an image, for both together, and for a padding of nothing."""
    mask, extension = request.mask, request.outpaint
    if request.source is None and mask is not None:
        raise RequestError("mask", "without an image", "a mask together with the image that it is for")
    if extension is not None and (request.source is None or mask is not None):
        side, pixels = next((name, n) for name, n in extension if name.startswith("extend") and n)
        accepted = "pixels to add to an image; send image, too" if mask is None else "leave it out with a mask"
        raise RequestError(side, pixels, accepted)
    if mask is not None and not mask.only_masked and mask.mask_padding != Mask.model_fields["mask_padding"].default:
        raise RequestError("mask_padding", mask.mask_padding, "leave it out without only_masked")
