"""Jobs, as the store keeps them and clients see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from converter.progress import Progress
from server.events import Status
from server.pipeline.cost import Cost
from server.pipeline.request import JobRequest

Priority = Literal["high", "normal", "low"]
#: The most urgent first.
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")


@dataclass(frozen=True)
class Submission:
    """A request as a client submits it.

    cost: the request's cost (see `server.pipeline.cost`).
    attachments: the bytes of each attachment, by the name that the request gives it.
    client: who submits it; clients take turns, and keys and fingerprints are compared only within one client.
    key: the client's Idempotency-Key; a second submission with it is the same job.
    fingerprint: a hash of what the client sent, before defaults were filled in and a seed was drawn.
    retried: the client says that it has sent this before, without a key.
    """

    request: JobRequest
    cost: Cost
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    client: str = ""
    priority: Priority = "normal"
    key: str | None = None
    fingerprint: str | None = None
    retried: bool = False


@dataclass(frozen=True)
class JobImage:
    """A finished image of a job: its number, seed, and file name in the images folder; an enlarged image has no seed.

    flagged: whether the safety checker found something in it; it is blurred then.
    """

    index: int
    seed: int | None
    file: str
    flagged: bool = False


@dataclass(frozen=True)
class JobFailure:
    """The reason why a job failed: a code for programs and a message for people."""

    code: str
    message: str


def fraction_done(image: int, step: int, steps: int, images: int) -> float:
    """Return the fraction of a job's steps that are done, 0 to 1: ``step`` of ``steps`` of the image of this index."""
    return min(1.0, (image + step / max(1, steps)) / images)


@dataclass(frozen=True)
class Job:
    """A request and its state. Times are seconds since 1970, durations seconds.

    number: larger for every later job.
    request: None if what is stored cannot be read.
    notes: what was done to its inputs or images, in sentences.
    attempts: how many times it was started.
    steps_done, step_seconds: the denoising steps of the last attempt, and how long they took together.
    position: the number of jobs that run before it; None unless it is queued.
    eta: the estimated time until it ends, from former jobs' step times; None before the first job, or if this one has ended.
    paused: why jobs do not run now, and what to do; None while they do, or if it has ended.
    preparing: what is done before its first step: its model is merged with LoRAs, or loaded; None otherwise.
    image, step, steps: the image being made, its newest step, and its number of steps; None before the first step.
    """

    id: str
    number: int
    status: Status
    model: str
    priority: Priority
    request: JobRequest | None
    created: float
    started: float | None
    finished: float | None
    attempts: int
    steps_done: int
    step_seconds: float
    images: tuple[JobImage, ...]
    failure: JobFailure | None
    notes: tuple[str, ...] = ()
    position: int | None = None
    eta: float | None = None
    paused: str | None = None
    preparing: Progress | None = None
    image: int | None = None
    step: int | None = None
    steps: int | None = None

    @property
    def fraction(self) -> float:
        """The fraction of its steps, over all images, that are done, 0 to 1; 0 before the first."""
        if self.step is None or not self.steps or self.image is None or self.request is None:
            return 0.0
        return fraction_done(self.image, self.step, self.steps, self.request.images)
