"""Few-step sampling of latent consistency models (Luo et al. 2023, algorithm 3)."""

from __future__ import annotations

import numpy as np

from server.pipeline.schedulers.schedule import Latents, Noise, NoiseSchedule

#: Such a model was distilled at this many evenly spaced timesteps; a run uses some of them.
_DISTILLED_STEPS = 50
#: The consistency function's boundary condition: the standard deviation of the data, and the factor of timesteps.
_SIGMA_DATA, _TIMESTEP_SCALING = 0.5, 10.0


class LCM:
    """Predicts the denoised latents at every step and adds fresh noise, a little less each time."""

    order = 1
    init_noise_sigma = 1.0

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        self.schedule = schedule
        count = min(max(_DISTILLED_STEPS, steps), schedule.num_train_timesteps)
        trained = (np.arange(count) + 1) * (schedule.num_train_timesteps // count) - 1
        picked = np.floor(np.linspace(0, count, steps, endpoint=False)).astype(int)
        self.timesteps = trained[::-1][picked].astype(np.float64)

    def scale_model_input(self, latents: Latents, i: int) -> Latents:
        """Return the latents unchanged."""
        return latents

    def _signal_noise(self, i: int) -> tuple[np.float32, np.float32]:
        alpha = self.schedule.alphas_cumprod[int(self.timesteps[i])]
        return np.float32(np.sqrt(alpha)), np.float32(np.sqrt(1 - alpha))

    def add_noise(self, latents: Latents, noise: Latents, i: int) -> Latents:
        """Return sqrt(alpha) * latents + sqrt(1 - alpha) * noise."""
        signal, std = self._signal_noise(i)
        return signal * latents + std * noise

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """Move to the next timestep; the last step returns the consistency function's value."""
        signal, std = self._signal_noise(i)
        denoised = self.schedule.denoised(prediction, latents, float(signal), float(std))
        scaled = self.timesteps[i] * _TIMESTEP_SCALING
        skip = _SIGMA_DATA**2 / (scaled**2 + _SIGMA_DATA**2)
        out = scaled / np.sqrt(scaled**2 + _SIGMA_DATA**2)
        sample = np.asarray(np.float32(out) * denoised + np.float32(skip) * latents, np.float32)
        return sample if i + 1 == len(self.timesteps) else self.add_noise(sample, noise(), i + 1)
