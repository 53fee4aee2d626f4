"""DPM-Solver++ as a stochastic equation, with two calls a step (k-diffusion's sample_dpmpp_sde: A1111's DPM++ SDE)."""

from __future__ import annotations

import numpy as np

from server.pipeline.schedulers.schedule import Latents, Noise, NoiseSchedule
from server.pipeline.schedulers.sigma_scheduler import MidpointScheduler, ancestral
from server.pipeline.schedulers.sigma_schedules import Sigmas


class DPMSolverSDE(MidpointScheduler):
    """Moves along a Brownian path over sigma: the noise of a whole step contains that of its first half.

    k-diffusion and diffusers look the path up in a tree (torchsde), because they may ask for its pieces in any order. These
    steps ask for them in order, so that two independent draws a step make the same path, from the request's own generator.
    """

    def __init__(self, schedule: NoiseSchedule, steps: int, sigmas: Sigmas | None = None) -> None:
        super().__init__(schedule, steps, sigmas)
        self.between([float(h * t) ** 0.5 for h, t in zip(self.sigmas[:-2], self.sigmas[1:-1], strict=True)])
        #: The latents before a step whose second call is next, and the path's change in its first half.
        self._started: tuple[Latents, Latents] | None = None

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """In the first call of a step, move to its middle; in the second, redo it whole with what was predicted there."""
        sigma, after = float(self.sigmas[i]), float(self.sigmas[i + 1])
        denoised = self.denoised(prediction, latents, sigma)
        if after == 0:
            return denoised
        change = noise() * np.float32((sigma - after) ** 0.5)
        if self._started is None:
            self._started = (latents, change)
            return self._moved(latents, denoised, sigma, after, change)
        (start, before), self._started = self._started, None
        return self._moved(start, denoised, float(self.sigmas[i - 1]), after, before + change)

    def _moved(self, latents: Latents, denoised: Latents, here: float, to: float, change: Latents) -> Latents:
        """Move from sigma ``here`` to below ``to``, and up to it by noise along the path's ``change``."""
        down, up = ancestral(here, to)
        noise = change * np.float32(up / (here - to) ** 0.5)
        return np.asarray(denoised + (latents - denoised) * np.float32(down / here) + noise, np.float32)
