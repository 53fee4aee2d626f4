"""The denoising loop: a generator that yields after each call of the network, so its caller can report progress and cancel."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from converter.errors import AnemoneError
from server.pipeline.images import Pixels
from server.pipeline.networks import Call
from server.pipeline.request import ImageSeeds
from server.pipeline.schedulers import NoiseSchedule, Scheduler
from server.pipeline.schedulers.schedule import Latents, Noise


class NotFinite(AnemoneError):
    """A network's output contains infinities or NaN."""


@dataclass(frozen=True)
class Step:
    """One step of the denoising network: ``index`` of ``total`` (from 1), and the latents after it, fp32 [1, C, h, w].

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

    def of(self, image: int, before: int, total: int) -> Step:
        """Return the step as one of an image that takes ``total`` steps, of which so many were made before this one's run."""
        return replace(self, index=before + self.index, total=total, image=image)


@dataclass(frozen=True)
class GeneratedImage:
    """A finished image: its index in the request, its seeds and pixels, uint8 [H, W, 3].

    flagged: whether the safety checker found something in it; the pixels are blurred then.
    """

    index: int
    seeds: ImageSeeds
    pixels: Pixels
    flagged: bool = False


@dataclass(frozen=True)
class Note:
    """What was done to a request's inputs, or to its images, as a sentence for the client."""

    text: str


@dataclass(frozen=True)
class Moment:
    """A point of the walk through the noise levels.

    call: the index of the call in the scheduler's timesteps, of ``calls``.
    first_call: that of the first one; img2img leaves out those before.
    timestep: the network's input, a (fractional) training timestep.
    sigma: the ratio of noise to signal there.
    """

    call: int
    calls: int
    timestep: float
    sigma: float
    first_call: int = 0

    def step(self, steps: int) -> int:
        """Return the index of the step where the walk has so many: a step may take several calls."""
        return (self.call - self.first_call) * steps // (self.calls - self.first_call)


#: Yields the network's calls, and returns its prediction, fp32 [1, C, h, w].
Predicting = Generator[Call, None, NDArray[np.float32]]


class Predictor(Protocol):
    """A model's prediction for noisy latents."""

    def predict(self, noisy: NDArray[np.float16], moment: Moment) -> Predicting:
        """Predict for the network's input [1, C, h, w]."""


#: (latents after a call, the call's index) -> the latents that the next call gets.
AfterStep = Callable[[Latents, int], Latents]


def denoise(
    predictor: Predictor,
    schedule: NoiseSchedule,
    scheduler: Scheduler,
    latents: Latents,
    first_call: int,
    noise: Noise,
    after_step: AfterStep = lambda latents, call: latents,
) -> Iterator[Call | Step]:
    """Denoise ``latents``, which have the noise of call ``first_call``, and yield every call and step. Raises NotFinite."""
    calls = len(scheduler.timesteps)
    for call in range(first_call, calls):
        began, timestep = time.perf_counter(), float(scheduler.timesteps[call])
        noisy = scheduler.scale_model_input(latents, call).astype(np.float16)
        moment = Moment(call, calls, timestep, schedule.sigma_at(timestep), first_call)
        prediction = yield from predictor.predict(noisy, moment)
        if not np.isfinite(prediction).all():
            raise NotFinite(
                f"the UNet's output is not finite at step {call - first_call + 1} of {calls - first_call}: its numbers "
                "overflowed"
            )
        denoised = schedule.denoised_at(timestep, prediction, noisy.astype(np.float32))
        latents = after_step(np.asarray(scheduler.step(prediction, call, latents, noise), np.float32), call)
        yield Step(call - first_call + 1, calls - first_call, latents, denoised, time.perf_counter() - began)
