"""What happens to worker slots: events of workers, their deaths, and jobs that are sent to them."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from converter.errors import AnemoneError
from server import metrics
from server.jobs.ledger import JobLedger
from server.jobs.loading import LoadedModels, remedy
from server.jobs.messages import (
    DAMAGED,
    Ended,
    Finished,
    Loaded,
    LoadFailed,
    Loading,
    ModelRef,
    Noted,
    Prepared,
    Progressed,
    Run,
    Trying,
)
from server.jobs.readiness import Readiness, ReadinessBoard
from server.jobs.running import Running
from server.jobs.worker_slot import Assigned, Died, SlotEvent, WorkerSlot
from server.logs import about_job
from server.pipeline.request import GenerationRequest

log = logging.getLogger("anemone.queue")

#: After so many deaths in a row outside of jobs, without a model loaded, a worker is not started again: it would only die again.
_MOST_DEATHS_OUTSIDE_JOBS = 3


class Models(Protocol):
    """The installed models, as far as a dispatcher needs them. Its methods raise AnemoneError for an unknown name."""

    def content_hash(self, name: str) -> str:
        """Return the hash that names the model's content."""

    def folder(self, name: str) -> Path:
        """Return the model's folder."""


class SlotEvents:
    """Handles the events of worker slots: changes the ledger, the loaded models and the readiness."""

    def __init__(
        self,
        slots: Sequence[WorkerSlot],
        ledger: JobLedger,
        models: Models,
        loaded: LoadedModels,
        board: ReadinessBoard,
    ) -> None:
        self._slots, self._ledger, self._models = slots, ledger, models
        self._loaded, self._board = loaded, board

    def ref(self, model: str) -> ModelRef:
        """Return a reference to the model; raises AnemoneError if it is not installed, OSError if its folder cannot be read."""
        return ModelRef(model, self._models.content_hash(model))

    def handle(self, slot: WorkerSlot, event: SlotEvent) -> None:
        """Handle an event of a slot. If it raises, nothing has changed, and the same event can be handled again."""
        if isinstance(event, Died):
            self._on_worker_death(slot, event.code)
        elif isinstance(event, Loading | LoadFailed | Loaded):
            self._loaded.handle(slot, event)
        elif isinstance(event, Trying):
            slot.note = self._note(event)
        elif isinstance(event, Assigned):
            self._send_job(slot, event)
        elif slot.running is not None and slot.running.job_id == event.job_id:
            self._on_job(slot, slot.running, event)

    def _on_job(
        self, slot: WorkerSlot, running: Running, event: Prepared | Progressed | Noted | Finished | Ended
    ) -> None:
        if isinstance(event, Prepared):
            self._ledger.prepare(running, event)
        elif isinstance(event, Progressed):
            self._ledger.step(running, event)
        elif isinstance(event, Noted):
            self._ledger.note(running, event)
        elif isinstance(event, Ended) and event.code == DAMAGED:
            self._end_without_model(slot, running, event)
        elif isinstance(event, Ended):
            self._end(slot, running, event)
        elif self._board.now.cause is None or not running.is_cancelling:
            # A job that is being cancelled does not wait until there is room for its image.
            self._ledger.add_image(running, event)

    def _send_job(self, slot: WorkerSlot, job: Assigned) -> None:
        running = slot.running
        assert running is not None
        request = job.request if isinstance(job.request, GenerationRequest) else None
        try:
            model = None if request is None else self.ref(request.model).merged_for(request)
            refiner = None if request is None or request.refiner is None else self.ref(request.refiner.refiner)
        except AnemoneError as error:
            message = f"{job.request.model} cannot be loaded: {error}"
            self._end_without_model(slot, running, Ended(running.job_id, "failed", "model_unavailable", message))
            return
        # Sent without the ledger's lock: a large attachment blocks the pipe until the worker reads it.
        slot.send(Run(running.job_id, job.request, model, job.attachments, refiner))

    def _note(self, event: Trying) -> Path | None:
        try:
            return event.file(self._models.folder(event.model))
        except (AnemoneError, OSError):  # the model was deleted meanwhile, together with the note
            return None

    def _end_without_model(self, slot: WorkerSlot, running: Running, event: Ended) -> None:
        """Queue the job again if the first model, which it needs, is being made again; otherwise fail it."""
        is_first = running.job.model == self._loaded.first
        restored = (is_first or event.code == DAMAGED) and self._loaded.restore(running.job.model)
        if restored and is_first:
            self._ledger.interrupt(running, "its model is being converted again", by_job=False)
            slot.running, slot.idle_since = None, time.monotonic()
        else:
            self._end(slot, running, replace(event, message=f"{event.message}{remedy(event.code, restored)}"))

    def _end(self, slot: WorkerSlot, running: Running, event: Ended) -> None:
        self._ledger.end(running, event)
        slot.running, slot.idle_since = None, time.monotonic()

    def _on_worker_death(self, slot: WorkerSlot, code: int | None) -> None:
        """Queue the worker's job again, or fail it; stop restarting the worker if it keeps dying.

        If the worker died in the first load or prediction of a program, the compute unit is the cause: its note stays, and
        the next worker does not use that unit again.
        """
        of_unit = slot.note is not None and slot.note.exists() and code != -signal.SIGTERM
        running = slot.running
        if running is not None:
            self._ledger.interrupt(running, f"the worker died (exit status {code})", by_job=not of_unit)
            slot.running = None
        if not of_unit:
            slot.delete_note()
        slot.note = None
        self._loaded.set_loaded(slot, None)
        self._loaded.fail_loads(slot, "worker_died", f"the worker died (exit status {code}), and is started again")
        metrics.worker_died()
        with about_job(running.job_id if running is not None else None):
            cause = " in a compute unit's first try; the unit is not used again" if of_unit else ""
            log.error("the worker died (exit status %s)%s", code, cause)
        if self._board.model.state == "failed":
            return
        if running is None and not of_unit:
            # Count only deaths outside a job; a death during a job is charged to that job.
            slot.deaths += 1
        if slot.deaths >= _MOST_DEATHS_OUTSIDE_JOBS:
            self._board.fail(
                f"the worker died {slot.deaths} times in a row (last exit status {code}); restart the server"
            )
        elif self._loaded.first is not None and all(other.worker is None for other in self._slots):
            self._board.set_model(Readiness())
