"""Heun's method: Euler's step, corrected by the slope at its end (algorithm 2 of Karras et al. 2022, no churn)."""

from __future__ import annotations

import numpy as np

from server.pipeline.schedulers.schedule import Latents, Noise, NoiseSchedule
from server.pipeline.schedulers.sigma_scheduler import SigmaScheduler
from server.pipeline.schedulers.sigma_schedules import Sigmas


class Heun(SigmaScheduler):
    """Two UNet calls a step, one call for the last step."""

    order = 2

    def __init__(self, schedule: NoiseSchedule, steps: int, sigmas: Sigmas | None = None) -> None:
        super().__init__(schedule, steps, sigmas)
        self.timesteps = np.concatenate([self.timesteps[:1], np.repeat(self.timesteps[1:], 2)])
        self.sigmas = np.concatenate([self.sigmas[:1], np.repeat(self.sigmas[1:-1], 2), self.sigmas[-1:]])
        #: Latents, slope and change of sigma of a step whose second call is next.
        self._started: tuple[Latents, Latents, float] | None = None

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """In the first call of a step, take an Euler step; in the second, redo it with the average of both slopes."""
        if self._started is None:
            here, to = float(self.sigmas[i]), float(self.sigmas[i + 1])
            slope = self.slope(prediction, latents, here)
            if to > 0:
                self._started = (latents, slope, to - here)
            return latents + slope * np.float32(to - here)
        start, first, change = self._started
        self._started = None
        second = self.slope(prediction, latents, float(self.sigmas[i]))
        return start + (first + second) * np.float32(change / 2)
