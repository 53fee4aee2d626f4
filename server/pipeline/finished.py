"""Encodes finished images, as they are stored, with what made them."""

from __future__ import annotations

from converter.manifest import Manifest
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.encoding.encode import encode_png
from server.pipeline.encoding.xmp import source_type
from server.pipeline.images import Pixels
from server.pipeline.infotext import write_infotext, write_upscale_infotext
from server.pipeline.request import GenerationRequest, UpscaleRequest


def finished_png(image: GeneratedImage, request: GenerationRequest, manifest: Manifest, *, mark: bool) -> bytes:
    """Return the PNG of a request's image with its parameters; with ``mark`` it says that a model made it."""
    kind = source_type(has_source=request.source is not None) if mark else None
    return encode_png(image.pixels, write_infotext(request, manifest, image.seeds), kind)


def upscaled_png(pixels: Pixels, request: UpscaleRequest, *, mark: bool) -> bytes:
    """Return the PNG of an enlarged image; with ``mark`` it says that a network took part, if one did."""
    kind = source_type(has_source=True) if mark and request.tile else None
    return encode_png(pixels, write_upscale_infotext(request), kind)
