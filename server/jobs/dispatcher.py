"""The dispatcher: a thread that gives each worker one job at a time and restarts a worker that has died."""

from __future__ import annotations

import contextlib
import logging
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from converter.errors import AnemoneError
from converter.progress import Progress, Stage
from server import metrics
from server.events import EventLog
from server.jobs.ledger import JobLedger, Limits
from server.jobs.messages import (
    DAMAGED,
    Cancel,
    Ended,
    Event,
    Finished,
    Load,
    Loaded,
    LoadFailed,
    Loading,
    ModelRef,
    Progressed,
    Run,
    Stop,
    Trying,
    Unload,
)
from server.jobs.running import Running
from server.jobs.worker_slot import WorkerSlot
from server.logs import about_job
from server.supervisor import STOP_SECONDS, ChildProcess, Launch, Supervisor

log = logging.getLogger("anemone.queue")

#: After so many deaths in a row outside of jobs a worker is not started again: it would only die again.
_MOST_DEATHS_OUTSIDE_JOBS = 3
_RETENTION_SECONDS = 3600.0
_AGAIN = "; it is being converted again"
_CURE = "; on the server's machine, convert it again or put the original file back"
#: Seconds between looks for the first model, if its folder is gone.
_LOOK_SECONDS = 1.0
#: How long to wait until a worker that was asked to stop has exited, before it is killed.
_EXIT_SECONDS = 0.5


@dataclass(frozen=True)
class Readiness:
    """The state of the first model. ``message`` says why it failed; ``model`` is the name of the one that is ready."""

    state: Stage | Literal["starting", "ready", "failed"] = "starting"
    progress: Progress | None = None
    message: str | None = None
    model: str | None = None


class NoWorker(AnemoneError):
    """No worker runs; the next is being started."""


def _remedy(code: str | None, is_restored: bool) -> str:
    """Return the end of a message about a model that cannot be loaded."""
    return "" if code != DAMAGED else _AGAIN if is_restored else _CURE


class Models(Protocol):
    """The installed models, as far as a dispatcher needs them. Its methods raise AnemoneError for an unknown name."""

    def content_hash(self, name: str) -> str:
        """Return the hash that names the model's content."""

    def folder(self, name: str) -> Path:
        """Return the model's folder."""


#: Finds out how a model is made again; None if it cannot be.
FindRepair = Callable[[str], Callable[[], None] | None]


class Dispatcher:
    """Starts workers, gives them jobs from the ledger, and handles their events."""

    def __init__(
        self,
        ledger: JobLedger,
        workers: Sequence[Launch],
        models: Models,
        events: EventLog,
        limits: Limits,
        on_readiness: Callable[[Readiness], None],
    ) -> None:
        """``on_readiness`` is called at every change of readiness, in the thread that changes it."""
        self._ledger, self._models, self._events, self._limits = ledger, models, events, limits
        self._on_readiness = on_readiness
        self.readiness = Readiness()
        self._slots = [WorkerSlot(number, launch) for number, launch in enumerate(workers)]
        #: The model that each worker loads first; None until it is installed.
        self._first: str | None = None
        self._first_is_gone = False
        self._find_repair: FindRepair = lambda model: None
        self._stopping = False
        self._grace_seconds = 0.0
        self._expired = time.monotonic()
        self._supervisor = Supervisor()
        self._thread = threading.Thread(target=self._run, name="job-queue", daemon=True)

    @property
    def loaded(self) -> list[str]:
        """The models that are loaded."""
        return sorted({slot.loaded for slot in self._slots if slot.loaded is not None})

    def start(self, find_repair: FindRepair) -> None:
        """Start the thread. ``find_repair`` is asked for models that are damaged or gone."""
        self._find_repair = find_repair
        self._thread.start()

    def begin(self, model: str) -> None:
        """Start the workers, each with this model; workers that run already load it."""
        self.set_readiness(Readiness())
        self._first, self._first_is_gone = model, False
        for slot in self._slots:
            if slot.worker is not None:  # the first model was converted again; the worker reports when it is loaded
                self._load_first(slot, model)
        self.wake()

    def stop(self, grace_seconds: float) -> None:
        """Stop the workers and the thread. A running job goes back to the queue unless it ends within ``grace_seconds``."""
        self._grace_seconds, self._stopping = grace_seconds, True
        self.wake()
        self._thread.join()

    def wake(self) -> None:
        """Wake the thread, so that it looks for work."""
        self._supervisor.wake()

    def cancel(self, running: Running) -> None:
        """Tell the job's worker to cancel it."""
        self._slots[running.slot].send(Cancel(running.job_id))

    def load(self, model: str) -> None:
        """Have a worker load a model: one that has it loaded, or else one that runs no job.

        Its events say when it is loaded, or why it is not. Raises AnemoneError if the model is not installed, and NoWorker.
        """
        slot, ref = min(self._slots, key=lambda s: (s.loaded != model, s.running is not None)), self._ref(model)
        # Added before the worker is looked at: if it dies now, either its death answers this load or no worker is found.
        slot.loads.add(model)
        if slot.worker is None:
            slot.loads.discard(model)
            raise NoWorker(
                "the worker has died and is being started again; try again once /readyz says that it is ready"
            )
        slot.send(Load(ref))

    def unload(self, model: str) -> None:
        """Have every worker unload a model once its running job has ended."""
        for slot in self._slots:
            slot.send(Unload(model))

    def restore(self, model: str) -> bool:
        """Have a model that is damaged or gone made again if that can be; return whether it is. Jobs wait for the first one."""
        repair = self._find_repair(model)
        if repair is None:
            return False
        if model == self._first:
            self.set_readiness(Readiness())
        repair()
        return True

    def set_readiness(self, readiness: Readiness) -> None:
        """Publish a change of readiness."""
        self.readiness = readiness
        self._on_readiness(readiness)
        if readiness.state == "failed":
            # Clients that wait for a job read it again, and see that no worker will run it.
            self._ledger.publish_positions()

    def _ref(self, model: str) -> ModelRef:
        """Return a reference to the model; raises AnemoneError if it is not installed."""
        try:
            return ModelRef(model, self._models.content_hash(model))
        except OSError as error:  # of the models folder, not of the store: it must not stop the queue
            raise AnemoneError(f"the models folder cannot be read: {error.strerror or error}") from error

    # --- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._expire()
            while not self._stopping:
                self._find_first()
                self._start_workers()
                for slot in self._slots:
                    self._feed(slot)
                self._ledger.settle()
                self._listen(self._until_next())
            self._stop_workers()
        except (sqlite3.Error, OSError) as error:
            self._fail(f"the data folder cannot be written ({error}); free some disk space, then restart the server")
        except Exception as error:
            self._fail(f"the queue has stopped ({type(error).__name__}); see the server's log, then restart it")

    def _fail(self, message: str) -> None:
        """Stop after an exception, which is logged. The store has every job's last state; the next start resumes them."""
        log.exception("the queue has stopped")
        for slot in self._slots:
            self._end_worker(slot)
            slot.worker = slot.running = None
            self._fail_loads(slot, "model_failed", message)
        self.set_readiness(replace(self.readiness, state="failed", message=message))
        self._ledger.abandon()

    def _start_workers(self) -> None:
        if self._first is None or self.readiness.state == "failed":
            return
        for slot in self._slots:
            if slot.worker is None:
                slot.worker = ChildProcess(slot.launch)
                self._load_first(slot, self._first)

    def _load_first(self, slot: WorkerSlot, model: str) -> None:
        try:
            slot.send(Load(self._ref(model)))
        except AnemoneError as error:
            if not self.restore(model):
                self._first_is_gone = True
                self.set_readiness(replace(self.readiness, state="failed", message=str(error)))

    def _find_first(self) -> None:
        """Start again with the first model if its folder was gone and is there again."""
        if self._first_is_gone and self._first is not None:
            with contextlib.suppress(AnemoneError):
                self._ref(self._first)
                self.begin(self._first)

    def _until_next(self) -> float:
        """Expire jobs and unload idle models if it is time; return the seconds until the next of these is due."""
        now = time.monotonic()
        if now - self._expired >= _RETENTION_SECONDS:
            self._expire()
        waits = [self._expired + _RETENTION_SECONDS - now, *([_LOOK_SECONDS] if self._first_is_gone else [])]
        idle_seconds = self._limits.idle_unload_seconds
        for slot in self._slots:
            if idle_seconds is None or slot.loaded is None or slot.running is not None:
                continue
            seconds_left = slot.idle_since + idle_seconds - now
            if seconds_left > 0:
                waits.append(seconds_left)
                continue
            log.info("unloading %s, which has been idle for %.0f s", slot.loaded, now - slot.idle_since)
            slot.send(Unload(slot.loaded))
            slot.idle_since = now
        return max(0.0, min(waits))

    def _expire(self) -> None:
        self._expired = time.monotonic()
        self._ledger.expire()

    def _listen(self, timeout: float) -> None:
        """Handle the events that have arrived, or arrive within the timeout (seconds)."""
        slots = {slot.worker: slot for slot in self._slots if slot.worker is not None}
        for worker, event in self._supervisor.wait(list(slots), timeout):
            slot = slots[worker]
            if event is not None:
                self._handle(slot, event)
                continue
            code, slot.worker = worker.join(), None
            if not self._stopping:
                self._on_worker_death(slot, code)

    def _feed(self, slot: WorkerSlot) -> None:
        """Give a worker the next job if it is free."""
        if self.readiness.state != "ready" or slot.worker is None or slot.running is not None:
            return
        assignment = self._ledger.take(slot.number, slot.loaded)
        if assignment is None:
            return
        slot.running, request, attachments = assignment
        try:
            model = self._ref(request.model)
        except AnemoneError as error:
            message = f"{request.model} cannot be loaded: {error}"
            self._end_without_model(slot, Ended(slot.running.job_id, "failed", "model_unavailable", message))
            self.wake()
            return
        # Sent without the ledger's lock: a large attachment blocks the pipe until the worker reads it.
        slot.send(Run(slot.running.job_id, request, model, attachments))

    def _handle(self, slot: WorkerSlot, event: Event) -> None:
        """Handle a worker's event."""
        if isinstance(event, Loading):
            self._on_loading(event)
        elif isinstance(event, LoadFailed):
            self._on_load_failed(slot, event)
        elif isinstance(event, Loaded):
            self._on_loaded(slot, event.model)
        elif isinstance(event, Trying):
            slot.note = self._note(event)
        else:
            running = slot.running
            if running is None or running.job_id != event.job_id:
                return
            if isinstance(event, Progressed):
                self._ledger.step(running, event)
            elif isinstance(event, Finished):
                self._ledger.add_image(running, event)
            elif event.code == DAMAGED:
                self._end_without_model(slot, event)
            else:
                self._end(slot, running, event)

    def _note(self, event: Trying) -> Path | None:
        try:
            return self._models.folder(event.model) / event.note
        except (AnemoneError, OSError):  # the model was deleted meanwhile, together with the note
            return None

    def _end_without_model(self, slot: WorkerSlot, event: Ended) -> None:
        """Queue the job again if the first model, which it needs, is being made again; otherwise fail it."""
        running = slot.running
        assert running is not None
        is_first = running.job.model == self._first
        restored = (is_first or event.code == DAMAGED) and self.restore(running.job.model)
        if restored and is_first:
            slot.running, slot.idle_since = None, time.monotonic()
            self._ledger.interrupt(running, "its model is being converted again", by_job=False)
        else:
            self._end(slot, running, replace(event, message=f"{event.message}{_remedy(event.code, restored)}"))

    def _end(self, slot: WorkerSlot, running: Running, event: Ended) -> None:
        slot.running, slot.deaths, slot.idle_since = None, 0, time.monotonic()
        self._ledger.end(running, event)

    # --- models ---------------------------------------------------------------------------------------------------

    @property
    def _is_starting(self) -> bool:
        return self.readiness.state not in ("ready", "failed")

    def _on_loading(self, event: Loading) -> None:
        progress = event.progress
        data = {"network": progress.item, "done": progress.done, "total": progress.total}
        self._publish_model(event.model, "loading", data)
        if self._is_starting and event.model == self._first:
            self.set_readiness(Readiness("loading", progress))

    def _on_load_failed(self, slot: WorkerSlot, event: LoadFailed) -> None:
        starting = self._is_starting and event.model == self._first
        restored = event.code == DAMAGED and self.restore(event.model)
        reason = f"{event.reason}{_remedy(event.code, restored)}"
        self._load_failed(slot, event.model, event.code, f"{event.model} cannot be loaded: {reason}")
        if starting and not restored:
            self.set_readiness(replace(self.readiness, state="failed", message=reason))

    def _fail_loads(self, slot: WorkerSlot, code: str, why: str) -> None:
        for model in tuple(slot.loads):  # a client may ask for another meanwhile
            self._load_failed(slot, model, code, f"{model} was not loaded: {why}")

    def _load_failed(self, slot: WorkerSlot, model: str, code: str, message: str) -> None:
        slot.loads.discard(model)
        metrics.model_loaded("failed")
        self._publish_model(model, "failed", {"code": code, "message": message}, last=True)

    def _on_loaded(self, slot: WorkerSlot, model: str | None) -> None:
        """Publish in the events of ``models/NAME`` that a worker has loaded or unloaded a model."""
        former, slot.loaded = slot.loaded, model
        slot.idle_since = time.monotonic()
        metrics.models_are_loaded(len(self.loaded))
        if former is not None and former != model:
            self._publish_model(former, "unloaded", {}, last=True)
        if model is None:
            return
        slot.loads.discard(model)
        metrics.model_loaded("loaded")
        self._publish_model(model, "loaded", {}, last=True)
        if slot.running is not None:
            slot.running.model_loaded()
        if self._is_starting:
            self.set_readiness(Readiness("ready", model=self._first))

    def _publish_model(self, model: str, kind: str, data: dict[str, Any], *, last: bool = False) -> None:
        self._events.publish(f"models/{model}", kind, data, last=last)

    # --- deaths and the end -----------------------------------------------------------------------------------------

    def _on_worker_death(self, slot: WorkerSlot, code: int | None) -> None:
        """Queue the worker's job again, or fail it; stop restarting the worker if it keeps dying.

        If the worker died in the first load or prediction of a program, the compute unit is the cause: its note stays, and
        the next worker does not use that unit again.
        """
        of_unit = slot.note is not None and slot.note.exists() and code != -signal.SIGTERM
        if not of_unit and slot.note is not None:
            slot.note.unlink(missing_ok=True)
        slot.note = None
        running, slot.running = slot.running, None
        if running is not None:
            self._ledger.interrupt(running, f"the worker died (exit status {code})", by_job=not of_unit)
        self._on_loaded(slot, None)
        self._fail_loads(slot, "worker_died", f"the worker died (exit status {code}), and is started again")
        if self.readiness.state == "failed":
            return
        metrics.worker_died()
        with about_job(running.job_id if running is not None else None):
            cause = " in a compute unit's first try; the unit is not used again" if of_unit else ""
            log.error("the worker died (exit status %s)%s", code, cause)
        if running is None and not of_unit:
            # Count only deaths outside a job; a death during a job is charged to that job.
            slot.deaths += 1
        if slot.deaths >= _MOST_DEATHS_OUTSIDE_JOBS:
            message = f"the worker died {slot.deaths} times in a row (last exit status {code}); restart the server"
            self.set_readiness(replace(self.readiness, state="failed", message=message))
        elif all(other.worker is None for other in self._slots):
            self.set_readiness(Readiness())

    def _stop_workers(self) -> None:
        self._listen_until(lambda: all(slot.running is None for slot in self._slots), self._grace_seconds)
        for slot in self._slots:
            slot.send(Stop())
        # Events that still arrive are handled: a job may have ended just now.
        self._listen_until(lambda: all(slot.worker is None for slot in self._slots), STOP_SECONDS)
        for slot in self._slots:
            self._end_worker(slot)
            if slot.running is not None:
                self._ledger.requeue(slot.running)

    def _end_worker(self, slot: WorkerSlot) -> None:
        if slot.worker is not None:
            slot.worker.stop(_EXIT_SECONDS)
        if slot.note is not None:
            # The dispatcher stopped it; it did not die of what it tried.
            slot.note.unlink(missing_ok=True)

    def _listen_until(self, is_over: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while any(slot.worker for slot in self._slots) and not is_over():
            seconds_left = deadline - time.monotonic()
            if seconds_left <= 0:
                return
            self._listen(seconds_left)
