"""Hires fix: a second pass makes the image of the first one larger, and draws the details that the size has room for.

If the model was not converted for the larger size, the second pass works on windows of a size that it was converted for,
blended in every step (MultiDiffusion, Bar-Tal et al. 2023), and so do encoder and decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from server.pipeline.boxes.windows import Place, Windows
from server.pipeline.denoising.denoiser import Moment, Predictor
from server.pipeline.images import Pixels
from server.pipeline.request import GenerationRequest, Size
from server.pipeline.schedulers.schedule import Latents
from server.pipeline.tasks.upscale import OpenUpscaler, upscaler_of
from server.pipeline.upscaling.enlarge import enlarged
from server.pipeline.upscaling.names import LATENT
from server.pipeline.upscaling.tiles import Tile


def window_for(target: Size, sizes: Sequence[tuple[int, int]], first: Size) -> Size:
    """Return the converted size that the networks compute an image of ``target`` with: that, or the first pass's for windows."""
    return target if (target.width, target.height) in sizes else first


@dataclass(frozen=True)
class WindowedPredictor:
    """A network that predicts for windows of latents, blended.

    windows: of the latents.
    """

    windows: Windows
    predictor: Predictor

    def predict(self, noisy: NDArray[np.float16], moment: Moment) -> NDArray[np.float32]:
        """Return the prediction, fp32 [1, C, h, w]."""
        return self.windows.blend(
            lambda place: self.predictor.predict(np.ascontiguousarray(noisy[:, :, place[0], place[1]]), moment)
        )


def enlarged_latents(latents: Latents, height: int, width: int) -> Latents:
    """Return latents [1, C, h, w] larger, interpolated linearly as A1111's upscaler "Latent" does."""
    resized = [
        np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)) for plane in latents[0]
    ]
    return np.stack(resized)[None]


@dataclass(frozen=True)
class Autoencoder:
    """Encodes and decodes images of a size, in windows if the model has no networks for it.

    decode: latents of a converted size -> the image; encode: the image -> latents without noise, fp32 [1, C, h, w].
    factor: pixels per latent, along one side.
    """

    decode: Callable[[Latents], Pixels]
    encode: Callable[[Pixels], Latents]
    factor: int
    window: Size

    def _windows(self, shape: tuple[int, ...], pixels: int) -> Windows:
        height, width = shape
        return Windows((height, width), (self.window.height // pixels, self.window.width // pixels))

    def decoded(self, latents: Latents) -> Pixels:
        """Return the image of latents, uint8 [H, W, 3]."""

        def decode(place: Place) -> NDArray[np.float32]:
            return self.decode(latents[:, :, place[0], place[1]]).transpose(2, 0, 1)[None].astype(np.float32)

        windows = self._windows(latents.shape[2:], self.factor)
        if len(windows.places) == 1:
            return self.decode(latents)
        blended = windows.blend(decode, self.factor)
        return np.ascontiguousarray(np.rint(blended[0].transpose(1, 2, 0)).astype(np.uint8))

    def encoded(self, pixels: Pixels) -> Latents:
        """Return the latents of an image."""
        windows = self._windows(pixels.shape[:2], 1)
        return windows.blend(lambda place: self.encode(np.ascontiguousarray(pixels[place])), 1 / self.factor)


def second_start(
    request: GenerationRequest,
    latents: Latents,
    target: Size,
    first: Autoencoder,
    second: Autoencoder,
    open_upscaler: OpenUpscaler,
) -> Generator[Tile, None, Latents]:
    """Yield the upscaler's tiles; return the latents [1, C, h, w] that the second pass adds noise to.

    ``latents`` are the first pass's, ``first`` and ``second`` the autoencoders of its size and of the target's.
    """
    assert request.hires is not None
    if request.hires.hires_upscaler == LATENT:
        return enlarged_latents(latents, target.height // first.factor, target.width // first.factor)
    upscaler = upscaler_of(request.hires.hires_upscaler, open_upscaler)
    pixels = first.decoded(latents)
    for event in enlarged(pixels, target.width, target.height, upscaler):
        if isinstance(event, Tile):
            yield event
        else:
            pixels = event
    return second.encoded(pixels)
