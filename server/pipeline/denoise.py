"""The denoising loop: a generator that yields after each call of the UNet, so its caller has progress and cancel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converter.errors import AnemoneError
from converter.runtime import Network
from server.pipeline.schedulers import Sampler
from server.pipeline.schedulers.schedule import Latents, Noise


class NotFinite(AnemoneError):
    """The UNet gave infinities or no numbers."""


@dataclass(frozen=True)
class Step:
    """One call of the UNet is done: ``index`` of ``total`` (from 1), and the latents it left, fp32 [1, 4, h, w]."""

    index: int
    total: int
    latents: Latents


def denoise(
    unet: Network,
    sampler: Sampler,
    latents: Latents,
    states: NDArray[np.float16],
    guidance_scale: float,
    begin: int,
    noise: Noise,
) -> Iterator[Step]:
    """From ``latents`` (as noisy as before call ``begin``) to clean ones, yielding every step.

    ``states`` are the prompts' [2, D, 1, T], the negative one first; guidance is classifier-free (Ho and Salimans
    2022), and with a scale of 1 or less the prompt alone decides, as in diffusers. Raises NotFinite.
    """
    total = len(sampler.timesteps) - begin
    for index in range(begin, len(sampler.timesteps)):
        given = sampler.scale_model_input(latents, index).astype(np.float16)
        timestep = np.full(2, sampler.timesteps[index], np.float16)
        inputs = {"sample": np.repeat(given, 2, 0), "timestep": timestep, "encoder_hidden_states": states}
        predicted = unet.predict(inputs)["noise_pred"]
        if not np.isfinite(predicted).all():
            raise NotFinite(
                f"the UNet's output is not finite at step {index - begin + 1} of {total}: its numbers overflowed"
            )
        negative, positive = np.split(predicted, 2)
        guided = positive if guidance_scale <= 1 else negative + np.float32(guidance_scale) * (positive - negative)
        latents = np.asarray(sampler.step(guided, index, latents, noise), np.float32)
        yield Step(index - begin + 1, total, latents)
