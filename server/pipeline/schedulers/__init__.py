"""Schedulers by name.

Each is a class made from a `NoiseSchedule` and a number of steps; `Scheduler` describes its methods. They agree with
diffusers' schedulers of the same configuration, and need only NumPy: importing diffusers takes four seconds, too long for
the start of a server.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from converter.errors import AnemoneError
from server.pipeline.schedulers.ddim import DDIM
from server.pipeline.schedulers.dpm import DPMSolver
from server.pipeline.schedulers.euler import Euler, EulerAncestral
from server.pipeline.schedulers.heun import Heun
from server.pipeline.schedulers.lcm import LCM
from server.pipeline.schedulers.lms import LMS
from server.pipeline.schedulers.pndm import PNDM
from server.pipeline.schedulers.schedule import NoiseSchedule, Scheduler

__all__ = [
    "SCHEDULERS",
    "NoiseSchedule",
    "Scheduler",
    "SchedulerSpec",
    "UnknownScheduler",
    "find_scheduler",
    "usable_schedulers",
]


class UnknownScheduler(AnemoneError):
    """No scheduler has this name."""


@dataclass(frozen=True)
class SchedulerSpec:
    """A scheduler's name in requests, and its names in AUTOMATIC1111 (``title`` and ``schedule_type``).

    from_pure_noise: the prediction types with which it can start where no signal is left (zero terminal SNR). "epsilon"
        never is one: the whole input is noise there, and the UNet's error in predicting it is multiplied by 4096 in the
        image. Heun's and PNDM's methods begin by averaging the first two slopes, whose difference then counts over the
        whole way from sigma 4096: with 20 steps, an image's brightness becomes 20 times too strong. Averaging two
        velocities (PNDM, if the model predicts them) does not have this effect.
    """

    name: str
    title: str
    schedule_type: str
    aliases: tuple[str, ...]
    make: Callable[[NoiseSchedule, int], Scheduler]
    from_pure_noise: tuple[str, ...] = ("v_prediction", "sample")

    def enough_timesteps(self, schedule: NoiseSchedule, steps: int) -> bool:
        """Return whether the schedule has a separate timestep for every step, and for the end, which DPM++ counts as one."""
        count = schedule.num_train_timesteps
        return steps < count and self.make(schedule, steps).timesteps[0] < count


SCHEDULERS: dict[str, SchedulerSpec] = {
    s.name: s
    for s in (
        SchedulerSpec("euler", "Euler", "Automatic", ("k_euler", "eulerdiscrete"), Euler),
        SchedulerSpec(
            "euler_a", "Euler a", "Automatic", ("k_euler_a", "euler_ancestral", "k_euler_ancestral"), EulerAncestral
        ),
        SchedulerSpec("dpm++_2m", "DPM++ 2M", "Automatic", ("dpmpp_2m", "k_dpmpp_2m", "dpmsolver++"), DPMSolver),
        SchedulerSpec(
            "dpm++_2m_karras",
            "DPM++ 2M",
            "Karras",
            ("dpmpp_2m_karras", "k_dpmpp_2m_ka", "dpm++ 2m karras"),
            partial(DPMSolver, karras=True),
        ),
        SchedulerSpec("heun", "Heun", "Automatic", ("k_heun",), Heun, from_pure_noise=()),
        SchedulerSpec("lms", "LMS", "Automatic", ("k_lms",), LMS),
        SchedulerSpec("ddim", "DDIM", "Automatic", (), DDIM),
        SchedulerSpec("pndm", "PLMS", "Automatic", ("plms",), PNDM, from_pure_noise=("v_prediction",)),
        SchedulerSpec("lcm", "LCM", "Automatic", (), LCM),
    )
}


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c not in " _-")


_BY_ALIAS = {
    _plain(alias): s
    for s in reversed(SCHEDULERS.values())
    for alias in (s.name, f"{s.title} {s.schedule_type}", s.title, *s.aliases)
}


def find_scheduler(name: str) -> SchedulerSpec:
    """Return the scheduler of this name or alias, ignoring case, spaces, ``_`` and ``-``.

    Raises UnknownScheduler, which lists the names.
    """
    spec = _BY_ALIAS.get(_plain(name))
    if spec is None:
        raise UnknownScheduler(f"scheduler is {name!r}; accepted: {', '.join(SCHEDULERS)}")
    return spec


def usable_schedulers(schedule: NoiseSchedule, steps: int) -> list[str]:
    """Return the names of the schedulers that can start at the first of so many steps of this schedule."""
    return [
        s.name
        for s in SCHEDULERS.values()
        if schedule.prediction_type in s.from_pure_noise
        or not schedule.pure_noise_at(s.make(schedule, steps).timesteps[0])
    ]
