"""Compute the noise a model was trained with, from its scheduler settings: the signal left at each training timestep."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from converter.manifest import SchedulerSettings
from converter.sources.config_tables import PREDICTION_TYPES, SCHEDULER

Numbers = NDArray[np.float64]

#: The share of signal at pure noise; not 0, since it is divided by: diffusers' value, fp16's smallest (sigma is 4096).
PURE_NOISE = 2.0**-24
#: A share below this counts as no signal. The smallest intended share is squaredcos_cap_v2's last, 2.4e-9.
_NO_SIGNAL = 1e-10
#: Ten times as many as any published model was trained on; every timestep takes memory.
_MOST_TIMESTEPS = 10_000


def _squared_cosine(start: float, end: float, count: int) -> Numbers:
    left: Numbers = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - left[1:] / left[:-1], 0.999)


def _laplace(start: float, end: float, count: int) -> Numbers:
    """Return the betas of Hang et al. 2024, "Improved Noise Schedule for Diffusion Training", with diffusers' guard of the logarithm."""
    from_middle = 0.5 - np.arange(count + 1) / count
    logs: Numbers = -0.5 * np.copysign(1, from_middle) * np.log(1 - 2 * np.abs(from_middle) + 1e-6)
    left: Numbers = np.sqrt(1 / (1 + np.exp(-logs)))
    return np.minimum(1 - left[1:] / left[:-1], 0.999)


#: beta_schedule -> a function from the first beta, the last and their number to the betas.
_BETAS: dict[str, Callable[[float, float, int], Numbers]] = {
    "linear": np.linspace,
    "scaled_linear": lambda start, end, count: np.linspace(start**0.5, end**0.5, count) ** 2,
    "squaredcos_cap_v2": _squared_cosine,
    "sigmoid": lambda start, end, count: start + (end - start) / (1 + np.exp(np.linspace(6, -6, count))),
    "laplace": _laplace,
}


def _variances(settings: SchedulerSettings) -> Numbers:
    """Return the variance added at each training timestep."""
    if settings.trained_betas is not None:
        return np.asarray(settings.trained_betas, np.float64)
    return _BETAS[settings.beta_schedule](settings.beta_start, settings.beta_end, settings.num_train_timesteps)


def signal_left(settings: SchedulerSettings) -> Numbers:
    """Return the share of signal power left at each training timestep (diffusers' alphas_cumprod); PURE_NOISE where none is."""
    alphas = np.cumprod(1 - _variances(settings))
    if settings.rescale_betas_zero_snr:
        roots = np.sqrt(alphas)
        alphas = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
    return np.where(alphas < _NO_SIGNAL, PURE_NOISE, alphas)


def no_image_because(settings: SchedulerSettings, prediction_type: str) -> str | None:
    """Return why these settings can make no image; None if they can."""
    count, betas = settings.num_train_timesteps, settings.trained_betas
    valid = {
        "num_train_timesteps": 1 < count <= _MOST_TIMESTEPS,
        "beta_start": 0 < settings.beta_start < 1,
        "beta_end": 0 < settings.beta_end < 1,
        "beta_schedule": settings.beta_schedule in _BETAS,
        "timestep_spacing": settings.timestep_spacing in (None, *SCHEDULER["timestep_spacing"].accepted),
        "steps_offset": 0 <= settings.steps_offset < count / 2,
        "trained_betas": betas is None or len(betas) == count,
        "prediction_type": prediction_type in PREDICTION_TYPES,
    }
    values = {"prediction_type": prediction_type} | {
        name: getattr(settings, name, None) for name in valid if name != "prediction_type"
    }
    if wrong := [f"{name} {values[name]!r:.80}" for name, is_valid in valid.items() if not is_valid]:
        return ", ".join(wrong)
    variances = _variances(settings)
    if not np.all((variances > 0) & (variances <= 1)) or np.count_nonzero(signal_left(settings) == PURE_NOISE) > 1:
        return "betas outside 0 to 1, or betas that leave no signal before the last timestep"
    return None
