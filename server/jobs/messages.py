"""Messages between the HTTP process and a worker.

The HTTP process sends commands, the worker sends events. A worker starts with no model loaded (Loaded(None)) and has at
most one. Load loads a model (Loading, then Loaded or LoadFailed), and so does a Run of another model; Unload unloads it.

No message contains a path: messages identify a model by name and content, which mean the same on every machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from converter.progress import Progress
from server.pipeline.request import Embedding, GenerationRequest, JobRequest, Lora

#: The code of LoadFailed and Ended for a model that is damaged.
DAMAGED = "model_damaged"
#: The code of Ended for an image that the safety checker refused.
UNSAFE = "unsafe_image"
#: The code of a job for whose merging the disk has no room.
DISK_FULL = "disk_full"
#: The codes of jobs whose LoRAs and embeddings are other files by now, or cannot be merged into the model.
ADDON_CHANGED, ADDON_MISFIT = "addon_changed", "addon_misfit"


@dataclass(frozen=True)
class ModelRef:
    """A model's name and the hash of its content (see `InstalledModels.content_hash`), and what is merged into it."""

    name: str
    content: str
    loras: tuple[Lora, ...] = ()
    embeddings: tuple[Embedding, ...] = ()

    @property
    def is_merged(self) -> bool:
        """Whether something is merged into it."""
        return bool(self.loras or self.embeddings)

    @property
    def words(self) -> dict[str, tuple[str, ...]]:
        """The words that stand for the embeddings in prompts, by name."""
        return {each.name: each.words for each in self.embeddings}

    def merged_for(self, request: GenerationRequest) -> ModelRef:
        """Return the model with the request's LoRAs and embeddings."""
        loras = tuple(lora for lora in request.loras if lora.has_effect)
        return replace(self, loras=loras, embeddings=request.embeddings)


@dataclass(frozen=True)
class Run:
    """Make this job's images. ``attachments`` are by the names that the request gives them.

    model: the model to make them with, which is loaded if it is not; None if the request needs none, and the loaded model
        stays.
    refiner: the model that takes over the last steps; None if the request has none.
    """

    job_id: str
    request: JobRequest
    model: ModelRef | None
    attachments: dict[str, bytes]
    refiner: ModelRef | None = None


@dataclass(frozen=True)
class Cancel:
    """Cancel this job after the present call of a network."""

    job_id: str


@dataclass(frozen=True)
class Load:
    """Load this model after the commands before; the worker answers with Loaded or LoadFailed."""

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
    """The model of a Load cannot be loaded. ``code`` is as in Ended; ``reason`` does not name the model."""

    model: str
    code: str
    reason: str


@dataclass(frozen=True)
class Loaded:
    """The name of the model that is loaded now; None if no model is."""

    model: str | None


@dataclass(frozen=True)
class Trying:
    """The worker tries a program for the first time on a compute unit, and may die of it.

    note: a file, relative to the model's folder: in it, or in that of the model with LoRAs merged in. The worker deletes it
        after the try. If the worker dies, the file stays and marks the unit as failed (see `converter.devices.trials.noted`).
    """

    model: str
    note: str

    def file(self, folder: Path) -> Path:
        """Return the note's path; ``folder`` is the model's, which may be a link to another place."""
        return Path(os.path.normpath(folder / self.note))


@dataclass(frozen=True)
class Prepared:
    """What a job waits for before its first step: its model is merged with LoRAs, or loaded."""

    job_id: str
    progress: Progress


@dataclass(frozen=True)
class Progressed:
    """A step of a job has finished: ``step`` (from 1) of ``total`` of image ``image`` (from 0).

    seconds: how long the step took. calls: of the network, one for each window.
    preview: a small JPEG of the image after this step; None if this step has none.
    """

    job_id: str
    image: int
    step: int
    total: int
    seconds: float
    preview: bytes | None = None
    calls: int = 1


@dataclass(frozen=True)
class Finished:
    """An image of a job has finished; an enlarged one has no seed.

    flagged: the safety checker found something in it, and it is blurred.
    """

    job_id: str
    image: int
    seed: int | None
    png: bytes
    flagged: bool = False


@dataclass(frozen=True)
class Noted:
    """Something was done to a job's inputs, or to its images, that its client should know; ``text`` is a sentence."""

    job_id: str
    text: str


@dataclass(frozen=True)
class Ended:
    """A job has ended; a failed job has a code and a message.

    Codes: model_unavailable (its model is not installed or cannot be loaded), model_damaged (a file of it is missing or has
    changed), addon_changed (a LoRA's or embedding's file is gone or another), addon_misfit (it cannot be merged into the
    model), disk_full, not_enough_memory, bad_image, unsafe_image, generation_failed, internal.
    """

    job_id: str
    status: Literal["succeeded", "failed", "cancelled"]
    code: str | None = None
    message: str | None = None


Command = Run | Cancel | Load | Unload | Stop
Event = Loading | LoadFailed | Loaded | Trying | Prepared | Progressed | Noted | Finished | Ended
