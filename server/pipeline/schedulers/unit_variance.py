"""What schedulers have in common whose latents keep the variance of the model's input, and which solve in log(signal/noise)."""

from __future__ import annotations

import numpy as np

from converter.families.noise import Numbers
from server.pipeline.schedulers.schedule import Latents, NoiseSchedule
from server.pipeline.schedulers.sigma_schedules import Sigmas, karras


class UnitVarianceScheduler:
    """Latents are signal * denoised + noise * epsilon, at ``sigmas[i]`` = noise / signal in call i; `step` is the subclass's."""

    order = 1
    init_noise_sigma = 1.0
    #: Whether the last step ends at sigma 0; it ends at the lowest trained sigma otherwise, since it divides by it.
    ends_at_zero = True

    def __init__(self, schedule: NoiseSchedule, steps: int, sigmas: Sigmas | None = None) -> None:
        """``sigmas``: the sigma schedule; None: the model's timestep spacing. Its ends are those of the model's training."""
        self.schedule = schedule
        low, high = float(schedule.sigmas[0]), float(schedule.sigmas[-1])
        last = 0.0 if self.ends_at_zero else low
        if sigmas is None:
            self.timesteps = self.spaced(steps)
            levels = schedule.sigmas_at(self.timesteps)[:-1]
        else:
            levels = sigmas(schedule, steps, low, high)
            self.timesteps = self.whole(schedule.timesteps_at(levels), rounded=sigmas is karras)
        self.sigmas = np.append(levels, last)

    def spaced(self, steps: int) -> Numbers:
        """Return whole timesteps, spaced for one interval more than the other schedulers use."""
        schedule, count = self.schedule, self.schedule.num_train_timesteps
        if schedule.timestep_spacing == "linspace":
            return np.round(np.linspace(0, count - 1, steps + 1))[::-1][:-1]
        if schedule.timestep_spacing == "leading":
            spaced = (np.arange(steps + 1) * (count // (steps + 1))).astype(np.float64)
            return spaced[::-1][:-1] + schedule.steps_offset
        return schedule.spaced(steps)

    def whole(self, timesteps: Numbers, *, rounded: bool) -> Numbers:
        """Return whole timesteps: diffusers rounds Karras' to the nearest, and cuts off those of other sigmas.

        What is less than a millionth below a whole one, by the rounding of logarithms, counts as that.
        """
        return np.round(timesteps) if rounded else np.floor(timesteps + 1e-6)

    def signal_noise(self, i: int) -> tuple[float, float]:
        """Return the factors of the denoised latents and of the noise before call ``i``."""
        sigma = float(self.sigmas[i])
        signal = 1 / (sigma**2 + 1) ** 0.5
        return signal, sigma * signal

    def log_ratio(self, i: int) -> float:
        """Return log(signal / noise) before call ``i``."""
        return float(-np.log(self.sigmas[i])) if self.sigmas[i] > 0 else float("inf")

    def denoised(self, prediction: Latents, latents: Latents, i: int) -> Latents:
        """Return the denoised latents by a prediction in call ``i``."""
        return self.schedule.denoised(prediction, latents, *self.signal_noise(i))

    def noise_in(self, prediction: Latents, latents: Latents, i: int) -> Latents:
        """Return the noise in the latents by a prediction in call ``i``."""
        if self.schedule.prediction_type == "epsilon":
            return prediction
        signal, std = self.signal_noise(i)
        return np.asarray((latents - signal * self.denoised(prediction, latents, i)) / std, np.float32)

    def scale_model_input(self, latents: Latents, i: int) -> Latents:
        """Return the latents unchanged."""
        return latents

    def add_noise(self, latents: Latents, noise: Latents, i: int) -> Latents:
        """Return signal * latents + std * noise."""
        signal, std = self.signal_noise(i)
        return np.float32(signal) * latents + np.float32(std) * noise
