"""SA-Solver (Xue et al. 2023, "Stochastic Adams Solver for Fast Sampling of Diffusion Models"), predictor and corrector of order 2."""

from __future__ import annotations

from math import exp, expm1

import numpy as np

from server.pipeline.schedulers.schedule import Latents, Noise, NoiseSchedule
from server.pipeline.schedulers.sigma_schedules import Sigmas
from server.pipeline.schedulers.unit_variance import UnitVarianceScheduler

#: The timesteps between which the steps are stochastic (tau is 1, and 0 outside), as in diffusers.
_STOCHASTIC = (200, 800)


class SASolver(UnitVarianceScheduler):
    """Each prediction first corrects the step that led to it, with that step's noise, then predicts the next one."""

    ends_at_zero = False

    def __init__(self, schedule: NoiseSchedule, steps: int, sigmas: Sigmas | None = None) -> None:
        super().__init__(schedule, steps, sigmas)
        self._past: list[Latents] = []
        #: The corrected latents before the last call, and the noise added after it.
        self._start: tuple[Latents, Latents] | None = None

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """Correct the latents, then move to the next sigma."""
        denoised = self.denoised(prediction, latents, i)
        if self._start is not None:
            h = self.log_ratio(i) - self.log_ratio(i - 1)
            latents = self._moved(*self._start, i - 1, (denoised - self._past[0]) * np.float32(h / 2))
        self._past = [denoised, *self._past[:1]]
        drawn = noise()
        self._start = (latents, drawn)
        bend = np.zeros_like(latents)
        if len(self._past) == 2 and i + 1 < len(self.timesteps):
            h, before = (self.log_ratio(k + 1) - self.log_ratio(k) for k in (i, i - 1))
            bend = (denoised - self._past[1]) * np.float32(h**2 / 2 / before)
        return self._moved(latents, drawn, i, bend)

    def _moved(self, latents: Latents, noise: Latents, i: int, bend: Latents) -> Latents:
        """Return the latents after call ``i``, by the newest prediction and ``bend``, the integral of its change."""
        low, high = _STOCHASTIC
        tau = 1.0 if low <= self.timesteps[i] <= high else 0.0
        (_, std), (signal_to, std_to) = self.signal_noise(i), self.signal_noise(i + 1)
        h = self.log_ratio(i + 1) - self.log_ratio(i)
        pull = 1 + tau**2
        moved = np.float32(exp(-(tau**2) * h) * std_to / std) * latents
        moved += np.float32(-signal_to * expm1(-pull * h)) * self._past[0] + np.float32(signal_to * pull) * bend
        return np.asarray(moved + np.float32(std_to * (-expm1(-2 * tau**2 * h)) ** 0.5) * noise, np.float32)
