"""Schedulers, by the names people know them by.

Each is a class of its own module, built from a `NoiseSchedule` and a number of steps; see `Scheduler` for what it does.
They agree with diffusers' schedulers of the same configuration, and need NumPy alone: importing diffusers takes four
seconds, which a server's start does not have.
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

__all__ = ["SCHEDULERS", "NoiseSchedule", "Scheduler", "SchedulerSpec", "UnknownScheduler", "find_scheduler", "fitting"]


class UnknownScheduler(AnemoneError):
    """No scheduler has this name."""


@dataclass(frozen=True)
class SchedulerSpec:
    """A scheduler as requests name it, and as AUTOMATIC1111 titles it (``title`` and, apart, ``schedule_type``).

    from_pure_noise: the predictions with which it can start where no signal is left (zero terminal SNR). Noise is none
        of them: all of the input is noise there, and what a UNet errs by in saying so is taken for 4096 times as much
        of an image. Heun's and PNDM's methods begin by averaging the first two slopes, and what differs between them is
        then taken along all of the way from sigma 4096: of 20 steps, an image's brightness comes out 20 times too
        strong. The average of two velocities (PNDM's, where those are predicted) does no such thing.
    """

    name: str
    title: str
    schedule_type: str
    aliases: tuple[str, ...]
    make: Callable[[NoiseSchedule, int], Scheduler]
    from_pure_noise: tuple[str, ...] = ("v_prediction", "sample")

    def enough_timesteps(self, schedule: NoiseSchedule, steps: int) -> bool:
        """Return whether the schedule has a timestep of its own for every step, and for the end that DPM++ counts as one."""
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
    """Return the scheduler called ``name``, in any of its spellings; raises UnknownScheduler listing the names."""
    found = _BY_ALIAS.get(_plain(name))
    if found is None:
        raise UnknownScheduler(f"scheduler is {name!r}; accepted: {', '.join(SCHEDULERS)}")
    return found


def fitting(schedule: NoiseSchedule, steps: int) -> list[str]:
    """Return the schedulers that can start where so many steps of this schedule do."""
    return [
        s.name
        for s in SCHEDULERS.values()
        if schedule.prediction_type in s.from_pure_noise
        or not schedule.pure_noise_at(s.make(schedule, steps).timesteps[0])
    ]
