"""DEIS (Zhang and Chen 2023, "Fast Sampling of Diffusion Models with Exponential Integrator"): tAB2 in log(sigma)."""

from __future__ import annotations

from math import log

import numpy as np

from server.pipeline.schedulers.schedule import Latents, Noise, NoiseSchedule
from server.pipeline.schedulers.sigma_schedules import Sigmas
from server.pipeline.schedulers.unit_variance import UnitVarianceScheduler

#: With fewer steps the last one is of order 1, as in diffusers.
_MANY = 15


class DEIS(UnitVarianceScheduler):
    """A multistep method: integrates over sigma the line in log(sigma) through the last two predictions of the noise."""

    ends_at_zero = False

    def __init__(self, schedule: NoiseSchedule, steps: int, sigmas: Sigmas | None = None) -> None:
        super().__init__(schedule, steps, sigmas)
        self._before: Latents | None = None

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """Move to the next sigma."""
        here, to = float(self.sigmas[i]), float(self.sigmas[i + 1])
        (signal, _), (signal_to, _) = self.signal_noise(i), self.signal_noise(i + 1)
        newest, before = self.noise_in(prediction, latents, i), self._before
        self._before = newest
        moved = latents / np.float32(signal) + np.float32(to - here) * newest
        if before is not None and not (i + 1 == len(self.timesteps) < _MANY):
            # The integral of log(sigma / here), over the line's run.
            bend = (to * (log(to / here) - 1) + here) / log(here / self.sigmas[i - 1])
            moved += np.float32(bend) * (newest - before)
        return np.asarray(np.float32(signal_to) * moved, np.float32)
