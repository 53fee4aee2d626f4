"""Sigma schedules: which noise levels a run visits, chosen apart from the method that moves between them.

AUTOMATIC1111 calls them schedule types. Without one, a run visits the timesteps that the model's timestep_spacing gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from converter.families.noise import Numbers
from server.pipeline.schedulers.schedule import NoiseSchedule

#: Returns falling sigmas, one for each step, from the model's schedule, the number of steps, and the lowest and the highest
#: sigma. What follows the last one is the scheduler's matter.
Sigmas: TypeAlias = Callable[[NoiseSchedule, int, float, float], Numbers]

#: The exponent of Karras et al. 2022 (equation 5).
_RHO = 7.0
#: Both parameters of the beta distribution that Lee et al. 2024 ("Beta Sampling is All You Need") found best.
_SHAPE = 0.6
#: The sigmas of ten steps (Sabour et al. 2024, https://research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html).
_ALIGNED = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
_ALIGNED_SDXL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)


def karras(schedule: NoiseSchedule, steps: int, low: float, high: float) -> Numbers:
    """Return evenly spaced 7th roots (Karras et al. 2022, equation 5): many steps at low noise."""
    first, last = high ** (1 / _RHO), low ** (1 / _RHO)
    sigmas: Numbers = (first + np.linspace(0, 1, steps) * (last - first)) ** _RHO
    return sigmas


def exponential(schedule: NoiseSchedule, steps: int, low: float, high: float) -> Numbers:
    """Return evenly spaced logarithms."""
    return np.exp(np.linspace(np.log(high), np.log(low), steps))


def _beta_quantiles(levels: Numbers) -> Numbers:
    """Return the quantiles of the beta distribution with both parameters _SHAPE.

    With u = x ** _SHAPE the density's pole at 0 goes away, so that Simpson's rule with 2000 intervals is right to 1e-9;
    SciPy has this function, and takes longer to import than a server to start. The distribution is symmetric.
    """
    u = np.linspace(0, 0.5**_SHAPE, 4001)
    density = (1 - u ** (1 / _SHAPE)) ** (_SHAPE - 1)
    pieces = (density[:-2:2] + 4 * density[1:-1:2] + density[2::2]) * (u[1] - u[0]) / 3
    area = np.append(0, np.cumsum(pieces))
    roots = np.interp(np.minimum(levels, 1 - levels), area / area[-1] / 2, u[::2])
    below = roots ** (1 / _SHAPE)
    return np.where(levels < 0.5, below, 1 - below)


def beta(schedule: NoiseSchedule, steps: int, low: float, high: float) -> Numbers:
    """Return sigmas at quantiles of a beta distribution (Lee et al. 2024): many steps at both ends."""
    return low + _beta_quantiles(1 - np.linspace(0, 1, steps)) * (high - low)


def _at(schedule: NoiseSchedule, timesteps: Numbers) -> Numbers:
    """Return sigmas at fractional timesteps, between the trained ones by their logarithms (as in k-diffusion)."""
    sigmas: Numbers = np.exp(np.interp(timesteps, np.arange(schedule.num_train_timesteps), np.log(schedule.sigmas)))
    return sigmas


def uniform(schedule: NoiseSchedule, steps: int, low: float, high: float) -> Numbers:
    """Return sigmas at evenly spaced timesteps, the first and the last trained one included (A1111's uniform)."""
    return _at(schedule, np.linspace(schedule.num_train_timesteps - 1, 0, steps))


def sgm_uniform(schedule: NoiseSchedule, steps: int, low: float, high: float) -> Numbers:
    """Return sigmas at evenly spaced timesteps without the last one (Stability's generative models; A1111's sgm_uniform)."""
    return _at(schedule, np.linspace(schedule.num_train_timesteps - 1, 0, steps + 1)[:-1])


def simple(schedule: NoiseSchedule, steps: int, low: float, high: float) -> Numbers:
    """Return every n-th trained sigma, from the highest on (A1111's simple)."""
    sigmas: Numbers = schedule.sigmas[::-1][(np.arange(steps) * (schedule.num_train_timesteps / steps)).astype(int)]
    return sigmas


def align_your_steps(schedule: NoiseSchedule, steps: int, low: float, high: float) -> Numbers:
    """Return the published sigmas for ten steps, between them log-linearly for other numbers (Sabour et al. 2024)."""
    table = np.log(_ALIGNED_SDXL if schedule.sdxl else _ALIGNED)
    sigmas: Numbers = np.exp(np.interp(np.linspace(0, 1, steps + 1), np.linspace(0, 1, len(table)), table))[:-1]
    return sigmas


@dataclass(frozen=True)
class SigmaSchedule:
    """A sigma schedule's name in requests, and A1111's name of the schedule type; ``sigmas`` is None for the model's own."""

    name: str
    title: str
    sigmas: Sigmas | None
    aliases: tuple[str, ...] = ()


AUTOMATIC = SigmaSchedule("automatic", "Automatic", None)
SIGMA_SCHEDULES: dict[str, SigmaSchedule] = {
    s.name: s
    for s in (
        AUTOMATIC,
        # With discrete timesteps A1111's two are the same.
        SigmaSchedule("uniform", "Uniform", uniform, ("normal",)),
        SigmaSchedule("karras", "Karras", karras, ("ka",)),
        # A1111's polyexponential has an exponent, which it leaves at 1.
        SigmaSchedule("exponential", "Exponential", exponential, ("polyexponential",)),
        SigmaSchedule("beta", "Beta", beta),
        SigmaSchedule("sgm_uniform", "SGM Uniform", sgm_uniform),
        SigmaSchedule("simple", "Simple", simple),
        SigmaSchedule("ays", "Align Your Steps", align_your_steps),
    )
}
