"""Messages between the HTTP process and a worker.

Commands go to the worker, events come back. A worker starts with no model loaded (Loaded(None)) and has at most one. Load
loads one (Loading, then Loaded or LoadFailed), and so does a Run whose model is another one; Unload unloads it.

No message names a path: a model is named by its name and content, which mean the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from converter.progress import Progress
from server.pipeline.request import GenerationRequest


@dataclass(frozen=True)
class ModelRef:
    """A model by its name, and the hash of its content (see `InstalledModels.content_hash`)."""

    name: str
    content: str


@dataclass(frozen=True)
class Run:
    """Make this job's images with this model. ``attachments`` are what the request names."""

    job_id: str
    request: GenerationRequest
    model: ModelRef
    attachments: dict[str, bytes]


@dataclass(frozen=True)
class Cancel:
    """End this job after the step it is in."""

    job_id: str


@dataclass(frozen=True)
class Load:
    """Load this model once the commands before are done; answered by Loaded or LoadFailed."""

    model: ModelRef


@dataclass(frozen=True)
class Unload:
    """Unload the model of this name; does nothing if it is not loaded."""

    model: str


@dataclass(frozen=True)
class Stop:
    """Exit without finishing anything."""


@dataclass(frozen=True)
class Loading:
    """A model is being loaded."""

    model: str
    progress: Progress


@dataclass(frozen=True)
class LoadFailed:
    """What Load asked for cannot be loaded. ``code`` is that of a job that fails for this; ``reason`` names no model."""

    model: str
    code: str
    reason: str


@dataclass(frozen=True)
class Loaded:
    """The name of the model that is loaded now; None if none is."""

    model: str | None


@dataclass(frozen=True)
class Trying:
    """The worker tries a program for the first time on a compute unit, and may die of it, until the note is gone.

    note: the name of a file in the model's folder. If the worker dies, it stays there and is the unit's verdict (see
        `converter.devices.trials.noted`).
    """

    model: str
    note: str


@dataclass(frozen=True)
class Progressed:
    """A step of a job is done: ``step`` (from 1) of ``total`` for image ``image`` (from 0).

    seconds: how long the step took.
    preview: what the image looks like now, as a small JPEG; None if this step has none.
    """

    job_id: str
    image: int
    step: int
    total: int
    seconds: float
    preview: bytes | None = None


@dataclass(frozen=True)
class Finished:
    """An image of a job is done."""

    job_id: str
    image: int
    seed: int
    png: bytes


@dataclass(frozen=True)
class Ended:
    """A job has ended; a failed one with a code and message.

    Codes: model_unavailable (its model is not there or cannot be loaded), not_enough_memory, bad_image,
    generation_failed, internal.
    """

    job_id: str
    status: Literal["succeeded", "failed", "cancelled"]
    code: str | None = None
    message: str | None = None


Command = Run | Cancel | Load | Unload | Stop
Event = Loading | LoadFailed | Loaded | Trying | Progressed | Finished | Ended
