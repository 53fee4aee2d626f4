"""The tasks txt2img and img2img, which differ in the latents that an image starts from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.pipeline.denoiser import Denoiser, Step
from server.pipeline.noise import ImageNoise
from server.pipeline.schedulers import Scheduler
from server.pipeline.schedulers.schedule import Latents


@dataclass(frozen=True)
class EncodedImage:
    """The distribution of latents that the encoder returns for an image, [1, C, h, w] each (Kingma and Welling 2014)."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def draw(self, noise: NDArray[np.float32], scaling_factor: float) -> Latents:
        """Return scaled latents, ``noise`` standard deviations from the mean."""
        return np.asarray((self.mean + self.std * noise) * np.float32(scaling_factor), np.float32)


def txt2img(denoiser: Denoiser, scheduler: Scheduler, noise: ImageNoise) -> Iterator[Step]:
    """Yield the steps of an image that starts from noise."""
    yield from denoiser.steps(scheduler, noise.start() * np.float32(scheduler.init_noise_sigma), 0, noise.step)


def img2img(
    denoiser: Denoiser,
    scheduler: Scheduler,
    noise: ImageNoise,
    source: EncodedImage,
    scaling_factor: float,
    first_call: int,
) -> Iterator[Step]:
    """Yield the steps from call ``first_call`` on, of an image that starts from a source image with that call's noise."""
    latents = source.draw(noise.encoding(), scaling_factor)
    yield from denoiser.steps(
        scheduler, scheduler.add_noise(latents, noise.start(), first_call), first_call, noise.step
    )
