"""The noise a model was trained with, and what every sampler does with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from converter.config_tables import PREDICTION_TYPES
from converter.errors import ManifestError
from converter.folder import FILE, Manifest, SchedulerSettings

#: The share of signal at pure noise, in place of a 0 to divide by: diffusers' value, fp16's smallest (sigma is 4096).
PURE_NOISE = 2.0**-24
#: A share below this is none. The least that a schedule has on purpose is squaredcos_cap_v2's last, 2.4e-9.
_NO_SIGNAL = 1e-10

Latents = NDArray[np.float32]
Numbers = NDArray[np.float64]
Noise = Callable[[], Latents]


class Sampler(Protocol):
    """A way from noise to latents. Index ``i`` counts the calls of the UNet, of which there are ``len(timesteps)``."""

    #: UNet calls a step takes; where a run begins part-way, it begins at a multiple of this.
    order: int
    #: What the UNet is told at each call.
    timesteps: Numbers
    #: The deviation of the noise a run starts from.
    init_noise_sigma: float

    def scale_model_input(self, latents: Latents, i: int) -> Latents:
        """The latents as the UNet wants them at call ``i``."""

    def add_noise(self, latents: Latents, noise: Latents, i: int) -> Latents:
        """Clean latents with as much noise as there is before call ``i`` (for img2img)."""

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """The latents after call ``i``; ``noise`` draws fresh noise where the sampler uses any."""


def _squared_cosine(start: float, end: float, count: int) -> Numbers:
    left: Numbers = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - left[1:] / left[:-1], 0.999)


def _laplace(start: float, end: float, count: int) -> Numbers:
    """Hang et al. 2024, "Improved Noise Schedule for Diffusion Training", with diffusers' guard of the logarithm."""
    from_middle = 0.5 - np.arange(count + 1) / count
    logs: Numbers = -0.5 * np.copysign(1, from_middle) * np.log(1 - 2 * np.abs(from_middle) + 1e-6)
    left: Numbers = np.sqrt(1 / (1 + np.exp(-logs)))
    return np.minimum(1 - left[1:] / left[:-1], 0.999)


#: Betas by beta_schedule, of the first, the last and how many there are.
_BETAS: dict[str, Callable[[float, float, int], Numbers]] = {
    "linear": np.linspace,
    "scaled_linear": lambda start, end, count: np.linspace(start**0.5, end**0.5, count) ** 2,
    "squaredcos_cap_v2": _squared_cosine,
    "sigmoid": lambda start, end, count: start + (end - start) / (1 + np.exp(np.linspace(6, -6, count))),
    "laplace": _laplace,
}
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
        """The schedule a model folder states."""
        return NoiseSchedule(**asdict(manifest.scheduler), prediction_type=manifest.prediction_type)

    def __post_init__(self) -> None:
        """Raise ManifestError where there is no sampling by these settings."""
        count, betas = self.num_train_timesteps, self.trained_betas
        right = {
            "num_train_timesteps": count > 1,
            "beta_start": 0 < self.beta_start < 1,
            "beta_end": 0 < self.beta_end < 1,
            "beta_schedule": self.beta_schedule in _BETAS,
            "timestep_spacing": self.timestep_spacing in _SPACINGS,
            "steps_offset": 0 <= self.steps_offset < count / 2,
            "trained_betas": betas is None or len(betas) == count,
            "prediction_type": self.prediction_type in PREDICTION_TYPES,
        }
        wrong = [f"{name} {getattr(self, name)!r:.80}" for name, fine in right.items() if not fine]
        if wrong:
            raise ManifestError(f"{FILE}: no image can be made with {', '.join(wrong)}; convert the model again")
        between = np.all((self._betas > 0) & (self._betas <= 1))
        if not between or np.count_nonzero(self.alphas_cumprod == PURE_NOISE) > 1:
            raise ManifestError(
                f"{FILE}: its scheduler's betas are not between 0 and 1, or leave no signal before the last timestep; "
                "convert the model again"
            )

    @cached_property
    def _betas(self) -> Numbers:
        """The variance added at each training timestep."""
        if self.trained_betas is not None:
            return np.asarray(self.trained_betas, np.float64)
        return _BETAS[self.beta_schedule](self.beta_start, self.beta_end, self.num_train_timesteps)

    @cached_property
    def alphas_cumprod(self) -> Numbers:
        """The share of signal power left at each training timestep; PURE_NOISE where none is."""
        alphas = np.cumprod(1 - self._betas)
        if self.rescale_betas_zero_snr:
            roots = np.sqrt(alphas)
            alphas = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
        return np.where(alphas < _NO_SIGNAL, PURE_NOISE, alphas)

    @cached_property
    def sigmas(self) -> Numbers:
        """Noise to signal at each training timestep (the k-diffusion view, Karras et al. 2022)."""
        return np.sqrt((1 - self.alphas_cumprod) / self.alphas_cumprod)

    def pure_noise_at(self, timestep: float) -> bool:
        """Whether no signal is left at a (fractional) timestep."""
        return bool(np.interp(timestep, np.arange(self.num_train_timesteps), self.alphas_cumprod) <= PURE_NOISE)

    def spaced(self, steps: int) -> Numbers:
        """``steps`` training timesteps, the noisiest first (table 2 of Lin et al. 2023, "Common Diffusion Noise")."""
        return _SPACINGS[self.timestep_spacing](self.num_train_timesteps, steps, self.steps_offset)

    def sigmas_at(self, timesteps: Numbers) -> Numbers:
        """Sigmas at (fractional) timesteps, and a last 0."""
        found = np.interp(timesteps, np.arange(self.num_train_timesteps), self.sigmas)
        return np.append(found, 0.0)

    def first_sigma(self, sigmas: Numbers) -> float:
        """The deviation of the starting noise in the k-diffusion view."""
        top = float(sigmas.max())
        return top if self.timestep_spacing in ("linspace", "trailing") else (top**2 + 1) ** 0.5

    def clean(self, prediction: Latents, latents: Latents, signal: float, noise: float) -> Latents:
        """The clean latents a prediction means, where ``latents`` are signal * clean + noise * epsilon."""
        if self.prediction_type == "epsilon":
            return np.asarray((latents - noise * prediction) / signal, np.float32)
        if self.prediction_type == "v_prediction":
            return np.asarray(signal * latents - noise * prediction, np.float32)
        return prediction

    def clean_at(self, timestep: float, prediction: Latents, given: Latents) -> Latents:
        """The clean latents a prediction means, of latents as the UNet was given them at a (fractional) timestep."""
        sigma = float(self.sigmas_at(np.asarray([timestep]))[0])
        root = (sigma**2 + 1) ** 0.5
        return self.clean(prediction, given, 1 / root, sigma / root)


class KarrasView:
    """What samplers share that see latents as clean + sigma * noise."""

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
        """d latents / d sigma: the direction away from the clean latents the prediction means."""
        root = (sigma**2 + 1) ** 0.5
        clean = self.schedule.clean(prediction, np.asarray(latents / root, np.float32), 1 / root, sigma / root)
        return np.asarray((latents - clean) / sigma, np.float32)
