"""DDIM (Song et al. 2021, "Denoising Diffusion Implicit Models", equation 12 with eta 0)."""

from __future__ import annotations

import numpy as np

from server.pipeline.schedulers.schedule import Latents, Noise, NoiseSchedule


class DDIM:
    """Deterministic steps: predicts the denoised latents and adds noise again, a little less."""

    order = 1
    init_noise_sigma = 1.0

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        self.schedule = schedule
        self.timesteps = np.round(schedule.spaced(steps))
        self._stride = schedule.num_train_timesteps // steps

    def scale_model_input(self, latents: Latents, i: int) -> Latents:
        """Return the latents unchanged."""
        return latents

    def add_noise(self, latents: Latents, noise: Latents, i: int) -> Latents:
        """Return sqrt(alpha) * latents + sqrt(1 - alpha) * noise."""
        alpha = self.schedule.alphas_cumprod[int(self.timesteps[i])]
        return np.float32(np.sqrt(alpha)) * latents + np.float32(np.sqrt(1 - alpha)) * noise

    def _move(self, prediction: Latents, latents: Latents, here: int, to: int) -> Latents:
        """Move the latents from timestep ``here`` to timestep ``to``; below 0 is past the last."""
        alphas, schedule = self.schedule.alphas_cumprod, self.schedule
        alpha = float(alphas[here])
        left = float(alphas[max(to, 0)]) if to >= 0 or not schedule.set_alpha_to_one else 1.0
        denoised = schedule.denoised(prediction, latents, alpha**0.5, (1 - alpha) ** 0.5)
        epsilon = (latents - np.float32(alpha**0.5) * denoised) / np.float32((1 - alpha) ** 0.5)
        return np.asarray(np.float32(left**0.5) * denoised + np.float32((1 - left) ** 0.5) * epsilon, np.float32)

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """Move the latents to the timestep one stride earlier."""
        here = int(self.timesteps[i])
        return self._move(prediction, latents, here, here - self._stride)
