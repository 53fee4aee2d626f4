"""Improved PNDM (Liu et al. 2022, equation 9, without a Runge-Kutta start; Zhang and Chen 2023 name it iPNDM)."""

from __future__ import annotations

import numpy as np

from server.pipeline.schedulers.pndm import WEIGHTS
from server.pipeline.schedulers.schedule import Latents, Noise, NoiseSchedule
from server.pipeline.schedulers.sigma_scheduler import SigmaScheduler
from server.pipeline.schedulers.sigma_schedules import Sigmas


class IPNDM(SigmaScheduler):
    """Adams-Bashforth over the last four slopes, as if sigmas were evenly spaced; fewer while there are fewer."""

    def __init__(self, schedule: NoiseSchedule, steps: int, sigmas: Sigmas | None = None) -> None:
        super().__init__(schedule, steps, sigmas)
        self._slopes: list[Latents] = []

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """Move to the next sigma along the weighted sum of the last slopes."""
        self._slopes = [self.slope(prediction, latents, float(self.sigmas[i])), *self._slopes[:3]]
        weights = WEIGHTS[len(self._slopes) - 1]
        slope = sum(np.float32(w) * s for w, s in zip(weights, self._slopes, strict=True))
        return np.asarray(latents + slope * np.float32(self.sigmas[i + 1] - self.sigmas[i]), np.float32)
