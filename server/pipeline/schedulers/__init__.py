"""Schedulers by name.

Each is a class made from a `NoiseSchedule`, a number of steps and, where noise levels can be chosen, a sigma schedule;
`Scheduler` describes its methods. They agree with diffusers' schedulers of the same configuration, and need only NumPy:
importing one of diffusers' takes 1.8 to 2.7 s of processor time and 89 to 144 MB beside PyTorch, and the server's process,
which counts a request's calls of the network, imports neither.
"""

from __future__ import annotations

from server.pipeline.schedulers.names import (
    SCHEDULERS,
    SchedulerSpec,
    UnknownScheduler,
    find_scheduler,
    find_sigmas,
    usable_schedulers,
)
from server.pipeline.schedulers.schedule import NoiseSchedule, Scheduler
from server.pipeline.schedulers.sigma_schedules import AUTOMATIC, SIGMA_SCHEDULES

__all__ = [
    "AUTOMATIC",
    "SCHEDULERS",
    "SIGMA_SCHEDULES",
    "NoiseSchedule",
    "Scheduler",
    "SchedulerSpec",
    "UnknownScheduler",
    "find_scheduler",
    "find_sigmas",
    "usable_schedulers",
]
