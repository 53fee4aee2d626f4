"""The worker: a process of its own that has a model loaded and does one job at a time.

Whatever happens here (a crash, the out-of-memory killer, a five-minute Neural Engine compile) the HTTP process goes on
answering; and nothing here is imported there.
"""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from converter.errors import AnemoneError, MemoryShortage
from converter.folder import Manifest, ModelFolder
from converter.runtime import on_core_ml
from converter.sources.snapshot import short_name
from server.jobs.messages import (
    Cancel,
    Command,
    Ended,
    Finished,
    Load,
    Loaded,
    LoadFailed,
    Loading,
    Preparing,
    Progressed,
    Ready,
    Run,
    Trying,
    Unable,
    Unload,
)
from server.jobs.start import ModelChoice
from server.models.installed import InstalledModels
from server.models.memory import memory_budget
from server.pipeline.denoiser import GeneratedImage, Step
from server.pipeline.images import ImageError, encode_png
from server.pipeline.infotext import write_infotext
from server.pipeline.request import GenerationRequest

if TYPE_CHECKING:
    from server.pipeline.stable_diffusion import StableDiffusion

log = logging.getLogger("anemone.worker")
#: At most one preview in so many seconds: making one takes a few milliseconds, which fast steps would feel.
_PREVIEW_SECONDS = 0.5


class Pipeline(Protocol):
    """What the worker needs of a loaded model."""

    @property
    def manifest(self) -> Manifest:
        """The model's manifest."""

    def generate(self, request: GenerationRequest, attachments: Mapping[str, bytes]) -> Iterator[Step | GeneratedImage]:
        """Yield the steps and images of a request."""

    def preview(self, step: Step, request: GenerationRequest) -> bytes | None:
        """A small JPEG of a step, where there can be one."""


#: Hears what may kill the process, while a model is loaded and after.
Warn = Callable[[Trying], None]
#: Makes the model to begin with ready, saying how far it is; returns it with its folder.
Prepare = Callable[[ModelChoice, Callable[[Preparing], None], Warn], tuple[Pipeline, Path]]
#: Loads an installed model by name, saying at which network it is, how many are loaded, and how many there are.
Open = Callable[[ModelChoice, str, Callable[[str, int, int], None], Warn], Pipeline]


def _model(folder: ModelFolder, choice: ModelChoice, warn: Warn) -> StableDiffusion:
    # PyTorch comes with these, seconds that tests' pipelines need not.
    from converter.devices.trials import Trials
    from server.pipeline.networks import load_package
    from server.pipeline.stable_diffusion import StableDiffusion

    budget, loader = memory_budget(choice.memory_budget_gb), partial(load_package, precision=choice.precision)
    trials = None
    if on_core_ml(choice.precision):
        trials = Trials(folder, choice.compute_units, lambda note: warn(Trying(note)))
    return StableDiffusion(folder, choice.compute_units, loader, memory_budget=budget, trials=trials)


def prepare_model(
    choice: ModelChoice, progress: Callable[[Preparing], None], warn: Warn = lambda trying: None
) -> tuple[Pipeline, Path]:
    """Download and convert the choice's source if need be, and load it."""
    from server.models.library import ready_model

    assert choice.source is not None
    folder = ready_model(
        choice.source,
        choice.data_dir,
        lambda p: progress(Preparing(p.stage, p.item, p.done, p.total)),
    )
    model = _model(folder, choice, warn)
    model.load(lambda p: progress(Preparing(p.stage, p.item, p.done, p.total)))
    return model, folder.path


def open_model(choice: ModelChoice, name: str, progress: Callable[[str, int, int], None], warn: Warn) -> Pipeline:
    """Load the installed model called ``name``; raises AnemoneError saying why it cannot be."""
    model = _model(ModelFolder.open(InstalledModels(choice.data_dir, choice.extra).folder(name)), choice, warn)
    model.load(lambda p: progress(p.item, p.done, p.total))
    return model


class _GivenUp(Exception):
    """What is being done is not wanted any more."""


class _Unavailable(AnemoneError):
    """A model cannot be loaded; ``code`` is a job's that asked for it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Worker:
    def __init__(self, pipe: Connection, choice: ModelChoice, open_model: Open) -> None:
        self._pipe, self._choice, self._open = pipe, choice, open_model
        self._waiting: deque[Run | Load | Unload] = deque()
        self._cancelled: set[str] = set()
        self._stopped = False
        self._name: str | None = None
        self._model: Pipeline | None = None

    def _take(self, command: Command) -> None:
        if isinstance(command, Run | Load | Unload):
            self._waiting.append(command)
        elif isinstance(command, Cancel):
            self._cancelled.add(command.job_id)
        else:
            self._stopped = True

    def _listen(self, job_id: str | None) -> None:
        """Take whatever commands have come, without waiting; raises _GivenUp where they end the job that is being done."""
        while self._pipe.poll():
            self._take(self._pipe.recv())
        if self._stopped or job_id in self._cancelled:
            raise _GivenUp

    def _set_loaded(self, name: str | None, model: Pipeline | None) -> None:
        self._name, self._model = name, model
        self._pipe.send(Loaded(name))

    def begin(self, prepare: Prepare) -> bool:
        """Load the model to begin with; whether that worked."""
        if self._choice.source is None:
            self._set_loaded(None, None)
            return True
        try:
            model, folder = prepare(self._choice, self._pipe.send, self._pipe.send)
        except (AnemoneError, ValueError) as error:
            self._pipe.send(Unable(str(error)))
            return False
        self._pipe.send(Ready(folder))
        self._set_loaded(short_name(folder), model)  # as it is installed, whatever its manifest calls it
        return True

    def serve(self) -> None:
        """Do what is commanded until told to stop."""
        while not self._stopped:
            if not self._waiting:
                self._take(self._pipe.recv())
                continue
            command = self._waiting.popleft()
            if isinstance(command, Run):
                self._run(command)
            elif isinstance(command, Load):
                self._load(command.model)
            elif command.model == self._name:
                self._set_loaded(None, None)

    def _loaded_pipeline(self, name: str, job_id: str | None) -> Pipeline:
        """The model called ``name``, loaded if it was not; raises _Unavailable, and _GivenUp as `_listen` does."""
        if self._model is not None and name == self._name:
            return self._model
        if self._model is not None:
            # Before the other is loaded: there may be no room for both.
            self._set_loaded(None, None)

        def progress(network: str, done: int, total: int) -> None:
            self._pipe.send(Loading(name, network, done, total))
            self._listen(job_id)

        try:
            model = self._open(self._choice, name, progress, self._pipe.send)
        except (MemoryError, MemoryShortage) as error:
            raise _Unavailable("not_enough_memory", f"{name} cannot be loaded: {error}") from error
        except _GivenUp:
            raise
        except AnemoneError as error:
            raise _Unavailable("model_unavailable", f"{name} cannot be loaded: {error}") from error
        except Exception as error:
            log.exception("%s cannot be loaded", name)
            raise _Unavailable(
                "model_unavailable", f"{name} cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        self._set_loaded(name, model)
        return model

    def _load(self, name: str) -> None:
        if name == self._name:
            self._pipe.send(Loaded(name))
            return
        try:
            self._loaded_pipeline(name, None)
        except _Unavailable as error:
            self._pipe.send(LoadFailed(name, error.code, str(error)))
        except _GivenUp:
            return

    def _run(self, run: Run) -> None:
        try:
            self._listen(run.job_id)
            self._generate(self._loaded_pipeline(run.request.model, run.job_id), run)
            ended = Ended(run.job_id, "succeeded")
        except _GivenUp:
            ended = Ended(run.job_id, "cancelled")
        except _Unavailable as error:
            ended = Ended(run.job_id, "failed", error.code, str(error))
        except (MemoryError, MemoryShortage) as error:
            ended = Ended(run.job_id, "failed", "not_enough_memory", str(error))
        except ImageError as error:
            ended = Ended(run.job_id, "failed", "bad_image", str(error))
        except AnemoneError as error:
            ended = Ended(run.job_id, "failed", "generation_failed", str(error))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise  # the HTTP process is gone, and the job is not to blame
        except Exception as error:
            log.exception("job %s failed", run.job_id)
            ended = Ended(run.job_id, "failed", "internal", f"{type(error).__name__}: {error}")
        if not self._stopped:
            # A job that the end of the server cut short is not over.
            self._pipe.send(ended)
        self._cancelled.discard(run.job_id)

    def _generate(self, model: Pipeline, run: Run) -> None:
        shown = time.monotonic()
        with closing(model.generate(run.request, run.attachments)) as events:  # type: ignore[type-var]
            for event in events:
                self._listen(run.job_id)
                if isinstance(event, GeneratedImage):
                    text = write_infotext(run.request, model.manifest, event.seeds)
                    png = encode_png(event.pixels, text)
                    self._pipe.send(Finished(run.job_id, event.index, event.seeds.seed, png))
                    continue
                preview = None
                if self._choice.previews and time.monotonic() - shown >= _PREVIEW_SECONDS:
                    preview, shown = model.preview(event, run.request), time.monotonic()
                self._pipe.send(Progressed(run.job_id, event.image, event.index, event.total, event.seconds, preview))


def work(pipe: Connection, choice: ModelChoice, prepare: Prepare, open_model: Open) -> None:
    """The worker process's main: make a first model ready, then serve until told to stop or the other end is gone."""
    # Ctrl-C reaches the whole terminal group; the HTTP process decides when the worker goes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        worker = _Worker(pipe, choice, open_model)
        if worker.begin(prepare):
            worker.serve()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the HTTP process is gone; there is nobody to work for
