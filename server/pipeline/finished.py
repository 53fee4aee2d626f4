"""Encodes a finished image with what made it."""

from __future__ import annotations

from converter.folder import Manifest
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.encoding.encode import encode_png
from server.pipeline.encoding.xmp import source_type
from server.pipeline.infotext import write_infotext
from server.pipeline.request import GenerationRequest


def finished_png(image: GeneratedImage, request: GenerationRequest, manifest: Manifest, *, mark: bool) -> bytes:
    """Return the PNG of a request's image with its parameters; with ``mark`` it says that a model made it."""
    kind = source_type(has_source=request.source is not None) if mark else None
    return encode_png(image.pixels, write_infotext(request, manifest, image.seeds), kind)
