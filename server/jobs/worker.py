"""The worker: a process of its own that loads a model and runs one job at a time.

Whatever happens in it (a crash, the out-of-memory killer, a five-minute Neural Engine compile), the HTTP process goes on
answering. The HTTP process does not import this module.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, Protocol

from converter.errors import AnemoneError, DamagedModel, MemoryShortage, SpaceError
from converter.manifest import Manifest
from converter.progress import OnProgress, Progress
from server.faults import fault_of
from server.jobs.messages import (
    ADDON_CHANGED,
    ADDON_MISFIT,
    DAMAGED,
    DISK_FULL,
    UNSAFE,
    Cancel,
    Command,
    Ended,
    Finished,
    Load,
    Loaded,
    LoadFailed,
    Loading,
    ModelRef,
    Noted,
    Prepared,
    Progressed,
    Run,
    Trying,
    Unload,
)
from server.pipeline.decoding.file import ImageError
from server.pipeline.denoising.denoiser import GeneratedImage, Note, Step
from server.pipeline.finished import finished_png, upscaled_png
from server.pipeline.networks import Call
from server.pipeline.request import GenerationRequest, UpscaleRequest
from server.pipeline.safety import UnsafeImage
from server.pipeline.tasks.upscale import OpenUpscaler, TileStep, upscale

log = logging.getLogger("anemone.worker")

#: At most one message in so many seconds on how far a model's merging or loading is; a merge tells it for each weight.
_PROGRESS_SECONDS = 0.2
#: At most one preview in so many seconds: a preview takes a few milliseconds, which would slow down fast steps.
_PREVIEW_SECONDS = 0.5


class Pipeline(Protocol):
    """A loaded model, as far as the worker needs it."""

    @property
    def manifest(self) -> Manifest:
        """The model's manifest."""

    def generate(
        self, request: GenerationRequest, attachments: Mapping[str, bytes], refiner: Any = None
    ) -> Generator[Step | Note | Call | GeneratedImage, None, None]:
        """Yield the steps, calls, notes and images of a request. ``refiner`` is the pipeline of its refiner, of the same class."""

    def preview(self, step: Step, request: GenerationRequest) -> bytes | None:
        """Return a small JPEG of a step; None if the model has no previews."""


#: Loads an installed model. It calls the second argument with the progress, and the third with the name of the note before it
#: tries a compute unit that may kill the process (see `Trying`). The fourth is None, or the pipeline of the same class that
#: a refiner shares memory with; its networks are loaded when they are used. Raises AnemoneError with the reason if loading
#: fails.
OpenModel = Callable[[ModelRef, OnProgress, Callable[[str], None], Any], Pipeline]


#: Returns a message for clients: without the paths of this machine.
TellWithoutPaths = Callable[[str], str]


class AddonChanged(AnemoneError):
    """The file of a job's LoRA or embedding is gone, or is another than when the job was accepted."""


class AddonMisfit(AnemoneError):
    """A job's LoRAs and embeddings cannot be merged into its model."""


class _GivenUp(Exception):
    """The server is stopping, or the job was cancelled."""


class _Unavailable(AnemoneError):
    """A model cannot be loaded; ``code`` is as in Ended, the message does not name the model."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Worker:
    def __init__(
        self,
        pipe: Connection,
        open_model: OpenModel,
        open_upscaler: OpenUpscaler,
        previews: bool,
        mark_images: bool,
        without_paths: TellWithoutPaths,
    ) -> None:
        self._pipe, self._open, self._previews, self._mark_images = pipe, open_model, previews, mark_images
        self._open_upscaler, self._without_paths = open_upscaler, without_paths
        self._waiting: deque[Run | Load | Unload] = deque()
        self._cancelled: set[str] = set()
        self._stopped = False
        self._model: ModelRef | None = None
        self._pipeline: Pipeline | None = None
        self._refiner: tuple[ModelRef, Pipeline] | None = None

    def _take(self, command: Command) -> None:
        if isinstance(command, Run | Load | Unload):
            self._waiting.append(command)
        elif isinstance(command, Cancel):
            self._cancelled.add(command.job_id)
        else:
            self._stopped = True

    def _listen(self, job_id: str | None) -> None:
        """Read the commands that have arrived, without waiting; raises _GivenUp if they end this job."""
        while self._pipe.poll():
            self._take(self._pipe.recv())
        if self._stopped or job_id in self._cancelled:
            raise _GivenUp

    def _set_loaded(self, model: ModelRef | None, pipeline: Pipeline | None) -> None:
        self._model, self._pipeline, self._refiner = model, pipeline, None
        self._pipe.send(Loaded(model.name if model else None))

    def serve(self) -> None:
        """Carry out commands until Stop."""
        self._set_loaded(None, None)
        while not self._stopped:
            if not self._waiting:
                self._take(self._pipe.recv())
                continue
            command = self._waiting.popleft()
            if isinstance(command, Run):
                self._run(command)
            elif isinstance(command, Load):
                self._load(command.model)
            elif self._model is not None and command.model == self._model.name:
                self._set_loaded(None, None)

    def _require(self, model: ModelRef, job_id: str | None) -> Pipeline:
        """Return the model's pipeline; load it first if it is not loaded. Raises _Unavailable, and _GivenUp as `_listen` does."""
        if self._pipeline is not None and model == self._model:
            return self._pipeline
        if self._pipeline is not None:
            # Unload first: memory may not suffice for both models.
            self._set_loaded(None, None)

        told, stage = 0.0, ("", "")

        def on_progress(progress: Progress) -> None:
            nonlocal told, stage
            self._listen(job_id)
            now = time.monotonic()
            if (progress.stage, progress.item) != stage or now - told >= _PROGRESS_SECONDS:
                told, stage = now, (progress.stage, progress.item)
                self._pipe.send(Loading(model.name, progress))
                if job_id is not None:
                    self._pipe.send(Prepared(job_id, progress))

        pipeline = self._opened(model, on_progress, None)
        self._set_loaded(model, pipeline)
        return pipeline

    def _require_refiner(self, model: ModelRef, base: Pipeline, job_id: str) -> Pipeline:
        """Return the refiner's pipeline beside the loaded model's. Raises as `_require` does."""
        if self._refiner is None or self._refiner[0] != model:
            self._refiner = None
            self._refiner = model, self._opened(model, lambda progress: self._listen(job_id), base)
        return self._refiner[1]

    def _opened(self, model: ModelRef, on_progress: OnProgress, beside: Pipeline | None) -> Pipeline:
        def trying(note: str) -> None:
            self._pipe.send(Trying(model.name, note))

        try:
            return self._open(model, on_progress, trying, beside)
        except (MemoryError, MemoryShortage) as error:
            raise _Unavailable("not_enough_memory", str(error)) from error
        except (_GivenUp, EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except DamagedModel as error:
            log.error("%s", error)
            raise _Unavailable(DAMAGED, f"it is damaged: {error.wrong}") from error
        except AddonChanged as error:
            raise _Unavailable(ADDON_CHANGED, str(error)) from error
        except AddonMisfit as error:
            raise _Unavailable(ADDON_MISFIT, str(error)) from error
        except SpaceError as error:
            raise _Unavailable(DISK_FULL, str(error)) from error
        except AnemoneError as error:
            raise _Unavailable("model_unavailable", str(error)) from error
        except Exception as error:
            if (fault := fault_of(error)) is not None:
                raise _Unavailable(fault.code, fault.message) from error
            log.exception("%s cannot be loaded", model.name)
            raise _Unavailable("model_unavailable", f"{type(error).__name__}: {error}") from error

    def _load(self, model: ModelRef) -> None:
        if model == self._model:
            self._pipe.send(Loaded(model.name))
            return
        try:
            self._require(model, None)
        except _Unavailable as error:
            self._pipe.send(LoadFailed(model.name, error.code, self._without_paths(str(error))))
        except _GivenUp:
            return

    def _run(self, run: Run) -> None:
        try:
            self._listen(run.job_id)
            self._make(run)
            ended = Ended(run.job_id, "succeeded")
        except _GivenUp:
            ended = Ended(run.job_id, "cancelled")
        except _Unavailable as error:
            # What is wrong with a LoRA or an embedding says which, and nothing is wrong with the model.
            about = "" if error.code in (ADDON_CHANGED, ADDON_MISFIT) else f"{run.request.model} cannot be loaded: "
            ended = Ended(run.job_id, "failed", error.code, f"{about}{error}")
        except (MemoryError, MemoryShortage) as error:
            ended = Ended(run.job_id, "failed", "not_enough_memory", str(error))
        except ImageError as error:
            ended = Ended(run.job_id, "failed", "bad_image", str(error))
        except UnsafeImage as error:
            ended = Ended(run.job_id, "failed", UNSAFE, str(error))
        except AnemoneError as error:
            ended = Ended(run.job_id, "failed", "generation_failed", str(error))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise  # the HTTP process is gone, and the job is not to blame
        except Exception as error:
            log.exception("job %s failed", run.job_id)
            ended = Ended(run.job_id, "failed", "internal", f"{type(error).__name__}: {error}")
        if not self._stopped:
            # A job that was interrupted by the server's stop has not ended.
            message = None if ended.message is None else self._without_paths(ended.message)
            self._pipe.send(replace(ended, message=message))
        self._cancelled.discard(run.job_id)

    def _make(self, run: Run) -> None:
        request = run.request
        if isinstance(request, UpscaleRequest):
            self._upscale(request, run)
        elif run.model is not None:
            self._generate(self._require(run.model, run.job_id), request, run)

    def _upscale(self, request: UpscaleRequest, run: Run) -> None:
        """Enlarge the image; the loaded model stays."""
        for text in request.notes:
            self._pipe.send(Noted(run.job_id, text))
        with closing(upscale(request, run.attachments, self._open_upscaler)) as events:
            for event in events:
                self._listen(run.job_id)
                if isinstance(event, TileStep):
                    self._pipe.send(Progressed(run.job_id, 0, event.index, event.total, event.seconds))
                else:
                    png = upscaled_png(event, request, mark=self._mark_images)
                    self._pipe.send(Finished(run.job_id, 0, None, png))

    def _generate(self, model: Pipeline, request: GenerationRequest, run: Run) -> None:
        last_preview, calls = time.monotonic(), 0
        refiner = None if run.refiner is None else self._require_refiner(run.refiner, model, run.job_id)
        with closing(model.generate(request, run.attachments, refiner)) as events:
            for event in events:
                self._listen(run.job_id)
                if isinstance(event, GeneratedImage):
                    png = finished_png(event, request, model.manifest, mark=self._mark_images)
                    self._pipe.send(Finished(run.job_id, event.index, event.seeds.seed, png, event.flagged))
                    continue
                if isinstance(event, Call):
                    calls += 1
                    continue
                if isinstance(event, Note):
                    self._pipe.send(Noted(run.job_id, event.text))
                    continue
                preview = None
                if self._previews and time.monotonic() - last_preview >= _PREVIEW_SECONDS:
                    preview, last_preview = model.preview(event, request), time.monotonic()
                # Pipelines without windows need not yield calls.
                step = event.index, event.total, event.seconds
                self._pipe.send(Progressed(run.job_id, event.image, *step, preview, max(1, calls)))
                calls = 0


def work(
    pipe: Connection,
    open_model: OpenModel,
    open_upscaler: OpenUpscaler,
    *,
    previews: bool = True,
    mark_images: bool = True,
    without_paths: TellWithoutPaths = str,
) -> None:
    """Carry out commands until Stop, or until the other end of the pipe is closed; the worker process's main function."""
    try:
        _Worker(pipe, open_model, open_upscaler, previews, mark_images, without_paths).serve()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the HTTP process is gone
