"""DPM-Solver++ (2M), with or without Karras' spacing (Lu et al. 2022, algorithm 2; Karras et al. 2022, equation 5)."""

from __future__ import annotations

import numpy as np

from converter.families.noise import Numbers
from server.pipeline.schedulers.schedule import Latents, Noise, NoiseSchedule

_RHO = 7.0


def _spaced(schedule: NoiseSchedule, steps: int) -> Numbers:
    """Return integer timesteps, spaced for one interval more than the other schedulers use."""
    count = schedule.num_train_timesteps
    if schedule.timestep_spacing == "linspace":
        return np.round(np.linspace(0, count - 1, steps + 1))[::-1][:-1]
    if schedule.timestep_spacing == "leading":
        return (np.arange(steps + 1) * (count // (steps + 1))).astype(np.float64)[::-1][:-1] + schedule.steps_offset
    return schedule.spaced(steps)


class DPMSolver:
    """A second-order multistep method in log(signal / noise); the first and the last step are first-order."""

    order = 1
    init_noise_sigma = 1.0

    def __init__(self, schedule: NoiseSchedule, steps: int, *, karras: bool = False) -> None:
        self.schedule = schedule
        self.timesteps = _spaced(schedule, steps)
        self.sigmas = schedule.sigmas_at(self.timesteps)
        if karras:
            low, high = (float(s) ** (1 / _RHO) for s in (schedule.sigmas[0], schedule.sigmas[-1]))
            sigmas = (high + np.linspace(0, 1, steps) * (low - high)) ** _RHO
            self.sigmas = np.append(sigmas, 0.0)
            logs = np.log(schedule.sigmas)
            positions = np.interp(np.log(sigmas), logs, np.arange(len(logs)))
            # diffusers rounds down for the squared cosine, and to the nearest for other schedules.
            floors = schedule.beta_schedule == "squaredcos_cap_v2"
            self.timesteps = np.floor(positions) if floors else np.round(positions)
        self._last: tuple[int, Latents] | None = None

    def _signal_noise(self, i: int) -> tuple[float, float]:
        sigma = float(self.sigmas[i])
        signal = 1 / (sigma**2 + 1) ** 0.5
        return signal, sigma * signal

    def _log_ratio(self, i: int) -> float:
        return float(-np.log(self.sigmas[i])) if self.sigmas[i] > 0 else float("inf")

    def scale_model_input(self, latents: Latents, i: int) -> Latents:
        """Return the latents unchanged."""
        return latents

    def add_noise(self, latents: Latents, noise: Latents, i: int) -> Latents:
        """Return signal * latents + std * noise."""
        signal, std = self._signal_noise(i)
        return np.float32(signal) * latents + np.float32(std) * noise

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """Move to the next sigma, along the line through the last two denoised predictions if there are two."""
        signal, std = self._signal_noise(i)
        signal_to, std_to = self._signal_noise(i + 1)
        denoised = self.schedule.denoised(prediction, latents, signal, std)
        way = self._log_ratio(i + 1) - self._log_ratio(i)
        decay = float(np.exp(-way)) - 1
        extrapolated = denoised
        if self._last is not None and i < len(self.timesteps) - 1:
            ratio = (self._log_ratio(i) - self._log_ratio(self._last[0])) / way
            extrapolated = denoised + np.float32(0.5 / ratio) * (denoised - self._last[1])
        self._last = (i, denoised)
        return np.float32(std_to / std) * latents - np.float32(signal_to * decay) * extrapolated
