"""The sampler and the schedule type that a client names."""

from __future__ import annotations

from dataclasses import dataclass

from server.errors import ApiError, quoted
from server.pipeline.schedulers import AUTOMATIC, SCHEDULERS, UnknownScheduler, find_scheduler, find_sigmas


@dataclass(frozen=True)
class Sampling:
    """Our names of both, and notes on what was not used; ``scheduler`` is None for the model's own."""

    scheduler: str | None
    sigmas: str
    notes: tuple[str, ...] = ()


def sampling_of(key: str, name: str | None, schedule: str | None, usual: str) -> Sampling:
    """Return what a sampler's name, sent as ``key``, and a schedule type's mean; ``usual``: the model's own scheduler.

    The schedule in a joined name ("DPM++ 2M Karras") goes before the schedule type. An unknown type, or one that does not
    apply, is noted; raises ApiError 400 for an unknown sampler, as AUTOMATIC1111 does.
    """
    notes: list[str] = []
    try:
        spec, joined = find_scheduler(name or usual)
    except UnknownScheduler as unknown:
        accepted = ", ".join(each.title for each in SCHEDULERS.values())
        message = f"Sampler not found: {key} is {quoted(name)}; accepted: {accepted}"
        raise ApiError(400, "unknown_sampler", message, field=key, value=name, accepted=accepted) from unknown
    sigmas = AUTOMATIC
    if schedule:
        try:
            sigmas = find_sigmas(schedule)
        except UnknownScheduler:
            notes.append(f"scheduler {quoted(schedule)} is not known here: the sampler's usual schedule was used")
    if joined is not AUTOMATIC and name:
        if sigmas not in (AUTOMATIC, joined):
            notes.append(f"scheduler {quoted(schedule)} was not used: {key} {quoted(name)} names another schedule")
        sigmas = joined
    if sigmas.name not in spec.sigma_schedules:
        notes.append(f"scheduler {quoted(schedule)} was not used: {spec.title} has a schedule of its own")
        sigmas = AUTOMATIC
    return Sampling(spec.name if name else None, sigmas.name, tuple(notes))
