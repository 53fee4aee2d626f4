"""Reads A1111's sampler and schedule type as a scheduler and its sigma schedule."""

from __future__ import annotations

from server.pipeline.infotext.parameters import Unused
from server.pipeline.schedulers import (
    AUTOMATIC,
    SCHEDULERS,
    SIGMA_SCHEDULES,
    SchedulerSpec,
    UnknownScheduler,
    find_scheduler,
    find_sigmas,
)
from server.pipeline.schedulers.sigma_schedules import SigmaSchedule

SAMPLER, SCHEDULE = "Sampler", "Schedule type"


def read_sampler(
    name: str | None, schedule: str | None, *, as_model_says: bool
) -> tuple[dict[str, str], tuple[Unused, ...]]:
    """Return the fields ``scheduler`` and ``sigmas``, as far as they are known, and what was not used.

    as_model_says: whether no schedule type, and Automatic, mean the model's own spacing, as in diffusers and here.
    """
    if name is None:
        sigmas, unused = _read_schedule(schedule)
        return ({} if sigmas is None else {"sigmas": sigmas.name}), unused
    try:
        scheduler, joined = find_scheduler(name)
    except UnknownScheduler:
        missing = Unused(SAMPLER, name, f"accepted: {', '.join(s.title for s in SCHEDULERS.values())}")
        return {}, (missing, *(() if schedule is None else (Unused(SCHEDULE, schedule, "its sampler is not used"),)))
    asked, unused = _read_schedule(schedule)
    if asked is not None and asked.name not in scheduler.sigma_schedules:
        unused = (Unused(SCHEDULE, str(schedule), f"the steps of {scheduler.title} are its own"),)
        asked = None
    named = [each.name for each in (asked, joined) if each not in (None, AUTOMATIC)]
    usual = AUTOMATIC.name if as_model_says else _usual_in_a1111(scheduler, schedule)
    return {"scheduler": scheduler.name, "sigmas": next(iter(named), usual)}, unused


def _read_schedule(schedule: str | None) -> tuple[SigmaSchedule | None, tuple[Unused, ...]]:
    try:
        return (None if schedule is None else find_sigmas(schedule)), ()
    except UnknownScheduler:
        titles = ", ".join(s.title for s in SIGMA_SCHEDULES.values())
        return None, (Unused(SCHEDULE, str(schedule), f"accepted: {titles}"),)


def _usual_in_a1111(scheduler: SchedulerSpec, schedule: str | None) -> str:
    """Return the sigma schedule that A1111 means where it names none.

    Version 1.9 and later name the type Automatic, which depends on the sampler. Earlier ones joined both names: a sampler's
    own name alone meant k-diffusion's levels, which are uniform.
    """
    usual = scheduler.a1111_sigmas
    return "uniform" if schedule is None and usual != AUTOMATIC.name else usual
