"""DDPM (Ho et al. 2020, "Denoising Diffusion Probabilistic Models", equation 7, with the smaller of the two variances)."""

from __future__ import annotations

import numpy as np

from server.pipeline.schedulers.ddim import DDIM
from server.pipeline.schedulers.schedule import Latents, Noise


class DDPM(DDIM):
    """Draws each step's latents from the posterior of the diffusion, given the predicted denoised latents."""

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """Move to the next timestep; from the last one to the end, without noise if it is timestep 0."""
        here = int(self.timesteps[i])
        alpha = float(self.schedule.alphas_cumprod[here])
        to = float(self.schedule.alphas_cumprod[int(self.timesteps[i + 1])]) if i + 1 < len(self.timesteps) else 1.0
        kept = alpha / to
        denoised = self.schedule.denoised(prediction, latents, alpha**0.5, (1 - alpha) ** 0.5)
        share = to**0.5 * (1 - kept) / (1 - alpha)
        mean = np.float32(share) * denoised + np.float32(kept**0.5 * (1 - to) / (1 - alpha)) * latents
        if here == 0:
            return mean
        # diffusers' least variance.
        variance = max((1 - to) / (1 - alpha) * (1 - kept), 1e-20)
        return np.asarray(mean + np.float32(variance**0.5) * noise(), np.float32)
