"""The queue's thread: feeds the worker one job at a time, keeps what it reports, and starts it again when it dies."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

from server import metrics
from server.events import EventLog
from server.jobs import messages
from server.jobs.estimates import StepTimes
from server.jobs.fair_queue import FairQueue
from server.jobs.job import JobFailure, Status
from server.jobs.limits import Limits
from server.jobs.loaded import LoadedModel
from server.jobs.messages import (
    Ended,
    Finished,
    Loaded,
    LoadFailed,
    Loading,
    Preparing,
    Progressed,
    Ready,
    Trying,
    Unable,
)
from server.jobs.process import Launch, WorkerProcess
from server.jobs.readiness import Readiness
from server.jobs.running import Running
from server.jobs.store import JobStore
from server.logs import about_job

log = logging.getLogger("anemone.queue")

#: Deaths in a row without a job done after which the worker is left down: it would only die again.
_MOST_DEATHS_OUTSIDE_JOBS = 3
_STOP_SECONDS = 5.0
_RETENTION_SECONDS = 3600.0
_OVER = ("succeeded", "failed", "cancelled")


class Dispatcher:
    """One worker, fed from the store in the fair queue's order. Its thread does all the waiting.

    ``lock`` is held by whoever moves a job from one state to another; `running` may be looked at without.
    """

    def __init__(
        self,
        store: JobStore,
        launch: Launch,
        queue: FairQueue,
        step_times: StepTimes,
        events: EventLog,
        notice: Callable[[Readiness], None],
        limits: Limits,
    ) -> None:
        self._store, self._launch, self._queue, self._step_times = store, launch, queue, step_times
        self._events, self._notice, self._limits = events, notice, limits
        self.lock = threading.RLock()
        self.readiness = Readiness()
        self.running: Running | None = None
        self._loaded = LoadedModel(events)
        self._worker: WorkerProcess | None = None
        #: What the worker last tried for the first time; the note is gone unless it is at that now, or died of it.
        self._note: Path | None = None
        self._begun = self._stopping = False
        self._grace_seconds = 0.0
        self._deaths = 0
        self._idle_since = self._retained = time.monotonic()
        # A byte through this pair wakes the thread out of its wait.
        self._woken, self._wake = multiprocessing.Pipe(duplex=False)
        self._thread = threading.Thread(target=self._run, name="job-queue", daemon=True)

    @property
    def loaded(self) -> str | None:
        """The loaded model."""
        return self._loaded.name

    def start(self, begin: bool) -> None:
        """Start the thread, and with it the worker if that is to ``begin``."""
        self._begun = begin
        self._thread.start()

    def begin(self) -> None:
        """Start the worker."""
        self._begun = True
        self.wake()

    def stop(self, grace_seconds: float) -> None:
        """Stop the worker and the thread; the job it is at goes back to the queue unless it ends within the grace."""
        self._grace_seconds, self._stopping = grace_seconds, True
        self.wake()
        self._thread.join()

    def wake(self) -> None:
        """Have the thread look for work."""
        self._wake.send_bytes(b"x")

    def send(self, command: messages.Cancel | messages.Load | messages.Unload) -> None:
        """Tell the worker something; where there is none at the moment, nobody is progress."""
        worker = self._worker
        if worker is not None:
            worker.send(command)

    def set_readiness(self, readiness: Readiness) -> None:
        """Take over a change of readiness."""
        self.readiness = readiness
        self._notice(readiness)
        if readiness.state == "failed":
            # Whoever waits for a job looks at it again, and sees that nobody is left to do it.
            self._publish_positions()

    def publish_end(self, job_id: str, status: Status, seconds: float | None) -> None:
        """Tell everyone of a job's end, which is in the store."""
        with about_job(job_id):
            log.info("job %s %s", job_id, status)
        metrics.job_ended(status, seconds)  # type: ignore[arg-type]
        self._events.publish(job_id, "state", {"status": status}, last=True)
        self._publish_positions()

    def _publish_positions(self) -> None:
        """The queue has moved on: who watches a waiting job hears of its new place."""
        metrics.queue_changed({"queued": len(self._queue), "running": int(self.running is not None)})
        for channel in self._events.watched():
            if channel in self._queue:
                self._events.publish(channel, "state", {"status": "queued"})

    # --- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._retain()
            while not self._stopping:
                if self._begun and self._worker is None and self.readiness.state != "failed":
                    self._worker = WorkerProcess(self._launch)
                self._feed()
                self._store.images.settle()
                self._listen(self._until_next())
            self._stop_worker()
        except (sqlite3.Error, OSError) as error:
            # A full or broken disk. Every job is in the store as it last was, and goes on with the next start.
            log.exception("the queue has stopped")
            self._end_worker()
            self.running = None
            message = f"the data folder cannot be written ({error}); make room, then restart the server"
            self.set_readiness(replace(self.readiness, state="failed", message=message))

    def _until_next(self) -> float:
        """Seconds until something is due by the clock; does what is due now."""
        now = time.monotonic()
        if now - self._retained >= _RETENTION_SECONDS:
            self._retain()
        waits = [self._retained + _RETENTION_SECONDS - now]
        idle_seconds = self._limits.idle_unload_seconds
        if idle_seconds is not None and self.loaded is not None and self.running is None:
            waits.append(self._idle_since + idle_seconds - now)
            if waits[-1] <= 0:
                log.info("unloading %s, which has been idle for %.0f s", self.loaded, now - self._idle_since)
                self.send(messages.Unload(self.loaded))
                self._idle_since = now
                waits.pop()
        return max(0.0, min(waits))

    def _retain(self) -> None:
        self._retained = time.monotonic()
        self._limits.retention.apply(self._store)

    def _listen(self, timeout: float | None) -> None:
        """Take what has come, or comes within the timeout (seconds)."""
        worker = self._worker
        sources = [self._woken] if worker is None else [self._woken, worker.pipe]
        for source in cast(list[Connection], multiprocessing.connection.wait(sources, timeout)):
            if source is self._woken:
                self._woken.recv_bytes()
            elif worker is not None:
                event = worker.receive()
                if event is not None:
                    self._keep(event)
                    continue
                code, self._worker = worker.ended(), None
                if not self._stopping:
                    self._on_worker_death(code)

    def _feed(self) -> None:
        """Give the worker the next job if it is free."""
        worker = self._worker
        if self.readiness.state != "ready" or worker is None or self.running is not None:
            return
        with self.lock:
            following = self._queue.take(self.loaded)
            if following is None:
                return
            request, attachments = self._store.start(following.job_id)
            self.running = Running(following)
        with about_job(following.job_id):
            log.info("job %s runs", following.job_id)
        self._events.publish(following.job_id, "state", {"status": "running"})
        self._publish_positions()
        # Not under the lock: a large attachment waits in the pipe until the worker reads.
        worker.send(messages.Run(following.job_id, request, attachments))

    def _keep(self, event: messages.Event) -> None:
        """Act on what the worker says."""
        if isinstance(event, Preparing | Ready | Unable):
            self.set_readiness(self.readiness.after(event))
        elif isinstance(event, Loading | LoadFailed | Loaded):
            self._on_load_event(event)
        elif isinstance(event, Trying):
            self._note = event.note
        elif isinstance(event, Progressed):
            self._step(event)
        elif isinstance(event, Finished):
            if self.running is not None and self.running.job_id == event.job_id:
                self._store.add_image(event.job_id, event.image, event.seed, event.png)
                self._events.publish(event.job_id, "state", {"status": "running"})
        else:
            self._end(event)

    def _on_load_event(self, event: Loading | LoadFailed | Loaded) -> None:
        self._loaded.follow(event)
        if not isinstance(event, Loaded):
            return
        self._idle_since = time.monotonic()
        if event.model is not None and self.running is not None:
            self.running.model_loaded()
        if self.readiness.state not in ("ready", "failed"):
            self.set_readiness(Readiness("ready", manifest=self.readiness.manifest))

    def _step(self, event: Progressed) -> None:
        running = self.running
        if running is None or running.job_id != event.job_id:
            return
        running.step(event)
        metrics.step_done(event.seconds)
        progress = running.to_dict(self._step_times.of(running.job.cost.shape))
        self._events.publish(event.job_id, "progress", progress)

    def _end(self, event: Ended) -> None:
        if event.status not in _OVER:
            raise ValueError(f"the worker ended a job as {event.status!r}")
        status = cast(Status, event.status)
        failure = JobFailure(event.code, event.message or "") if event.code else None
        with self.lock:
            running = self.running
            if running is None or running.job_id != event.job_id:
                return
            self._store.end(
                event.job_id, status, failure, steps_done=running.steps_done, step_seconds=running.step_seconds
            )
            self.running = None
            self._queue.done()
        measured = running.measured() if status == "succeeded" else None
        if measured is not None:
            shape = running.job.cost.shape
            self._store.keep_step_time(shape, self._step_times.learn(shape, measured))
        self._deaths, self._idle_since = 0, time.monotonic()
        self.publish_end(event.job_id, status, running.seconds)
        if self._store.images.bytes > self._limits.retention.bytes:
            self._retain()

    def _on_worker_death(self, code: int | None) -> None:
        """The worker is gone: its job is tried once more, and a new worker started unless dying is all it does.

        A death of a program's first load or prediction is the compute unit's: the next worker does not use that again.
        """
        unit = self._note is not None and self._note.exists() and code != -signal.SIGTERM
        if not unit and self._note is not None:
            self._note.unlink(missing_ok=True)
        self._note = None
        with self.lock:
            running, self.running = self.running, None
            back, over = self._store.interrupted(f"the worker died (exit status {code})", by_worker=not unit)
            if running is not None:
                self._queue.done()
                if running.job_id in back:
                    self._queue.add(running.job)
        self._loaded.gone()
        self._publish_positions()
        for job_id in over:
            self.publish_end(job_id, "cancelled" if running and running.is_cancelling else "failed", None)
        if self.readiness.state == "failed":
            return  # it said so, and left
        metrics.worker_died()
        log.error("the worker died (exit status %s)%s", code, " of a compute unit, which is marked" if unit else "")
        if running is None and not unit:
            # A death in a job is the job's doing, and the job is failed for it; these are the worker's own.
            self._deaths += 1
        if self._deaths >= _MOST_DEATHS_OUTSIDE_JOBS:
            message = f"the worker died {self._deaths} times in a row (last exit status {code}); restart the server"
            self.set_readiness(replace(self.readiness, state="failed", message=message))
            return
        self.set_readiness(replace(self.readiness, state="starting", network=None, done=0, total=0))

    def _stop_worker(self) -> None:
        self._listen_until(lambda: self.running is None, self._grace_seconds)
        if self._worker is not None:
            self._worker.send(messages.Stop())
        # What it still reports is kept: the job may have ended in this very moment.
        self._listen_until(lambda: self._worker is None, _STOP_SECONDS)
        self._end_worker()
        if self.running is not None:
            self._store.requeue(self.running.job_id)

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.end()
        if self._note is not None:
            # Killed from here, it did not die of what it tried.
            self._note.unlink(missing_ok=True)

    def _listen_until(self, is_over: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._worker is not None and not is_over() and (left := deadline - time.monotonic()) > 0:
            self._listen(left)
