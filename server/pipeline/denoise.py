"""The denoising loop: a generator that yields after each call of the UNet, so its caller has progress and cancel."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converter.errors import AnemoneError
from converter.runtime import Network
from server.pipeline.conditioning import Conditioning
from server.pipeline.images import Pixels
from server.pipeline.request import PictureSeeds
from server.pipeline.schedulers import NoiseSchedule, Sampler
from server.pipeline.schedulers.schedule import Latents, Noise


class NotFinite(AnemoneError):
    """A network gave infinities or no numbers."""


@dataclass(frozen=True)
class Step:
    """One call of the UNet is done: ``index`` of ``total`` (from 1), and the latents it left, fp32 [1, C, h, w].

    clean: the latents without noise that the UNet's prediction means, [1, C, h, w].
    seconds: how long the step took.
    image: which picture of the request it is a step of, from 0.
    """

    index: int
    total: int
    latents: Latents
    clean: Latents
    seconds: float
    image: int = 0


@dataclass(frozen=True)
class Picture:
    """A finished picture: its number in the request, its seeds and pixels, uint8 [H, W, 3]."""

    index: int
    seeds: PictureSeeds
    pixels: Pixels


def _predicted(
    unet: Network, given: NDArray[np.float16], timestep: float, conditioning: Conditioning
) -> NDArray[np.float32]:
    """What the UNet predicts for each row that is wanted."""
    batch = unet.inputs["sample"].shape[0]
    sample, times = np.repeat(given, batch, 0), np.full(batch, timestep, np.float16)
    calls = conditioning.rows(batch)
    if "time_ids" in unet.inputs:
        # Apple's packages of 2023 take both rows' numbers as one row of twelve.
        shape = unet.inputs["time_ids"].shape
        calls = [call | {"time_ids": call["time_ids"].reshape(shape)} for call in calls]
    return np.concatenate([unet.predict({"sample": sample, "timestep": times} | call)["noise_pred"] for call in calls])


def _guided(rows: NDArray[np.float32], conditioning: Conditioning, guidance_scale: float) -> NDArray[np.float32]:
    if not conditioning.guided:
        return np.asarray(rows[-1:], np.float32)
    negative, positive = np.split(rows, 2)
    return np.asarray(negative + np.float32(guidance_scale) * (positive - negative), np.float32)


def denoise(
    unet: Network,
    schedule: NoiseSchedule,
    sampler: Sampler,
    latents: Latents,
    beside: NDArray[np.float16],
    conditioning: Conditioning,
    guidance_scale: float,
    begin: int,
    noise: Noise,
) -> Iterator[Step]:
    """From ``latents`` (as noisy as before call ``begin``) to clean ones, yielding every step.

    ``beside`` [1, N, h, w] are the channels that follow the noisy ones (an inpainting model's; N is 0 for others).
    Guidance is classifier-free (Ho and Salimans 2022). Raises NotFinite.
    """
    total = len(sampler.timesteps) - begin
    for index in range(begin, len(sampler.timesteps)):
        began = time.perf_counter()
        noisy = sampler.scale_model_input(latents, index).astype(np.float16)
        given = np.concatenate([noisy, beside], 1)
        rows = _predicted(unet, given, float(sampler.timesteps[index]), conditioning)
        if not np.isfinite(rows).all():
            raise NotFinite(
                f"the UNet's output is not finite at step {index - begin + 1} of {total}: its numbers overflowed"
            )
        predicted = _guided(rows, conditioning, guidance_scale)
        clean = schedule.clean_at(float(sampler.timesteps[index]), predicted, noisy.astype(np.float32))
        latents = np.asarray(sampler.step(predicted, index, latents, noise), np.float32)
        yield Step(index - begin + 1, total, latents, clean, time.perf_counter() - began)
