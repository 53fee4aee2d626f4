"""A job as the store keeps it and clients see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
OPEN: tuple[Status, ...] = ("queued", "running")


@dataclass(frozen=True)
class JobImage:
    """A finished picture of a job: its number, seed, and file name in the images folder."""

    index: int
    seed: int
    file: str


@dataclass(frozen=True)
class JobFailure:
    """Why a job failed."""

    code: str
    message: str


@dataclass(frozen=True)
class Job:
    """A request and where it stands. Times are seconds since 1970.

    position: how many jobs go before it; None unless it is queued.
    image, step, steps: the picture being made and how far it is; None before the first step.
    """

    id: str
    status: Status
    request: dict[str, Any]
    created: float
    started: float | None
    finished: float | None
    attempts: int
    images: tuple[JobImage, ...]
    failure: JobFailure | None
    position: int | None = None
    image: int | None = None
    step: int | None = None
    steps: int | None = None
