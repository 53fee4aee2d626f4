"""Few-step sampling of trajectory consistency models (Zheng et al. 2024, algorithm 4)."""

from __future__ import annotations

import numpy as np

from server.pipeline.schedulers.lcm import LCM
from server.pipeline.schedulers.schedule import Latents, Noise

#: How much of each step is noise, from 0 to 1: the authors' and diffusers' default.
_GAMMA = 0.3


class TCD(LCM):
    """Moves to a timestep below the next one, then adds fresh noise up to it."""

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """Move to the next timestep; the last step ends at the signal of a timestep near 0."""
        alphas = self.schedule.alphas_cumprod
        to = int(self.timesteps[i + 1]) if i + 1 < len(self.timesteps) else 0
        alpha, left, below = (float(alphas[t]) for t in (int(self.timesteps[i]), to, int((1 - _GAMMA) * to)))
        denoised = self.schedule.denoised(prediction, latents, alpha**0.5, (1 - alpha) ** 0.5)
        epsilon = (latents - np.float32(alpha**0.5) * denoised) / np.float32((1 - alpha) ** 0.5)
        moved = np.asarray(np.float32(below**0.5) * denoised + np.float32((1 - below) ** 0.5) * epsilon, np.float32)
        if i + 1 == len(self.timesteps):
            return moved
        return np.float32((left / below) ** 0.5) * moved + np.float32((1 - left / below) ** 0.5) * noise()
