"""Enlarges a request's image."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

import numpy as np

from converter.errors import AnemoneError
from server.pipeline.canvas.canvas import attached
from server.pipeline.cost import upscale_cost
from server.pipeline.images import Pixels, decode_image
from server.pipeline.networks import Call
from server.pipeline.request import UpscaleRequest
from server.pipeline.upscaling.enlarge import enlarged
from server.pipeline.upscaling.names import RESAMPLINGS, Resampling
from server.pipeline.upscaling.tiles import TileNetwork

#: Loads an installed upscaler by name; raises AnemoneError if it is gone or damaged.
OpenUpscaler = Callable[[str], TileNetwork]


def no_upscaler(name: str) -> TileNetwork:
    """Raise AnemoneError: there are no upscalers here."""
    raise AnemoneError(f"there is no upscaler {name[:80]!r}; accepted: {', '.join(RESAMPLINGS)}")


def upscaler_of(name: str, open_upscaler: OpenUpscaler) -> TileNetwork | Resampling:
    """Return the upscaler of this name: a loaded network, or the name itself of what needs none."""
    return next((known for known in RESAMPLINGS if known == name), None) or open_upscaler(name)


@dataclass(frozen=True)
class TileStep:
    """A tile is done: ``index`` of ``total`` (from 1); it took so many seconds."""

    index: int
    total: int
    seconds: float


def upscale(
    request: UpscaleRequest, attachments: Mapping[str, bytes], open_upscaler: OpenUpscaler
) -> Generator[TileStep | Pixels, None, None]:
    """Yield the tiles as they are done, and at last the enlarged image. Raises ImageError if the image cannot be used."""
    pixels = np.asarray(decode_image(attached(attachments, request.image)))
    upscaler = upscaler_of(request.upscaler, open_upscaler)
    total = upscale_cost(request, 1 if isinstance(upscaler, str) else upscaler.scale).calls
    for number, event in enumerate(enlarged(pixels, request.size.width, request.size.height, upscaler), 1):
        yield TileStep(number, total, event.seconds) if isinstance(event, Call) else event
