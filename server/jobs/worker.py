"""The worker: a process of its own that holds the model and does one job at a time.

Whatever happens here (a crash, the out-of-memory killer, a five-minute Neural Engine compile) the HTTP process goes on
answering; and nothing here is imported there.
"""

from __future__ import annotations

import logging
import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from converter.errors import AnemoneError
from converter.folder import Manifest
from server.jobs.messages import Cancel, Ended, Finished, Order, Preparing, Progressed, Ready, Run, Unable
from server.jobs.request import GenerationRequest
from server.jobs.start import ModelChoice
from server.pipeline.denoise import Step
from server.pipeline.images import ImageError, encode_png
from server.pipeline.infotext import write_infotext
from server.pipeline.stable_diffusion import Picture, StableDiffusion

log = logging.getLogger("anemone.worker")
#: A conversion's stages as readiness tells them.
_STAGES = {"writing": "converting", "verifying": "verifying"}


class Painter(Protocol):
    """What the worker needs of a loaded model."""

    @property
    def manifest(self) -> Manifest:
        """The model's manifest."""

    def generate(self, request: GenerationRequest) -> Iterator[Step | Picture]:
        """Steps and pictures of a request."""


#: Makes a model ready, saying how far it is; returns it with its folder.
Prepare = Callable[[ModelChoice, Callable[[Preparing], None]], tuple[Painter, Path]]


def prepare_model(choice: ModelChoice, progress: Callable[[Preparing], None]) -> tuple[Painter, Path]:
    """Convert the model if need be, and load it."""
    from server.models.library import ready_model

    folder = ready_model(
        choice.source,
        choice.data_dir,
        lambda p: progress(Preparing(_STAGES[p.stage], p.network, p.done_bytes, p.total_bytes)),
    )
    model = StableDiffusion(folder, choice.compute_units)
    model.load(lambda network, done, total: progress(Preparing("loading", network, done, total)))
    return model, folder.path


class _Worker:
    def __init__(self, orders: Connection) -> None:
        self._orders = orders
        self._waiting: deque[Run] = deque()
        self._cancelled: set[str] = set()
        self._stopped = False

    def _take(self, order: Order) -> None:
        if isinstance(order, Run):
            self._waiting.append(order)
        elif isinstance(order, Cancel):
            self._cancelled.add(order.job_id)
        else:
            self._stopped = True

    def _listen(self) -> None:
        """Take whatever orders have come, without waiting."""
        while self._orders.poll():
            self._take(self._orders.recv())

    def serve(self, model: Painter) -> None:
        """Do jobs until told to stop."""
        while not self._stopped:
            if not self._waiting:
                self._take(self._orders.recv())
                continue
            run = self._waiting.popleft()
            try:
                self._do(model, run)
            except ImageError as error:
                self._orders.send(Ended(run.job_id, "failed", "bad_image", str(error)))
            except AnemoneError as error:
                self._orders.send(Ended(run.job_id, "failed", "generation_failed", str(error)))
            except Exception as error:
                log.exception("job %s failed", run.job_id)
                self._orders.send(Ended(run.job_id, "failed", "internal", f"{type(error).__name__}: {error}"))
            self._cancelled.discard(run.job_id)

    def _do(self, model: Painter, run: Run) -> None:
        image = 0
        with closing(model.generate(run.request)) as events:  # type: ignore[type-var]
            for event in events:
                self._listen()
                if self._stopped:
                    return
                if run.job_id in self._cancelled:
                    self._orders.send(Ended(run.job_id, "cancelled"))
                    return
                if isinstance(event, Picture):
                    text = write_infotext(run.request, model.manifest, event.seed)
                    png = encode_png(event.pixels, text)
                    self._orders.send(Finished(run.job_id, event.index, event.seed, png))
                    image = event.index + 1
                else:
                    self._orders.send(Progressed(run.job_id, image, event.index, event.total))
        self._orders.send(Ended(run.job_id, "succeeded"))


def work(orders: Connection, choice: ModelChoice, prepare: Prepare) -> None:
    """The worker process's main: prepare, then serve until told to stop or the other end is gone."""
    # Ctrl-C reaches the whole terminal group; the HTTP process decides when the worker goes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        try:
            model, folder = prepare(choice, orders.send)
        except (AnemoneError, ValueError) as error:
            orders.send(Unable(str(error)))
            return
        orders.send(Ready(folder))
        _Worker(orders).serve(model)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the HTTP process is gone; there is nobody to work for
