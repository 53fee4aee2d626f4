"""The latents that an image starts from, and what its steps keep of a source image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.pipeline.denoising.denoiser import AfterStep
from server.pipeline.noise import ImageNoise
from server.pipeline.schedulers import Scheduler
from server.pipeline.schedulers.schedule import Latents

Float16 = NDArray[np.float16]


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

    @staticmethod
    def exact(latents: Latents) -> EncodedImage:
        """Return scaled latents as a distribution that has no others."""
        return EncodedImage(latents, np.zeros_like(latents), 1.0)

    @property
    def middle(self) -> Latents:
        """The scaled latents at the mean."""
        return self.draw(np.zeros_like(self.mean))

    def draw(self, noise: NDArray[np.float32]) -> Latents:
        """Return scaled latents, ``noise`` standard deviations from the mean."""
        return np.asarray((self.mean + self.std * noise) * np.float32(self.scaling_factor), np.float32)


@dataclass(frozen=True)
class Masked:
    """What a mask says of latents.

    share: of the steps in which each latent is painted, 0 to 1 [1, 1, h, w] (see `server.pipeline.canvas.masks.latent_mask`).
    fill: one of FILLS; only noise and nothing concern latents.
    """

    share: NDArray[np.float32]
    fill: str

    def filled(self, source: Latents, noise: Latents) -> Latents:
        """Return the source's latents, with noise or nothing where it is painted if that is the fill (as in A1111)."""
        if self.fill == "noise":
            return source + (noise - source) * self.share
        return source * (1 - self.share) if self.fill == "nothing" else source


@dataclass(frozen=True)
class InpaintingInputs:
    """What the UNet of an inpainting model sees besides the noisy latents: a mask, and the image without the masked part.

    mask: 1 where it paints [1, 1, h, w].
    drawn: whether the image's latents are drawn from their distribution; otherwise they are its mean.
    """

    mask: NDArray[np.float32]
    image: EncodedImage
    drawn: bool

    def channels(self, noise: ImageNoise) -> Float16:
        """Return the channels that follow those of the noisy latents, [1, 1 + C, h, w]."""
        latents = self.image.draw(noise.masked() if self.drawn else np.zeros_like(self.image.mean))
        return np.asarray(np.concatenate([self.mask, latents], 1), np.float16)


@dataclass(frozen=True)
class Beginning:
    """The beginning of one image: its latents before the first call, [1, C, h, w], and what happens after each call.

    extra_channels: those that the UNet takes after the noisy latents', [1, N, h, w]; None for none.
    """

    latents: Latents
    after_step: AfterStep
    extra_channels: Float16 | None


@dataclass(frozen=True)
class Kept:
    """The part of an image that its steps leave alone: after each call it is the source's with the noise of the next call.

    That is diffusers' StableDiffusionInpaintPipeline for UNets of 4 channels. A latent that is painted partly is kept until
    its share of the steps is left (Levin and Fried 2023, "Differential Diffusion").
    """

    source: Latents
    noise: Latents
    share: NDArray[np.float32]
    scheduler: Scheduler
    first_call: int

    def restore(self, latents: Latents, call: int) -> Latents:
        """Return the latents after a call, with what is kept put back."""
        calls, after = len(self.scheduler.timesteps), call + 1
        known = self.source if after == calls else self.scheduler.add_noise(self.source, self.noise, after)
        left = max(calls - after, 1) / (calls - self.first_call)
        return np.asarray(np.where(self.share < left, known, latents), np.float32)


def _unchanged(latents: Latents, call: int) -> Latents:
    return latents


@dataclass(frozen=True)
class Start:
    """What every image of a request starts from.

    source: None for noise alone.
    skipped_steps: the number of first steps that are left out, since the source stands for their result.
    masked: None if all of the image is painted.
    inpainting: what an inpainting model's UNet sees of the image; None for other models. Such a UNet keeps by itself what is
        not painted.
    """

    source: EncodedImage | None
    skipped_steps: int
    masked: Masked | None = None
    inpainting: InpaintingInputs | None = None

    def first_call(self, scheduler: Scheduler) -> int:
        """Return the index of the first call."""
        return self.skipped_steps * scheduler.order

    def begin(self, scheduler: Scheduler, noise: ImageNoise) -> Beginning:
        """Draw an image's noise, in diffusers' order, and return its beginning."""
        latents, after_step = self._latents(scheduler, noise)
        if self.inpainting is None:
            return Beginning(latents, after_step, None)
        return Beginning(latents, _unchanged, self.inpainting.channels(noise))

    def _latents(self, scheduler: Scheduler, noise: ImageNoise) -> tuple[Latents, AfterStep]:
        """Return the latents before the first call, and what keeps the rest of a masked image after each.

        With a mask and all steps (strength 1) an image starts from noise alone, as in diffusers.
        """
        first, scale = self.first_call(scheduler), np.float32(scheduler.init_noise_sigma)
        from_noise = self.masked is not None and self.skipped_steps == 0
        if self.source is None or (from_noise and self.inpainting is not None):
            return noise.start() * scale, _unchanged
        source, start = self.source.draw(noise.encoding()), noise.start()
        if self.masked is None:
            return scheduler.add_noise(source, start, first), _unchanged
        if self.inpainting is None:
            # diffusers encodes the masked image for every UNet, and the noise of ancestral steps follows.
            noise.masked()
        kept = Kept(source, start, self.masked.share, scheduler, first)
        if from_noise:
            return start * scale, kept.restore
        return scheduler.add_noise(self.masked.filled(source, start), start, first), kept.restore
