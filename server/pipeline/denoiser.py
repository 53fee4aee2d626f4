"""The denoising loop: a generator that yields after each call of the network, so its caller can report progress and cancel."""

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
from server.pipeline.request import ImageSeeds
from server.pipeline.schedulers import NoiseSchedule, Scheduler
from server.pipeline.schedulers.schedule import Latents, Noise


class NotFinite(AnemoneError):
    """A network's output contains infinities or NaN."""


@dataclass(frozen=True)
class Step:
    """One call of the denoising network: ``index`` of ``total`` (from 1), and the latents after it, fp32 [1, C, h, w].

    denoised: the latents without noise that the network predicts, [1, C, h, w].
    seconds: how long the step took.
    image: the index of the image in the request, from 0.
    """

    index: int
    total: int
    latents: Latents
    denoised: Latents
    seconds: float
    image: int = 0


@dataclass(frozen=True)
class GeneratedImage:
    """A finished image: its index in the request, its seeds and pixels, uint8 [H, W, 3]."""

    index: int
    seeds: ImageSeeds
    pixels: Pixels


@dataclass(frozen=True)
class Denoiser:
    """A denoising network, with those of its inputs that are the same in all steps of an image.

    extra_channels: [1, N, h, w], which follow the noisy latents' channels (an inpainting model's; N is 0 for others).
    guidance_scale: of classifier-free guidance (Ho and Salimans 2022).
    """

    network: Network
    schedule: NoiseSchedule
    conditioning: Conditioning
    guidance_scale: float
    extra_channels: NDArray[np.float16]

    def _predict_rows(self, noisy: NDArray[np.float16], timestep: float) -> NDArray[np.float32]:
        """Return the network's prediction for each row of the conditioning."""
        network = self.network
        batch = network.inputs["sample"].shape[0]
        sample = np.repeat(np.concatenate([noisy, self.extra_channels], 1), batch, 0)
        times = np.full(batch, timestep, np.float16)
        calls = self.conditioning.rows(batch)
        if "time_ids" in network.inputs:
            # Apple's packages of 2023 take the numbers of both rows as one row of twelve.
            shape = network.inputs["time_ids"].shape
            calls = [call | {"time_ids": call["time_ids"].reshape(shape)} for call in calls]
        outputs = [network.predict({"sample": sample, "timestep": times} | call)["noise_pred"] for call in calls]
        return np.concatenate(outputs)

    def _guide(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self.conditioning.guided:
            return np.asarray(rows[-1:], np.float32)
        negative, positive = np.split(rows, 2)
        return np.asarray(negative + np.float32(self.guidance_scale) * (positive - negative), np.float32)

    def steps(self, scheduler: Scheduler, latents: Latents, first_call: int, noise: Noise) -> Iterator[Step]:
        """Denoise ``latents``, which have the noise of call ``first_call``, and yield every step. Raises NotFinite."""
        total = len(scheduler.timesteps) - first_call
        for index in range(first_call, len(scheduler.timesteps)):
            began, timestep = time.perf_counter(), float(scheduler.timesteps[index])
            noisy = scheduler.scale_model_input(latents, index).astype(np.float16)
            rows = self._predict_rows(noisy, timestep)
            if not np.isfinite(rows).all():
                raise NotFinite(
                    f"the UNet's output is not finite at step {index - first_call + 1} of {total}: its numbers overflowed"
                )
            prediction = self._guide(rows)
            denoised = self.schedule.denoised_at(timestep, prediction, noisy.astype(np.float32))
            latents = np.asarray(scheduler.step(prediction, index, latents, noise), np.float32)
            yield Step(index - first_call + 1, total, latents, denoised, time.perf_counter() - began)
