"""Euler's method on the probability-flow equation, plain and ancestral (Karras et al. 2022; k-diffusion)."""

from __future__ import annotations

import numpy as np

from server.pipeline.schedulers.schedule import Latents, Noise
from server.pipeline.schedulers.sigma_scheduler import SigmaScheduler, ancestral


class Euler(SigmaScheduler):
    """Algorithm 2 of Karras et al. without its correction and churn."""

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """Move along the slope to the next sigma."""
        slope = self.slope(prediction, latents, float(self.sigmas[i]))
        return latents + slope * np.float32(self.sigmas[i + 1] - self.sigmas[i])


class EulerAncestral(SigmaScheduler):
    """Euler's step to below the next sigma, then fresh noise up to it."""

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """Move to a sigma below the next one, then add noise."""
        here = float(self.sigmas[i])
        down, up = ancestral(here, float(self.sigmas[i + 1]))
        slope = self.slope(prediction, latents, here)
        return np.asarray(latents + slope * np.float32(down - here) + noise() * np.float32(up), np.float32)
