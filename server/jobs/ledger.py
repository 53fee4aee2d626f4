"""The jobs' states: the store, the fair queue and what runs, changed together under one lock."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from converter.errors import AnemoneError
from server import metrics
from server.events import EndStatus, EventLog
from server.jobs.estimates import StepTimes
from server.jobs.fair_queue import FairQueue, QueuedJob
from server.jobs.job import Job, JobFailure, Submission
from server.jobs.messages import Ended, Finished, Progressed
from server.jobs.running import Running
from server.jobs.store import JobStore, Retention
from server.logs import about_job
from server.pipeline.request import GenerationRequest

log = logging.getLogger("anemone.queue")

#: A retry without an Idempotency-Key matches an identical request this recent: SDKs give up after this.
_RETRY_SECONDS = 3600.0
#: Bounds of Retry-After; OpenAI's SDK does not come back when it is told more than 120.
_RETRY_AFTER = (1, 120)


@dataclass(frozen=True)
class Limits:
    """The queue's limits.

    max_queue: jobs that may wait at once.
    idle_unload_seconds: how long a worker keeps a model loaded without a job; None for ever.
    retention: how long finished jobs are kept.
    """

    max_queue: int = 100
    idle_unload_seconds: float | None = None
    retention: Retention = field(default_factory=Retention)


class QueueFull(AnemoneError):
    """As many jobs wait as may; ``retry_after`` is in how many seconds one of them will have gone."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"the queue is full ({waiting} jobs); retry in {retry_after} s")
        self.retry_after = retry_after


class KeyReused(AnemoneError):
    """A client gave two different requests one Idempotency-Key."""


@dataclass(frozen=True)
class Accepted:
    """A job that was accepted. ``is_repeat``: the client had submitted it before."""

    job_id: str
    is_repeat: bool


class JobLedger:
    """Takes jobs from one state to the next, and publishes each change. Safe to call from several threads.

    Which worker runs which job is in memory alone: a server that starts has no worker yet, so that whatever is running in
    the store was cut short; and a worker that dies takes only the job that its slot runs with it.
    """

    def __init__(self, store: JobStore, events: EventLog, limits: Limits) -> None:
        self._store, self._events, self._limits = store, events, limits
        self._queue, self._step_times = FairQueue(), StepTimes(store.step_times())
        self._lock = threading.RLock()
        self._running: dict[str, Running] = {}

    def recover(self) -> None:
        """Queue what an earlier server left."""
        self._store.interrupted("the server was killed", by_worker=False)
        for job in self._store.queued():
            self._queue.add(job)
        metrics.queue_changed({"queued": len(self._queue), "running": 0})

    # --- clients --------------------------------------------------------------------------------------------------

    def submit(self, submission: Submission) -> Accepted:
        """Store a request as a job, on disk when this returns, or find the one it repeats.

        Raises QueueFull, and KeyReused if its key belongs to another request.
        """
        with self._lock:
            known = self._repeated(submission)
            if known is not None:
                return Accepted(known, True)
            if len(self._queue) >= self._limits.max_queue:
                raise QueueFull(len(self._queue), self._retry_after())
            start_tag = self._queue.start_tag(submission.client, submission.priority)
            job = self._store.add(submission, start_tag)
            self._queue.add(job)
            return Accepted(job.job_id, False)

    def _repeated(self, submission: Submission) -> str | None:
        if submission.key is not None:
            found = self._store.with_key(submission.client, submission.key)
            if found is not None and found[1] != submission.fingerprint:
                raise KeyReused(
                    f"Idempotency-Key {submission.key!r} belongs to job {found[0]}, which is another request; accepted: "
                    "the same request, or another key"
                )
            return found[0] if found else None
        if submission.retried and submission.fingerprint is not None:
            since = time.time() - _RETRY_SECONDS
            return self._store.newest_like(submission.client, submission.fingerprint, since)
        return None

    def _retry_after(self) -> int:
        left = [seconds for running in self._running.values() if (seconds := self._seconds_left(running)) is not None]
        low, high = _RETRY_AFTER
        return min(max(math.ceil(min(left)), low), high) if left else 10

    def _seconds_left(self, running: Running) -> float | None:
        return running.seconds_left(self._step_times.of(running.job.cost.shape))

    def current(self, job: Job) -> Job:
        """Return a job of the store with its present position, progress and estimate."""
        if job.status == "queued":
            ahead = self._queue.ahead(job.id)
            if ahead is None:
                return replace(job, position=0)  # it is being handed to a worker in this moment
            count, total = ahead
            seconds = [self._step_times.seconds(total), *map(self._seconds_left, list(self._running.values()))]
            known = [s for s in seconds if s is not None]
            return replace(job, position=count, eta=sum(known) if len(known) == len(seconds) else None)
        running = self._running.get(job.id)
        if job.status == "running" and running is not None:
            last = running.last_step
            if last is not None:
                job = replace(job, image=last.image, step=last.step, steps=last.total)
            return replace(
                job,
                eta=self._seconds_left(running),
                steps_done=running.steps_done,
                step_seconds=running.step_seconds,
            )
        return job

    def preview(self, job_id: str) -> bytes | None:
        """Return what a running job's image looks like now, as a small JPEG; None if there is none."""
        running = self._running.get(job_id)
        return running.preview if running is not None else None

    def cancel(self, job_id: str) -> Running | None:
        """End a queued job, or note that a running one is to end; returns the running one, whose worker must be told."""
        with self._lock:
            running = self._running.get(job_id)
            if running is not None:
                # Noted first: whatever dies before the step is over, the job does not come back.
                self._store.cancelling(job_id)
                running.is_cancelling = True
                return running
            if self._queue.remove(job_id):
                self._store.end(job_id, "cancelled")
                self._publish_end(job_id, "cancelled", None)
            return None

    def jobs_for(self, model: str) -> int:
        """Count the jobs that wait for a model or run with it."""
        return self._queue.count_of(model) + sum(r.job.model == model for r in list(self._running.values()))

    # --- workers --------------------------------------------------------------------------------------------------

    def take(self, slot: int, loaded: str | None) -> tuple[Running, GenerationRequest, dict[str, bytes]] | None:
        """Give the next job to a worker slot, whose loaded model this is, with its request and attachments; None if none is queued."""
        with self._lock:
            job = self._queue.take(loaded)
            if job is None:
                return None
            # Before it is stored: should that fail, who waits for the job is woken by `abandon`.
            running = self._running[job.job_id] = Running(job, slot)
            request, attachments = self._store.start(job.job_id)
        with about_job(job.job_id):
            log.info("job %s runs", job.job_id)
        self._publish_running(job)
        self.publish_positions()
        return running, request, attachments

    def step(self, running: Running, event: Progressed) -> None:
        """Add a step of a running job."""
        running.step(event)
        metrics.step_done(event.seconds)
        known = self._step_times.of(running.job.cost.shape)
        self._events.publish(running.job_id, "progress", running.to_dict(known))

    def add_image(self, running: Running, event: Finished) -> None:
        """Store an image of a running job."""
        self._store.add_image(running.job_id, event.image, event.seed, event.png)
        self._publish_running(running.job)

    def end(self, running: Running, event: Ended) -> None:
        """End a running job as its worker says."""
        failure = JobFailure(event.code, event.message or "") if event.code else None
        with self._lock:
            self._store.end(
                running.job_id,
                event.status,
                failure,
                steps_done=running.steps_done,
                step_seconds=running.step_seconds,
            )
            self._forget(running)
        measured = running.measured() if event.status == "succeeded" else None
        if measured is not None:
            shape = running.job.cost.shape
            self._store.keep_step_time(shape, self._step_times.learn(shape, measured))
        self._publish_end(running.job_id, event.status, running.seconds)
        if self._store.images.bytes > self._limits.retention.bytes:
            self.expire()

    def interrupt(self, running: Running, reason: str, *, by_job: bool) -> None:
        """Queue a job again whose worker has died, or fail it if that happened too often.

        by_job: the death counts against the job.
        """
        with self._lock:
            back, over = self._store.interrupted(reason, by_worker=by_job, job_ids=[running.job_id])
            self._forget(running)
            if back:
                self._queue.add(running.job)
        for job_id in over:
            self._publish_end(job_id, "cancelled" if running.is_cancelling else "failed", None)
        self.publish_positions()

    def requeue(self, running: Running) -> None:
        """Put a running job back as if it had not been tried: the server is stopping."""
        with self._lock:
            self._store.requeue(running.job_id)
            self._forget(running)

    def abandon(self) -> None:
        """Forget what runs: nothing can be stored any more, and the next server finds it as it was last stored.

        Whoever waits for such a job looks at it again, and sees that nobody is left to do it.
        """
        with self._lock:
            abandoned = list(self._running.values())
            self._running.clear()
        for running in abandoned:
            self._publish_running(running.job)

    def _forget(self, running: Running) -> None:
        del self._running[running.job_id]
        self._queue.done()

    def settle(self) -> None:
        """Wait until the images that were written are on the disk."""
        self._store.images.settle()

    def expire(self) -> None:
        """Delete finished jobs as the retention says."""
        self._limits.retention.apply(self._store)

    # --- events ---------------------------------------------------------------------------------------------------

    def _publish_running(self, job: QueuedJob) -> None:
        self._events.publish(job.job_id, "state", {"status": "running"})

    def _publish_end(self, job_id: str, status: EndStatus, seconds: float | None) -> None:
        with about_job(job_id):
            log.info("job %s %s", job_id, status)
        metrics.job_ended(status, seconds)
        self._events.publish(job_id, "state", {"status": status}, last=True)
        self.publish_positions()

    def publish_positions(self) -> None:
        """Have those who watch a queued job look at its position again."""
        metrics.queue_changed({"queued": len(self._queue), "running": len(self._running)})
        for channel in self._watched():
            self._events.publish(channel, "state", {"status": "queued"})

    def _watched(self) -> Sequence[str]:
        return [channel for channel in self._events.watched() if channel in self._queue]
