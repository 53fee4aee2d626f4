"""What the HTTP process and the worker say to each other, over a pipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from server.jobs.request import GenerationRequest


@dataclass(frozen=True)
class Run:
    """Make this job's pictures."""

    job_id: str
    request: GenerationRequest


@dataclass(frozen=True)
class Cancel:
    """Give this job up after the step it is in."""

    job_id: str


@dataclass(frozen=True)
class Stop:
    """Finish nothing, leave."""


@dataclass(frozen=True)
class Preparing:
    """Getting ready: ``stage`` is converting, verifying or loading, with the network it is at."""

    stage: str
    network: str
    done: int
    total: int


@dataclass(frozen=True)
class Ready:
    """The model in ``folder`` is loaded."""

    folder: Path


@dataclass(frozen=True)
class Unable:
    """The model cannot be made ready, now or by trying again."""

    message: str


@dataclass(frozen=True)
class Progressed:
    """A step of a job is done: of ``total`` for picture ``image`` (from 0)."""

    job_id: str
    image: int
    step: int
    total: int


@dataclass(frozen=True)
class Finished:
    """A picture of a job, whole."""

    job_id: str
    image: int
    seed: int
    png: bytes


@dataclass(frozen=True)
class Ended:
    """A job is over: succeeded, failed (with a code and message), or cancelled."""

    job_id: str
    status: str
    code: str | None = None
    message: str | None = None


Order = Run | Cancel | Stop
Event = Preparing | Ready | Unable | Progressed | Finished | Ended
