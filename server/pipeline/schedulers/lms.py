"""Linear multistep: a polynomial through the last four slopes, integrated to the next sigma (k-diffusion's LMS)."""

from __future__ import annotations

import numpy as np

from server.pipeline.schedulers.schedule import Latents, Noise, NoiseSchedule
from server.pipeline.schedulers.sigma_scheduler import SigmaScheduler
from server.pipeline.schedulers.sigma_schedules import Sigmas

_ORDER = 4


class LMS(SigmaScheduler):
    """Adams-Bashforth on unevenly spaced sigmas."""

    def __init__(self, schedule: NoiseSchedule, steps: int, sigmas: Sigmas | None = None) -> None:
        super().__init__(schedule, steps, sigmas)
        self._slopes: list[Latents] = []

    def _coefficient(self, i: int, which: int, count: int) -> float:
        """Return the integral from sigma i to i + 1 of the Lagrange polynomial of the slope ``which`` steps back."""
        polynomial = np.polynomial.Polynomial([1.0])
        for other in range(count):
            if other != which:
                root, own = self.sigmas[i - other], self.sigmas[i - which]
                polynomial *= np.polynomial.Polynomial([-root, 1.0]) / (own - root)
        integral = polynomial.integ()
        return float(integral(self.sigmas[i + 1]) - integral(self.sigmas[i]))

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """Add the sum of the last slopes, each weighted by its polynomial's integral."""
        self._slopes = [self.slope(prediction, latents, float(self.sigmas[i])), *self._slopes][:_ORDER]
        count = len(self._slopes)
        change = sum(np.float32(self._coefficient(i, k, count)) * slope for k, slope in enumerate(self._slopes))
        return np.asarray(latents + change, np.float32)
