"""Where a request's image lies on its canvas, and which boxes of the canvas the networks compute, from its numbers alone."""

from __future__ import annotations

from server.pipeline.boxes.box import Box, Shape, covering
from server.pipeline.boxes.outpainting import outpainting_boxes
from server.pipeline.request import GenerationRequest


def shape_of(request: GenerationRequest) -> Shape:
    """Return the width and height that the networks compute."""
    return request.computed.width, request.computed.height


def image_box(request: GenerationRequest) -> Box:
    """Return where the source image lies on the canvas, which is as large as the finished image."""
    width, height, extension = request.size.width, request.size.height, request.outpaint
    if extension is None:
        return Box(0, 0, width, height)
    right, bottom = width - extension.extend_right, height - extension.extend_bottom
    return Box(extension.extend_left, extension.extend_top, right, bottom)


def boxes_of(request: GenerationRequest) -> list[Box]:
    """Return the boxes that are computed one after another; only_masked later moves its single one around the mask."""
    width, height, shape = request.size.width, request.size.height, shape_of(request)
    if request.outpaint is not None:
        return outpainting_boxes(width, height, image_box(request), shape)
    return [covering(width, height, shape)]
