"""DPM-Solver-2 (Lu et al. 2022a, algorithm 1; Karras et al. 2022, algorithm 2), plain and ancestral: k-diffusion's DPM2."""

from __future__ import annotations

import numpy as np

from server.pipeline.schedulers.schedule import Latents, Noise, NoiseSchedule
from server.pipeline.schedulers.sigma_scheduler import MidpointScheduler, ancestral
from server.pipeline.schedulers.sigma_schedules import Sigmas, karras


class KDPM2(MidpointScheduler):
    """Moves along the slope at the middle of the step, by logarithms of sigma."""

    def __init__(self, schedule: NoiseSchedule, steps: int, sigmas: Sigmas | None = None) -> None:
        super().__init__(schedule, steps, sigmas)
        if sigmas is karras:
            # As diffusers does, and for no other sigmas.
            self.timesteps = np.round(self.timesteps)
        self._downs = [self._down(float(h), float(t)) for h, t in zip(self.sigmas[:-1], self.sigmas[1:], strict=True)]
        self.between([(float(h) * d[0]) ** 0.5 for h, d in zip(self.sigmas[:-2], self._downs, strict=False)])
        self._start: Latents | None = None

    def _down(self, here: float, to: float) -> tuple[float, float]:
        """Return the sigma that a step moves down to, and that of the noise added then."""
        return to, 0.0

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """In the first call of a step, move to its middle; in the second, redo it whole with the slope found there."""
        slope = self.slope(prediction, latents, float(self.sigmas[i]))
        if self._start is None:
            if i + 1 < len(self.timesteps):
                self._start = latents
            return latents + slope * np.float32(self.sigmas[i + 1] - self.sigmas[i])
        start, self._start = self._start, None
        down, up = self._downs[i // 2]
        moved = start + slope * np.float32(down - self.sigmas[i - 1])
        return moved + noise() * np.float32(up) if up else moved


class KDPM2Ancestral(KDPM2):
    """Moves to below the next sigma, then adds fresh noise up to it."""

    def _down(self, here: float, to: float) -> tuple[float, float]:
        return ancestral(here, to)
