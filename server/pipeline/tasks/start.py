"""The latents that an image starts from: noise alone, or a source image with the noise of a later step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.pipeline.noise import ImageNoise
from server.pipeline.schedulers import Scheduler
from server.pipeline.schedulers.schedule import Latents


@dataclass(frozen=True)
class EncodedImage:
    """The distribution of latents that the encoder returns for an image, [1, C, h, w] each (Kingma and Welling 2014).

    scaling_factor: what the latents are multiplied by for the UNet.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    scaling_factor: float

    @staticmethod
    def of(latent: NDArray[np.float32], scaling_factor: float) -> EncodedImage:
        """Return the distribution from the encoder's output, means and then log variances, [1, 2 C, h, w]."""
        mean, log_variance = np.split(latent, 2, 1)
        return EncodedImage(mean, np.exp(0.5 * np.clip(log_variance, -30, 20)), scaling_factor)

    def draw(self, noise: NDArray[np.float32]) -> Latents:
        """Return scaled latents, ``noise`` standard deviations from the mean."""
        return np.asarray((self.mean + self.std * noise) * np.float32(self.scaling_factor), np.float32)


@dataclass(frozen=True)
class Start:
    """What every image of a request starts from.

    source: None for noise alone.
    skipped_steps: the number of first steps that are left out, since the source stands for their result.
    """

    source: EncodedImage | None
    skipped_steps: int

    def first_call(self, scheduler: Scheduler) -> int:
        """Return the index of the first call."""
        return self.skipped_steps * scheduler.order

    def latents(self, scheduler: Scheduler, noise: ImageNoise) -> Latents:
        """Return the latents before the first call, [1, C, h, w]."""
        if self.source is None:
            return noise.start() * np.float32(scheduler.init_noise_sigma)
        latents = self.source.draw(noise.encoding())
        return scheduler.add_noise(latents, noise.start(), self.first_call(scheduler))
