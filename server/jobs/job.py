"""A job as the store keeps it and clients see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from server.events import Status
from server.pipeline.cost import Cost
from server.pipeline.request import GenerationRequest

Priority = Literal["high", "normal", "low"]
#: The first goes first.
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")


@dataclass(frozen=True)
class Submission:
    """A request as a client submits it.

    cost: what the request costs (see `server.pipeline.cost`).
    attachments: what the request names, by these names.
    client: who asks; clients take turns, and a key or fingerprint means something only within one client.
    key: the client's Idempotency-Key; a second submission with it is the same job.
    fingerprint: a hash of what the client sent, before defaults were filled in and a seed drawn.
    retried: the client says that it has sent this before, though under no key.
    """

    request: GenerationRequest
    cost: Cost
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    client: str = ""
    priority: Priority = "normal"
    key: str | None = None
    fingerprint: str | None = None
    retried: bool = False


@dataclass(frozen=True)
class JobImage:
    """A finished image of a job: its number, seed, and file name in the images folder."""

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
    """A request and where it stands. Times are seconds since 1970, durations seconds.

    number: larger for every later job.
    attempts: how often it was started.
    steps_done, step_seconds: denoising steps of the last attempt, and what they took together.
    position: how many jobs go before it; None unless it is queued.
    eta: seconds until it ends, by what such jobs took before; None if nothing is known, or it has ended.
    image, step, steps: the image being made and how far it is; None before the first step.
    """

    id: str
    number: int
    status: Status
    model: str
    priority: Priority
    request: GenerationRequest
    created: float
    started: float | None
    finished: float | None
    attempts: int
    steps_done: int
    step_seconds: float
    images: tuple[JobImage, ...]
    failure: JobFailure | None
    position: int | None = None
    eta: float | None = None
    image: int | None = None
    step: int | None = None
    steps: int | None = None
