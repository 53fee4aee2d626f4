"""What the HTTP process and the worker say to each other, over a pipe.

Commands go to the worker, events come back. The worker has one model loaded at a time. Where it was started with a model, it
first makes that ready (Preparing, then Ready or Unable); then it says which model is loaded (Loaded) and takes commands. A Run
whose model is another one switches (Loading, then Loaded), and so does Load; Unload lets a model go.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from server.pipeline.request import GenerationRequest


@dataclass(frozen=True)
class Run:
    """Make this job's images. ``attachments`` are what the request names."""

    job_id: str
    request: GenerationRequest
    attachments: dict[str, bytes]


@dataclass(frozen=True)
class Cancel:
    """Give this job up after the step it is in."""

    job_id: str


@dataclass(frozen=True)
class Load:
    """Load this model, for jobs to come, once what was sent before is done; answered by Loaded or LoadFailed."""

    model: str


@dataclass(frozen=True)
class Unload:
    """Let this model go; nothing if it is not the one that is loaded."""

    model: str


@dataclass(frozen=True)
class Stop:
    """Finish nothing, leave."""


@dataclass(frozen=True)
class Preparing:
    """Getting ready at the start: ``stage`` is downloading, converting, verifying or loading.

    network: the network it is at; the file, where it is downloading.
    done, total: bytes, or networks where it is loading.
    """

    stage: str
    network: str
    done: int
    total: int


@dataclass(frozen=True)
class Ready:
    """The model in ``folder``, which the worker was started with, is loaded."""

    folder: Path


@dataclass(frozen=True)
class Unable:
    """The model the worker was started with cannot be made ready, now or by trying again; the worker leaves."""

    message: str


@dataclass(frozen=True)
class Loading:
    """Loading ``model``: at ``network``, with ``done`` of ``total`` networks loaded."""

    model: str
    network: str
    done: int
    total: int


@dataclass(frozen=True)
class LoadFailed:
    """What Load asked for cannot be loaded; ``code`` and ``message`` say why, as a job's would that asked for it."""

    model: str
    code: str
    message: str


@dataclass(frozen=True)
class Loaded:
    """The model that is loaded now; None where none is."""

    model: str | None


@dataclass(frozen=True)
class Trying:
    """The worker is at a program's first load or prediction on a compute unit, and may die of it, until the note is gone.

    Where it does, ``note`` stays behind in the model folder and is the unit's verdict (see `converter.devices.trials.noted`).
    """

    note: Path


@dataclass(frozen=True)
class Progressed:
    """A step of a job is done: ``step`` (from 1) of ``total`` for image ``image`` (from 0).

    seconds: how long the step took.
    preview: what the image looks like now, as a small JPEG; None where there is none of this step.
    """

    job_id: str
    image: int
    step: int
    total: int
    seconds: float
    preview: bytes | None = None


@dataclass(frozen=True)
class Finished:
    """A image of a job, whole."""

    job_id: str
    image: int
    seed: int
    png: bytes


@dataclass(frozen=True)
class Ended:
    """A job is over: succeeded, failed (with a code and message), or cancelled.

    Codes: model_unavailable (its model is not there or cannot be loaded), not_enough_memory, bad_image,
    generation_failed, internal.
    """

    job_id: str
    status: str
    code: str | None = None
    message: str | None = None


Command = Run | Cancel | Load | Unload | Stop
Event = Preparing | Ready | Unable | Loading | LoadFailed | Loaded | Trying | Progressed | Finished | Ended
