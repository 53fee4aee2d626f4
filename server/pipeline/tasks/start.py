"""The latents that an image starts from, and what its steps keep of a source image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converter.manifest import Manifest
from server.pipeline.autoencoder import EncodedImage
from server.pipeline.canvas.canvas import View
from server.pipeline.canvas.masks import latent_mask, repaints, sampled_latent_mask
from server.pipeline.denoising.denoiser import AfterStep
from server.pipeline.denoising.rows import Float16
from server.pipeline.images import to_network
from server.pipeline.noise import ImageNoise
from server.pipeline.request import GenerationRequest
from server.pipeline.schedulers import Scheduler
from server.pipeline.schedulers.schedule import Latents

#: What an extended image's new part starts from, below strength 1.
FILL = "fill"


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


def start_of(
    request: GenerationRequest, view: View, manifest: Manifest, encode: Callable[[Float16], EncodedImage]
) -> Start:
    """Return what the images of a request start from in a box of the canvas.

    ``encode`` returns the latents of an image of the computed size, fp16 [1, 3, H, W] in [-1, 1].
    """
    source = None if view.source is None else encode(to_network(view.source))
    masked = None
    if view.mask is not None:
        fill = FILL if request.mask is None else request.mask.mask_fill
        masked = Masked(latent_mask(view.mask, manifest.vae_scale_factor), fill)
    inpainting = _inpainting(request, view, manifest, encode) if manifest.conditions.inpainting else None
    return Start(source, request.skipped_steps, masked, inpainting)


def _inpainting(
    request: GenerationRequest, view: View, manifest: Manifest, encode: Callable[[Float16], EncodedImage]
) -> InpaintingInputs:
    """Return an inpainting model's view of the image; without a mask, everything is to be painted."""
    size, factor = request.computed, manifest.vae_scale_factor
    if view.source is None or view.mask is None:
        blank = np.zeros((1, 3, size.height, size.width), np.float16)
        mask = np.ones((1, 1, size.height // factor, size.width // factor), np.float32)
        return InpaintingInputs(mask, encode(blank), drawn=False)
    # The masked part is 0 in the networks' range, which is gray.
    known = to_network(view.source) * ~repaints(view.mask)
    return InpaintingInputs(sampled_latent_mask(view.mask, factor), encode(known), drawn=True)
