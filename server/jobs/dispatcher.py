"""The dispatcher: a thread that gives each worker one job at a time and restarts a worker that has died."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from converter.errors import AnemoneError
from server.events import EventLog
from server.faults import FAULTS, fault_of
from server.jobs.job import JobFailure
from server.jobs.ledger import JobLedger, Limits, Unstartable
from server.jobs.loading import FindRepair, LoadedModels
from server.jobs.messages import (
    Cancel,
    Ended,
    Load,
    Stop,
    Unload,
)
from server.jobs.readiness import Readiness, ReadinessBoard
from server.jobs.running import Running
from server.jobs.slot_events import Models, SlotEvents
from server.jobs.worker_slot import Assigned, Died, WorkerSlot
from server.outage import Outage, Pauses
from server.pipeline.request import needs_model
from server.supervisor import STOP_SECONDS, ChildProcess, Launch, Supervisor

log = logging.getLogger("anemone.queue")

#: So many jobs in a row fail of errors in our own code; then the queue is paused, so that not all of its jobs fail.
_MOST_ERRORS = 2
_RETENTION_SECONDS = 3600.0
#: Seconds between looks for the first model, if its folder is gone.
_LOOK_SECONDS = 1.0
#: Seconds between two looks whether the store is still there, so that an idle server's /readyz is right.
_CHECK_SECONDS = 10.0


class NoWorker(AnemoneError):
    """No worker runs; the next is being started."""


class Dispatcher:
    """Starts workers, gives them jobs from the ledger, and handles their events.

    While the disk or the database cannot be used, it tries again and again (see `Outage`). An event that could not be
    handled, such as a finished image, waits in its slot; the worker's further events wait behind it. No attempt is counted
    against a job.
    """

    def __init__(
        self,
        ledger: JobLedger,
        workers: Sequence[Launch],
        models: Models,
        events: EventLog,
        limits: Limits,
        on_readiness: Callable[[Readiness], None],
        pauses: Pauses | None = None,
    ) -> None:
        """``on_readiness`` is called at every change of readiness, in the thread that changes it; ``pauses`` of an outage."""
        self._ledger, self._limits = ledger, limits
        self._outage = Outage("the queue", log, pauses)
        #: Jobs in a row that failed of errors in our own code.
        self._errors = 0
        self._slots = [WorkerSlot(number, launch) for number, launch in enumerate(workers)]
        self._board = ReadinessBoard(self._outage, on_readiness, ledger.publish_all)
        self._loaded = LoadedModels(self._slots, events, self._board)
        self._events = SlotEvents(self._slots, ledger, models, self._loaded, self._board)
        self._stopping = threading.Event()
        self._grace_seconds = 0.0
        self._expires = self._checks = time.monotonic()
        self._supervisor = Supervisor()
        self._thread = threading.Thread(target=self._run, name="job-queue", daemon=True)

    @property
    def readiness(self) -> Readiness:
        """The state of the first model, or of the outage that keeps jobs from running."""
        return self._board.now

    def is_stuck(self, model: str) -> bool:
        """Return whether clients should not wait for a job that is listed under this model: see `ReadinessBoard.is_stuck`."""
        return self._board.is_stuck(needs_model(model))

    @property
    def loaded(self) -> list[str]:
        """The models that are loaded."""
        return self._loaded.names

    def start(self, find_repair: FindRepair) -> None:
        """Start the thread. ``find_repair`` is asked for models that are damaged or gone."""
        self._loaded.find_repair = find_repair
        self._thread.start()

    def begin(self, model: str) -> None:
        """Start the workers, each with this model; workers that run already load it."""
        self._board.set_model(Readiness())
        self._loaded.first, self._loaded.first_is_gone = model, False
        for slot in self._slots:
            slot.has_begun = False
        self.wake()

    def stop(self, grace_seconds: float) -> None:
        """Stop the workers and the thread. A running job goes back to the queue unless it ends within ``grace_seconds``."""
        self._grace_seconds = grace_seconds
        self._stopping.set()
        self.wake()
        self._thread.join()

    def wake(self) -> None:
        """Wake the thread, so that it looks for work."""
        self._supervisor.wake()

    def cancel(self, running: Running) -> None:
        """Tell the job's worker to cancel it."""
        self._slots[running.slot].send(Cancel(running.job_id))
        self._outage.hurry()
        self.wake()

    def load(self, model: str) -> None:
        """Have a worker load a model: one that has it loaded, or else one that runs no job.

        Its events say when it is loaded, or why it is not. Raises NoWorker, and what `SlotEvents.ref` raises.
        """
        slot, ref = min(self._slots, key=lambda s: (s.loaded != model, s.running is not None)), self._events.ref(model)
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
        return self._loaded.restore(model)

    def set_readiness(self, readiness: Readiness) -> None:
        """Publish a change of the first model's state."""
        self._board.set_model(readiness)

    # --- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._outage.is_due:
                self._attempt(self._work)
            if not self._attempt(self._listen_until_next):
                self._stopping.wait(self._outage.seconds_left)
        self._stop_workers()

    def _attempt(self, work: Callable[[], None]) -> bool:
        """Return whether the work is done; if it raised, the outage's cause is published, and it is to be done again."""
        try:
            work()
        except Exception as error:
            self._board.attempt_failed(is_new=self._outage.failed(error))
            return False
        return True

    def _work(self) -> None:
        """Do everything that is to be done now; afterwards there is no outage."""
        for slot in self._slots:
            self._handle(slot)
        self._find_first()
        self._start_workers()
        for slot in self._slots:
            self._feed(slot)
        self._ledger.settle()
        if time.monotonic() >= self._expires:
            self._ledger.expire()
            self._expires = time.monotonic() + _RETENTION_SECONDS
        self._ledger.make_room()
        if time.monotonic() >= self._checks:
            self._ledger.check_store()
            self._checks = time.monotonic() + _CHECK_SECONDS
        if self._outage.end():
            log.info("the queue goes on")
            self._board.outage_ended()

    def _start_workers(self) -> None:
        """Start the workers that are missing, each with the first model if there may be one.

        Jobs that need no model have a worker also while the first model is converted, or when it has failed.
        """
        first = self._loaded.first if self._board.model.state != "failed" else None
        if first is None and not self._ledger.has_jobs_without_model:
            return
        for slot in self._slots if first is not None else self._slots[:1]:
            if slot.worker is None:
                slot.worker, slot.has_begun = ChildProcess(slot.launch), False
            if slot.has_begun or first is None:
                continue
            try:
                slot.send(Load(self._events.ref(first)))
            except AnemoneError as error:
                self._loaded.set_first_gone(str(error))
            slot.has_begun = True

    def _find_first(self) -> None:
        """Start again with the first model if its folder was gone and is there again."""
        if self._loaded.first_is_gone and self._loaded.first is not None:
            with contextlib.suppress(AnemoneError):
                self._events.ref(self._loaded.first)
                self.begin(self._loaded.first)

    def _listen_until_next(self) -> None:
        """Handle events until the next thing is to be done; unload idle models."""
        now = time.monotonic()
        waits = [self._expires - now, self._checks - now, self._outage.seconds_left]
        if self._loaded.first_is_gone:
            waits.append(_LOOK_SECONDS)
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
        self._listen(max(0.0, min(waits)))

    def _listen(self, timeout: float) -> None:
        """Handle the events that have arrived, or arrive within the timeout (seconds)."""
        slots = {slot.worker: slot for slot in self._slots if slot.worker is not None and slot.unhandled is None}
        for worker, event in self._supervisor.wait(list(slots), timeout):
            slot = slots[worker]
            if event is None:
                event, slot.worker = Died(worker.stop(STOP_SECONDS)), None
            slot.unhandled = event
            self._attempt(partial(self._handle, slot))

    def _feed(self, slot: WorkerSlot) -> None:
        """Give a worker the next job if it is free; until the first model is ready, one that needs no model."""
        if slot.worker is None or slot.running is not None:
            return
        try:
            assignment = self._ledger.take(slot.number, slot.loaded, models=self._board.model.state == "ready")
        except Unstartable as unstartable:
            self._ledger.fail(unstartable.job_id, self._counted(unstartable.error, unstartable.job_id))
            self.wake()
            return
        if assignment is not None:
            slot.running, request, attachments = assignment
            slot.unhandled = Assigned(request, attachments)
            self._handle(slot)
            if slot.running is None:  # its model is not there; the next job may have another
                self.wake()

    def _handle(self, slot: WorkerSlot) -> None:
        """Handle the slot's event, if it has one; if this raises, the event is handled again later.

        An error in our own code fails the job, unless there are many in a row; only its end is always tried again.
        """
        event, running = slot.unhandled, slot.running
        if event is None or (isinstance(event, Died) and self._stopping.is_set()):
            return
        try:
            self._events.handle(slot, event)
        except Exception as error:
            if fault_of(error) is not None or running is None or isinstance(event, Ended | Died):
                raise
            failure = self._counted(error, running.job_id)
            slot.send(Cancel(running.job_id))
            slot.unhandled = Ended(running.job_id, "failed", failure.code, failure.message)
            self._events.handle(slot, slot.unhandled)
        slot.unhandled = None
        # The worker may also report the success of a job that failed here.
        if running is not None and isinstance(event, Ended) and event.job_id == running.job_id:
            self._errors = 0 if event.status == "succeeded" else self._errors

    def _counted(self, error: Exception, job_id: str) -> JobFailure:
        """Return the failure of a job that an error in our own code stops; raise the error instead after too many in a row."""
        log.error("job %s is stopped by an internal error", job_id, exc_info=error)
        self._errors += 1
        if self._errors > _MOST_ERRORS:
            raise error
        return JobFailure("internal", f"an internal error occurred ({type(error).__name__}); see the server's log")

    # --- the end ----------------------------------------------------------------------------------------------------

    def _stop_workers(self) -> None:
        self._listen_until(lambda: all(slot.running is None for slot in self._slots), self._grace_seconds)
        for slot in self._slots:
            slot.send(Stop())
        # Events that still arrive are handled: a job may have ended just now.
        # One that could not be handled would wait for the disk.
        self._listen_until(lambda: all(slot.worker is None or slot.unhandled for slot in self._slots), STOP_SECONDS)
        for slot in self._slots:
            slot.end_worker()
            if slot.running is None:
                continue
            try:
                self._ledger.requeue(slot.running)
            except FAULTS as error:
                log.error("job %s is queued again by the next start, not now: %s", slot.running.job_id, error)

    def _listen_until(self, is_over: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while any(slot.worker for slot in self._slots) and not is_over():
            seconds_left = deadline - time.monotonic()
            if seconds_left <= 0:
                return
            if self._outage.is_due:
                for slot in self._slots:
                    self._attempt(partial(self._handle, slot))
            self._listen(min(seconds_left, self._outage.seconds_left))
