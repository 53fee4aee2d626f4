"""The noise schedule a model was trained with, and what every scheduler has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from converter.errors import ManifestError
from converter.families.noise import PURE_NOISE, Numbers, no_image_because, signal_left
from converter.manifest import FILE, Manifest, SchedulerSettings
from converter.sources.config_tables import usual_spacing

Latents = NDArray[np.float32]
Noise = Callable[[], Latents]


class Scheduler(Protocol):
    """A method to get from noise to latents. Index ``i`` counts the UNet's calls, ``len(timesteps)`` in all."""

    #: UNet calls per step; a run that begins part-way begins at a multiple of this.
    order: int
    #: The UNet's timestep at each call.
    timesteps: Numbers
    #: The standard deviation of the noise that a run starts from.
    init_noise_sigma: float

    def scale_model_input(self, latents: Latents, i: int) -> Latents:
        """Return the UNet's input at call ``i``."""

    def add_noise(self, latents: Latents, noise: Latents, i: int) -> Latents:
        """Return noiseless latents with the amount of noise before call ``i`` (for img2img)."""

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """Return the latents after call ``i``; ``noise`` draws fresh noise for schedulers that use it."""


#: Timesteps by timestep_spacing, from their number, the steps, and the offset, which only "leading" uses. NumPy's arange
#: adds up rounded steps, so that values halfway are rounded as in diffusers; from 61 steps on it can end with an extra one
#: at -1, which is cut off here.
_SPACINGS: dict[str, Callable[[int, int, int], Numbers]] = {
    "linspace": lambda count, steps, _: np.linspace(0, count - 1, steps)[::-1].copy(),
    "leading": lambda count, steps, offset: (np.arange(steps) * (count // steps)).astype(np.float64)[::-1] + offset,
    "trailing": lambda count, steps, _: np.round(np.arange(count, 0, -count / steps)[:steps]) - 1,
}


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule(SchedulerSettings):
    """A model's noise schedule (Ho et al. 2020) and what its UNet predicts (Salimans and Ho 2022).

    sdxl: whether the model is an SDXL, for which other sigmas are published (see `sigma_schedules.align_your_steps`).
    """

    prediction_type: str
    sdxl: bool = False

    @staticmethod
    def of(manifest: Manifest) -> NoiseSchedule:
        """Return the schedule in a model folder's manifest."""
        return _schedule(manifest.scheduler, manifest.prediction_type, manifest.conditions.time_ids is not None)

    def __post_init__(self) -> None:
        """Raise ManifestError if no image can be made with these settings."""
        if (wrong := no_image_because(self, self.prediction_type)) is not None:
            raise ManifestError(f"{FILE}: no image can be made with {wrong}; convert the model again")

    @cached_property
    def alphas_cumprod(self) -> Numbers:
        """The fraction of signal power left at each training timestep; PURE_NOISE if no signal is left."""
        return signal_left(self)

    @cached_property
    def sigmas(self) -> Numbers:
        """The ratio of noise to signal at each training timestep (as in k-diffusion, Karras et al. 2022)."""
        return np.sqrt((1 - self.alphas_cumprod) / self.alphas_cumprod)

    def pure_noise_at(self, timestep: float) -> bool:
        """Return whether no signal is left at a (fractional) timestep."""
        return bool(np.interp(timestep, np.arange(self.num_train_timesteps), self.alphas_cumprod) <= PURE_NOISE)

    def spaced_for(self, scheduler: str) -> NoiseSchedule:
        """Return the schedule with a timestep_spacing: its own, or that of diffusers' class of this name."""
        return self if self.timestep_spacing is not None else _with_spacing(self, usual_spacing(scheduler))

    def spaced(self, steps: int) -> Numbers:
        """Return ``steps`` training timesteps, the noisiest first (table 2 of Lin et al. 2023, "Common Diffusion Noise")."""
        assert self.timestep_spacing is not None  # see spaced_for
        return _SPACINGS[self.timestep_spacing](self.num_train_timesteps, steps, self.steps_offset)

    def sigmas_at(self, timesteps: Numbers) -> Numbers:
        """Return the sigmas at (fractional) timesteps, and a final 0."""
        sigmas = np.interp(timesteps, np.arange(self.num_train_timesteps), self.sigmas)
        return np.append(sigmas, 0.0)

    def sigma_at(self, timestep: float) -> float:
        """Return the sigma at a (fractional) timestep."""
        return float(np.interp(timestep, np.arange(self.num_train_timesteps), self.sigmas))

    def timesteps_at(self, sigmas: Numbers) -> Numbers:
        """Return the (fractional) timesteps of sigmas, between the trained ones by their logarithms (as in k-diffusion)."""
        timesteps: Numbers = np.interp(np.log(sigmas), np.log(self.sigmas), np.arange(self.num_train_timesteps))
        return timesteps

    def first_sigma(self, sigmas: Numbers) -> float:
        """Return the standard deviation of the starting noise for latents of denoised + sigma * noise, as diffusers has it."""
        top = float(sigmas.max())
        return top if self.timestep_spacing in ("linspace", "trailing") else (top**2 + 1) ** 0.5

    def denoised(self, prediction: Latents, latents: Latents, signal: float, noise: float) -> Latents:
        """Return the denoised latents by a prediction for ``latents`` = signal * denoised + noise * epsilon."""
        if self.prediction_type == "epsilon":
            return np.asarray((latents - noise * prediction) / signal, np.float32)
        if self.prediction_type == "v_prediction":
            return np.asarray(signal * latents - noise * prediction, np.float32)
        return prediction

    def denoised_at(self, timestep: float, prediction: Latents, model_input: Latents) -> Latents:
        """Return the denoised latents by a prediction for the UNet's input at a (fractional) timestep."""
        sigma = self.sigma_at(timestep)
        root = (sigma**2 + 1) ** 0.5
        return self.denoised(prediction, model_input, 1 / root, sigma / root)


# Each accepted request asks three times; making one takes 0.1 ms of the event loop.
@lru_cache(maxsize=32)
def _schedule(settings: SchedulerSettings, prediction_type: str, sdxl: bool) -> NoiseSchedule:
    return NoiseSchedule(**asdict(settings), prediction_type=prediction_type, sdxl=sdxl)


@lru_cache(maxsize=64)
def _with_spacing(schedule: NoiseSchedule, spacing: str) -> NoiseSchedule:
    return replace(schedule, timestep_spacing=spacing)
