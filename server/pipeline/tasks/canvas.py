"""The canvas of a request: which pixels the networks start from, and how an image is made of what they return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from server.pipeline.decoding.file import ImageError
from server.pipeline.images import Pixels, fit_image, resize_pixels
from server.pipeline.request import GenerationRequest, Size


def attached(attachments: Mapping[str, bytes], name: str) -> bytes:
    """Return an attachment's bytes; raises ImageError if it is gone."""
    data = attachments.get(name)
    if data is None:
        raise ImageError(f"the file of {name} is missing from the data folder; send it again")
    return data


@dataclass(frozen=True)
class Canvas:
    """The canvas of a request.

    source: the source image at the computed size, uint8 [H, W, 3]; None if an image starts from noise alone.
    size: that of the finished images.
    """

    source: Pixels | None
    size: Size

    def finish(self, pixels: Pixels) -> Pixels:
        """Return the finished image of a decoded one."""
        height, width, _ = pixels.shape
        if (width, height) == (self.size.width, self.size.height):
            return pixels
        return resize_pixels(pixels, self.size.width, self.size.height)


def canvas_of(request: GenerationRequest, attachments: Mapping[str, bytes]) -> Canvas:
    """Return the canvas of a request. Raises ImageError if an attachment cannot be used."""
    source, computed = None, request.computed
    if request.source is not None:
        source = fit_image(attached(attachments, request.source.image), computed.width, computed.height)
    return Canvas(source, request.size)
