"""UniPC (Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework"), of order 2 with B(h) = exp(h) - 1 ("bh2")."""

from __future__ import annotations

from math import expm1

import numpy as np

from server.pipeline.schedulers.schedule import Latents, Noise, NoiseSchedule
from server.pipeline.schedulers.sigma_schedules import Sigmas
from server.pipeline.schedulers.unit_variance import UnitVarianceScheduler


class UniPC(UnitVarianceScheduler):
    """Each prediction first corrects the step that led to it, then predicts the next one; it costs one call."""

    def __init__(self, schedule: NoiseSchedule, steps: int, sigmas: Sigmas | None = None) -> None:
        super().__init__(schedule, steps, sigmas)
        #: The denoised latents of the last two calls, the newest first.
        self._past: list[Latents] = []
        #: The corrected latents before the last call, and how many predictions led on from there.
        self._start: tuple[Latents, int] | None = None

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """Correct the latents, then move to the next sigma."""
        denoised = self.denoised(prediction, latents, i)
        if self._start is not None:
            latents = self._corrected(*self._start, denoised, i)
        self._past = [denoised, *self._past[:1]]
        order = min(len(self._past), len(self.timesteps) - i)
        self._start = (latents, order)
        scale, moved = self._first_order(latents, i, i + 1)
        if order == 2:
            moved -= np.float32(scale / 2) * self._difference(i, i + 1)
        return moved

    def _first_order(self, latents: Latents, i: int, to: int) -> tuple[float, Latents]:
        """Return signal * B(h) and the latents at call ``to``, by the newest prediction alone."""
        (_, std), (signal_to, std_to) = self.signal_noise(i), self.signal_noise(to)
        scale = signal_to * expm1(self.log_ratio(i) - self.log_ratio(to))
        return scale, np.asarray(np.float32(std_to / std) * latents - np.float32(scale) * self._past[0], np.float32)

    def _ratio(self, i: int, to: int) -> float:
        """Return the step before call ``i`` as a share of the step to call ``to``, below 0."""
        return (self.log_ratio(i - 1) - self.log_ratio(i)) / (self.log_ratio(to) - self.log_ratio(i))

    def _difference(self, i: int, to: int) -> Latents:
        return (self._past[1] - self._past[0]) / np.float32(self._ratio(i, to))

    def _corrected(self, start: Latents, order: int, denoised: Latents, i: int) -> Latents:
        """Return call ``i``'s latents, made again from ``start`` with the prediction ``denoised`` that they led to."""
        scale, moved = self._first_order(start, i - 1, i)
        last = denoised - self._past[0]
        if order == 1:
            return moved - np.float32(scale / 2) * last
        # Both weights by the two conditions of order (the paper's equation 5).
        z, ratio = self.log_ratio(i - 1) - self.log_ratio(i), self._ratio(i - 1, i)
        first = expm1(z) / z - 1
        moments = np.asarray([first, 2 * (first / z - 0.5)]) / expm1(z)
        older, newer = np.linalg.solve(np.asarray([[1, 1], [ratio, 1]]), moments)
        change = np.float32(scale * older) * self._difference(i - 1, i) + np.float32(scale * newer) * last
        return np.asarray(moved - change, np.float32)
