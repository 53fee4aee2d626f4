"""The noise schedule a model was trained with, and the common part of schedulers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from converter.errors import ManifestError
from converter.families.noise import PURE_NOISE, Numbers, no_image_because, signal_left
from converter.folder import FILE, Manifest, SchedulerSettings

Latents = NDArray[np.float32]
Noise = Callable[[], Latents]


class Scheduler(Protocol):
    """A way from noise to latents. Index ``i`` counts the calls of the UNet, of which there are ``len(timesteps)``."""

    #: UNet calls a step takes; where a run begins part-way, it begins at a multiple of this.
    order: int
    #: The timestep that the UNet takes at each call.
    timesteps: Numbers
    #: The standard deviation of the noise a run starts from.
    init_noise_sigma: float

    def scale_model_input(self, latents: Latents, i: int) -> Latents:
        """Return the latents as the UNet takes them at call ``i``."""

    def add_noise(self, latents: Latents, noise: Latents, i: int) -> Latents:
        """Add as much noise to clean latents as there is before call ``i`` (for img2img)."""

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """Return the latents after call ``i``; ``noise`` draws fresh noise where the scheduler uses any."""


#: Timesteps by timestep_spacing, of how many there are, the steps and the offset, which is leading's alone. NumPy's
#: arange adds up steps as rounded, so halves fall as diffusers' do; at 61 and more it can end with one at -1, cut here.
_SPACINGS: dict[str, Callable[[int, int, int], Numbers]] = {
    "linspace": lambda count, steps, _: np.linspace(0, count - 1, steps)[::-1].copy(),
    "leading": lambda count, steps, offset: (np.arange(steps) * (count // steps)).astype(np.float64)[::-1] + offset,
    "trailing": lambda count, steps, _: np.round(np.arange(count, 0, -count / steps)[:steps]) - 1,
}


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule(SchedulerSettings):
    """A model's noise schedule (Ho et al. 2020) and what its UNet predicts (Salimans and Ho 2022)."""

    prediction_type: str

    @staticmethod
    def of(manifest: Manifest) -> NoiseSchedule:
        """Return the schedule of a model's manifest."""
        return NoiseSchedule(**asdict(manifest.scheduler), prediction_type=manifest.prediction_type)

    def __post_init__(self) -> None:
        """Raise ManifestError if these settings allow no sampling."""
        if (wrong := no_image_because(self, self.prediction_type)) is not None:
            raise ManifestError(f"{FILE}: no image can be made with {wrong}; convert the model again")

    @cached_property
    def alphas_cumprod(self) -> Numbers:
        """The share of signal power left at each training timestep; PURE_NOISE if none is left."""
        return signal_left(self)

    @cached_property
    def sigmas(self) -> Numbers:
        """Noise to signal at each training timestep (the k-diffusion view, Karras et al. 2022)."""
        return np.sqrt((1 - self.alphas_cumprod) / self.alphas_cumprod)

    def pure_noise_at(self, timestep: float) -> bool:
        """Return whether no signal is left at a (fractional) timestep."""
        return bool(np.interp(timestep, np.arange(self.num_train_timesteps), self.alphas_cumprod) <= PURE_NOISE)

    def spaced(self, steps: int) -> Numbers:
        """Return ``steps`` training timesteps, the noisiest first (table 2 of Lin et al. 2023, "Common Diffusion Noise")."""
        return _SPACINGS[self.timestep_spacing](self.num_train_timesteps, steps, self.steps_offset)

    def sigmas_at(self, timesteps: Numbers) -> Numbers:
        """Return the sigmas at (fractional) timesteps, and a last 0."""
        found = np.interp(timesteps, np.arange(self.num_train_timesteps), self.sigmas)
        return np.append(found, 0.0)

    def first_sigma(self, sigmas: Numbers) -> float:
        """Return the standard deviation of the starting noise in the k-diffusion view."""
        top = float(sigmas.max())
        return top if self.timestep_spacing in ("linspace", "trailing") else (top**2 + 1) ** 0.5

    def denoised(self, prediction: Latents, latents: Latents, signal: float, noise: float) -> Latents:
        """Return the denoised latents that a prediction means, where ``latents`` are signal * clean + noise * epsilon."""
        if self.prediction_type == "epsilon":
            return np.asarray((latents - noise * prediction) / signal, np.float32)
        if self.prediction_type == "v_prediction":
            return np.asarray(signal * latents - noise * prediction, np.float32)
        return prediction

    def denoised_at(self, timestep: float, prediction: Latents, given: Latents) -> Latents:
        """Return the denoised latents that a prediction means, of latents as the UNet took them at a (fractional) timestep."""
        sigma = float(self.sigmas_at(np.asarray([timestep]))[0])
        root = (sigma**2 + 1) ** 0.5
        return self.denoised(prediction, given, 1 / root, sigma / root)


class SigmaScheduler:
    """A scheduler that sees latents as clean + sigma * noise (the k-diffusion view, Karras et al. 2022)."""

    order = 1

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        self.schedule = schedule
        self.timesteps = schedule.spaced(steps)
        self.sigmas = schedule.sigmas_at(self.timesteps)
        self.init_noise_sigma = schedule.first_sigma(self.sigmas)

    def scale_model_input(self, latents: Latents, i: int) -> Latents:
        """Unit variance, as in training."""
        return latents / np.float32(np.sqrt(self.sigmas[i] ** 2 + 1))

    def add_noise(self, latents: Latents, noise: Latents, i: int) -> Latents:
        """clean + sigma * noise."""
        return latents + np.float32(self.sigmas[i]) * noise

    def slope(self, prediction: Latents, latents: Latents, sigma: float) -> Latents:
        """d latents / d sigma: the direction away from the denoised latents the prediction means."""
        root = (sigma**2 + 1) ** 0.5
        denoised = self.schedule.denoised(prediction, np.asarray(latents / root, np.float32), 1 / root, sigma / root)
        return np.asarray((latents - denoised) / sigma, np.float32)
