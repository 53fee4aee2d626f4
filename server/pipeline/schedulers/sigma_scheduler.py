"""What schedulers have in common whose latents are denoised + sigma * noise (as in k-diffusion, Karras et al. 2022)."""

from __future__ import annotations

import numpy as np

from server.pipeline.schedulers.schedule import Latents, NoiseSchedule
from server.pipeline.schedulers.sigma_schedules import Sigmas


class SigmaScheduler:
    """One call of the UNet a step, at ``sigmas[i]``; `step` is the subclass's."""

    order = 1

    def __init__(self, schedule: NoiseSchedule, steps: int, sigmas: Sigmas | None = None) -> None:
        """``sigmas``: the sigma schedule; None: the model's timestep spacing. Its ends are those of the model's spacing."""
        self.schedule = schedule
        self.timesteps = schedule.spaced(steps)
        self.sigmas = schedule.sigmas_at(self.timesteps)
        if sigmas is not None:
            levels = sigmas(schedule, steps, float(self.sigmas[-2]), float(self.sigmas[0]))
            self.timesteps, self.sigmas = schedule.timesteps_at(levels), np.append(levels, 0.0)
        self.init_noise_sigma = schedule.first_sigma(self.sigmas)

    def scale_model_input(self, latents: Latents, i: int) -> Latents:
        """Return the latents scaled to unit variance, as in training."""
        return latents / np.float32(np.sqrt(self.sigmas[i] ** 2 + 1))

    def add_noise(self, latents: Latents, noise: Latents, i: int) -> Latents:
        """Return latents + sigma * noise."""
        return latents + np.float32(self.sigmas[i]) * noise

    def slope(self, prediction: Latents, latents: Latents, sigma: float) -> Latents:
        """Return d latents / d sigma: the direction away from the predicted denoised latents."""
        return np.asarray((latents - self.denoised(prediction, latents, sigma)) / sigma, np.float32)

    def denoised(self, prediction: Latents, latents: Latents, sigma: float) -> Latents:
        """Return the denoised latents by a prediction for ``latents`` at ``sigma``."""
        root = (sigma**2 + 1) ** 0.5
        return self.schedule.denoised(prediction, np.asarray(latents / root, np.float32), 1 / root, sigma / root)


class MidpointScheduler(SigmaScheduler):
    """Two calls a step, the second at a sigma within the step; the last step, to sigma 0, has one.

    ``sigmas`` has the sigma of every call and a final 0.
    """

    order = 2

    def between(self, sigmas: list[float]) -> None:
        """Put the second calls' sigmas, one for each step but the last, between those of the first calls."""
        timesteps, firsts = self.timesteps, self.sigmas
        count = 2 * len(timesteps) - 1
        self.timesteps, self.sigmas = np.empty(count), np.zeros(count + 1)
        self.timesteps[::2], self.sigmas[:-1:2] = timesteps, firsts[:-1]
        self.timesteps[1::2], self.sigmas[1:-1:2] = self.schedule.timesteps_at(np.asarray(sigmas)), sigmas


def ancestral(here: float, to: float) -> tuple[float, float]:
    """Return the sigma to move down to from ``here`` and that of the noise which leads up to ``to``."""
    up = min(to, (to**2 * (here**2 - to**2) / here**2) ** 0.5)
    return (to**2 - up**2) ** 0.5, up
