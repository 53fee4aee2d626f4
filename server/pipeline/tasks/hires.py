"""Hires fix: a second pass makes the image of the first one larger, and draws the details that the size has room for.

If the model was not converted for the larger size, the second pass works on windows of a size that it was converted for,
blended in every step (MultiDiffusion, Bar-Tal et al. 2023), and so do encoder and decoder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from server.pipeline.autoencoder import Autoencoder, EncodedImage
from server.pipeline.boxes.windows import Place, Windows
from server.pipeline.denoising.denoiser import Moment, Predicting, Predictor, Step, denoise
from server.pipeline.images import Pixels, to_network
from server.pipeline.networks import Call
from server.pipeline.noise import ImageNoise
from server.pipeline.request import Extent
from server.pipeline.schedulers import NoiseSchedule, Scheduler
from server.pipeline.schedulers.schedule import Latents
from server.pipeline.tasks.start import Start
from server.pipeline.tasks.upscale import OpenUpscaler, upscaler_of
from server.pipeline.upscaling.enlarge import enlarged
from server.pipeline.upscaling.names import LATENT


@dataclass(frozen=True)
class WindowedPredictor:
    """A network that predicts for windows of latents, blended.

    windows: of the latents.
    """

    windows: Windows
    predictor: Predictor

    def predict(self, noisy: NDArray[np.float16], moment: Moment) -> Predicting:
        """Return the prediction; each window is a call."""
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
class WindowedAutoencoder:
    """Encodes and decodes images of any size at least ``window``, a converted one: in windows if the image is larger."""

    coder: Autoencoder
    window: Extent

    def _windows(self, shape: tuple[int, ...], pixels: int) -> Windows:
        height, width = shape
        return Windows((height, width), (self.window.height // pixels, self.window.width // pixels))

    def decoded(self, latents: Latents) -> Generator[Call, None, Pixels]:
        """Yield the decoder's calls; return the image of latents, uint8 [H, W, 3]."""

        def decode(place: Place) -> Predicting:
            began = time.perf_counter()
            pixels = self.coder.decode(latents[:, :, place[0], place[1]], self.window)
            yield Call(time.perf_counter() - began)
            return pixels.transpose(2, 0, 1)[None].astype(np.float32)

        windows = self._windows(latents.shape[2:], self.coder.factor)
        if len(windows.places) == 1:
            return self.coder.decode(latents, self.window)
        blended = yield from windows.blend(decode, self.coder.factor)
        return np.ascontiguousarray(np.rint(blended[0].transpose(1, 2, 0)).astype(np.uint8))

    def encoded(self, pixels: Pixels) -> Generator[Call, None, Latents]:
        """Yield the encoder's calls; return the latents of an image, without noise."""

        def encode(place: Place) -> Predicting:
            began = time.perf_counter()
            latents = self.coder.encode(to_network(np.ascontiguousarray(pixels[place]))).middle
            yield Call(time.perf_counter() - began)
            return latents

        return self._windows(pixels.shape[:2], 1).blend(encode, 1 / self.coder.factor)


@dataclass(frozen=True)
class SecondPass:
    """The second pass for all images of a request.

    upscaler: the name of what enlarges the first pass's images or latents.
    target: the size that is computed.
    predictor: of latents of that size.
    first, second: the autoencoders of the first pass's size and of the target's.
    make_scheduler: makes the scheduler of one image, of whose first steps ``skipped_steps`` are left out.
    """

    upscaler: str
    target: Extent
    predictor: Predictor
    first: WindowedAutoencoder
    second: WindowedAutoencoder
    schedule: NoiseSchedule
    make_scheduler: Callable[[], Scheduler]
    skipped_steps: int
    open_upscaler: OpenUpscaler

    def _source(self, latents: Latents) -> Generator[Call, None, Latents]:
        """Yield the calls of networks; return the latents [1, C, h, w] that noise is added to."""
        width, height = self.target.width, self.target.height
        if self.upscaler == LATENT:
            return enlarged_latents(latents, *(side // self.first.coder.factor for side in (height, width)))
        upscaler = upscaler_of(self.upscaler, self.open_upscaler)
        pixels = yield from self.first.decoded(latents)
        for event in enlarged(pixels, width, height, upscaler):
            if isinstance(event, Call):
                yield event
            else:
                pixels = event
        return (yield from self.second.encoded(pixels))

    def events(self, latents: Latents, noise: ImageNoise) -> Iterator[Step | Call]:
        """Yield the calls and steps for an image whose first pass ended with these latents.

        ``noise`` is that of an image of the target's size.
        """
        source = yield from self._source(latents)
        scheduler, start = self.make_scheduler(), Start(EncodedImage.exact(source), self.skipped_steps)
        begun = start.begin(scheduler, noise)
        yield from denoise(
            self.predictor, self.schedule, scheduler, begun.latents, start.first_call(scheduler), noise.step
        )
