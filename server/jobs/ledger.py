"""The ledger of jobs: changes the store, the fair queue and the running jobs together, under one lock."""

from __future__ import annotations

import errno
import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from converter.errors import AnemoneError
from server import metrics
from server.events import OPEN, EndStatus, EventLog
from server.faults import FAULTS, fault_of
from server.jobs.estimates import Shape, StepTime, StepTimes
from server.jobs.fair_queue import FairQueue, QueuedJob
from server.jobs.job import Job, JobFailure, Submission
from server.jobs.messages import UNSAFE, Ended, Finished, Noted, Prepared, Progressed
from server.jobs.running import Running
from server.jobs.store import WRITE_SECONDS, JobStore, Retention
from server.logs import about_job
from server.pipeline.request import JobRequest

log = logging.getLogger("anemone.queue")

#: A retry without an Idempotency-Key matches an identical request this recent: SDKs give up after this.
_RETRY_SECONDS = 3600.0
#: Bounds of Retry-After, seconds; OpenAI's SDK does not retry if it is more than 120.
_RETRY_AFTER = (1, 120)


@dataclass(frozen=True)
class Limits:
    """The queue's limits.

    max_queue: jobs that may wait at once.
    in_shares: a client may hold no more of these places than it leaves free to others.
    idle_unload_seconds: how long a worker keeps a model loaded without a job; None: for ever.
    retention: how long finished jobs are kept.
    """

    max_queue: int = 100
    in_shares: bool = False
    idle_unload_seconds: float | None = None
    retention: Retention = field(default_factory=Retention)


class NoPlace(AnemoneError):
    """The queue takes no job of this client now; ``retry_after`` is the estimated time until a place is free, in seconds."""

    code = "queue_full"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(f"{message}; retry in {retry_after} s")
        self.retry_after = retry_after


class ShareFull(NoPlace):
    """The client has as many places of the queue as it may; others still find one."""

    code = "queue_share_full"


class KeyReused(AnemoneError):
    """A client used one Idempotency-Key for two different requests."""


class Unstartable(Exception):
    """A job cannot be started because of an error in our own code. It is still queued."""

    def __init__(self, job_id: str, error: Exception) -> None:
        super().__init__(job_id)
        self.job_id, self.error = job_id, error


@dataclass(frozen=True)
class Accepted:
    """The answer to a submission. ``is_repeat``: the client submitted the job before, so no new one was made."""

    job_id: str
    is_repeat: bool


class JobLedger:
    """Moves jobs from one state to the next, and publishes each change. Safe to call from several threads.

    Only memory records which worker runs which job. A server that starts has no workers yet, so every job that the store
    has as running was interrupted; and a worker that dies interrupts only the job of its own slot.
    """

    def __init__(self, store: JobStore, events: EventLog, limits: Limits) -> None:
        self._store, self._events, self._limits = store, events, limits
        self._queue, self._step_times = FairQueue(), StepTimes(store.step_times())
        self._lock = threading.RLock()
        self._running: dict[str, Running] = {}

    def recover(self) -> None:
        """Queue the open jobs of an earlier server run."""
        self._store.interrupted("the server was killed", by_worker=False)
        for job in self._store.queued():
            self._queue.add(job)
        metrics.queue_changed({"queued": len(self._queue), "running": 0})

    @contextmanager
    def _for_client(self) -> Iterator[None]:
        """Hold the lock; raise an OSError if others, which the database keeps waiting, have it for too long.

        They wait in turn: without this, the fortieth request would wait 200 s, and hold a thread that reads need.
        """
        if not self._lock.acquire(timeout=WRITE_SECONDS):
            raise OSError(errno.EBUSY, "the job database is locked", "jobs.sqlite3")
        try:
            yield
        finally:
            self._lock.release()

    # --- clients --------------------------------------------------------------------------------------------------

    def submit(self, submission: Submission) -> Accepted:
        """Store a request as a job, on disk when this returns, or find the job that it repeats.

        Raises NoPlace, and KeyReused if its key belongs to another request.
        """
        with self._for_client():
            repeated = self._repeated(submission)
            if repeated is not None:
                return Accepted(repeated, True)
            self._require_place(submission.client)
            start_tag = self._queue.start_tag(submission.client, submission.priority)
            job = self._store.add(submission, start_tag)
            self._queue.add(job)
            return Accepted(job.job_id, False)

    def _require_place(self, client: str) -> None:
        """Raise NoPlace if the queue has no place for a further job of ``client``.

        A client that has places must leave as many free as it then has (dynamic thresholds, Choudhury and Hahne 1998): one
        alone gets half of the queue, two a third each. The last tenth, or at least one, is for clients that have none.
        """
        places, own = self._limits.max_queue, self._queue.count_by(client)
        free = places - len(self._queue)
        if free <= 0:
            raise NoPlace(f"the queue is full ({len(self._queue)} jobs of all clients)", self._retry_after())
        if self._limits.in_shares and own and free - 1 < max(own + 1, places // 10):
            message = (
                f"your share of the queue is full: you have {own} of its {places} places, with {free} free; accepted: as "
                "many as stay free for other clients"
            )
            raise ShareFull(message, self._retry_after())

    def _repeated(self, submission: Submission) -> str | None:
        if submission.key is not None:
            row = self._store.with_key(submission.client, submission.key)
            if row is None:
                return None
            job_id, fingerprint = row
            if fingerprint != submission.fingerprint:
                raise KeyReused(
                    f"Idempotency-Key {submission.key!r} belongs to job {job_id}, which is another request; accepted: "
                    "the same request, or another key"
                )
            return job_id
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
                return replace(job, position=0)  # a worker is being given it just now
            count, total = ahead
            seconds = [self._step_times.seconds(total), *map(self._seconds_left, list(self._running.values()))]
            measured = [s for s in seconds if s is not None]
            return replace(job, position=count, eta=sum(measured) if len(measured) == len(seconds) else None)
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
                preparing=running.preparing,
            )
        return job

    def preview(self, job_id: str) -> bytes | None:
        """Return the preview of a running job's image, a small JPEG; None if it has none."""
        running = self._running.get(job_id)
        return running.preview if running is not None else None

    def cancel(self, job_id: str) -> Running | None:
        """Cancel a queued job, or mark a running one as being cancelled; returns the running one, for its worker to be told."""
        with self._for_client():
            running = self._running.get(job_id)
            if running is not None:
                # Stored first: if a process dies before the step ends, the job must not run again.
                self._store.cancelling(job_id)
                running.is_cancelling = True
                return running
            if job_id in self._queue:
                # Stored first: if that fails, the job is still queued.
                self._store.end(job_id, "cancelled")
                self._queue.remove(job_id)
                self._publish_end(job_id, "cancelled", None)
            return None

    def delete(self, job_id: str) -> Job | None:
        """Delete a job that has ended, with its images, and return it; return an open one without deleting it."""
        with self._for_client():
            job = self._store.get(job_id)
            if job is not None and job.status not in OPEN:
                self._store.expire([job_id])
            return job

    def jobs_for(self, model: str) -> int:
        """Count the queued and running jobs that use a model."""
        return self._queue.count_of(model)

    @property
    def has_jobs_without_model(self) -> bool:
        """Whether a job is queued that needs no model."""
        return self._queue.has_jobs_without_model

    # --- workers --------------------------------------------------------------------------------------------------

    def take(
        self, slot: int, loaded: str | None, *, models: bool = True
    ) -> tuple[Running, JobRequest, dict[str, bytes]] | None:
        """Give a worker slot, which has the model ``loaded``, the next job; without ``models``, one that needs no model.

        Returns it with its request and attachments; None if no job is queued. If it raises, the job is queued again; raises
        Unstartable if an error in our own code is the cause.
        """
        with self._lock:
            job = self._queue.take(loaded, models=models)
            if job is None:
                return None
            try:
                request, attachments = self._store.start(job.job_id)
            except Exception as error:
                self._queue.add(job)
                self._queue.done(job)
                if fault_of(error) is None:
                    raise Unstartable(job.job_id, error) from error
                raise
            running = self._running[job.job_id] = Running(job, slot)
        with about_job(job.job_id):
            log.info("job %s runs", job.job_id)
        self._publish_running(job)
        self.publish_positions()
        return running, request, attachments

    def prepare(self, running: Running, event: Prepared) -> None:
        """Publish what a running job waits for."""
        running.preparing = event.progress
        self._publish_running(running.job)

    def step(self, running: Running, event: Progressed) -> None:
        """Add a step of a running job."""
        running.step(event)
        metrics.step_done(event.seconds)
        step_time = self._step_times.of(running.job.cost.shape)
        self._events.publish(running.job_id, "progress", running.to_dict(step_time))

    def add_image(self, running: Running, event: Finished) -> None:
        """Store an image of a running job."""
        self._store.add_image(running.job_id, event.image, event.seed, event.png, flagged=event.flagged)
        if event.flagged:
            metrics.image_flagged("blurred")
        self._publish_running(running.job)

    def note(self, running: Running, event: Noted) -> None:
        """Store a note on a running job."""
        self._store.add_note(running.job_id, event.text)
        self._publish_running(running.job)

    def end(self, running: Running, event: Ended) -> None:
        """End a running job with the status that its worker reports."""
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
        if event.code == UNSAFE:
            metrics.image_flagged("refused")
        measured = running.measured() if event.status == "succeeded" else None
        if measured is not None:
            self._learn(running.job.cost.shape, measured)
        self._publish_end(running.job_id, event.status, running.seconds)

    def _learn(self, shape: Shape, measured: StepTime) -> None:
        average = self._step_times.learn(shape, measured)
        try:
            self._store.keep_step_time(shape, average)
        except FAULTS as error:  # the job has ended all the same, and the next one of this shape stores it
            log.warning("the step time is not stored: %s", error)

    def fail(self, job_id: str, failure: JobFailure) -> None:
        """Fail a queued job."""
        with self._lock:
            if job_id in self._queue:
                self._store.end(job_id, "failed", failure)
                self._queue.remove(job_id)
                self._publish_end(job_id, "failed", None)

    def interrupt(self, running: Running, reason: str, *, by_job: bool) -> None:
        """Queue a job again whose worker has died, or fail it if that happened too often.

        by_job: the death counts against the job.
        """
        with self._lock:
            queued, ended = self._store.interrupted(reason, by_worker=by_job, job_ids=[running.job_id])
            self._forget(running)
            if queued:
                self._queue.add(running.job)
        for job_id in ended:
            self._publish_end(job_id, "cancelled" if running.is_cancelling else "failed", None)
        self.publish_positions()

    def requeue(self, running: Running) -> None:
        """Put a running job back into the queue without counting the attempt: the server is stopping."""
        with self._lock:
            self._store.requeue(running.job_id)
            self._forget(running)

    def _forget(self, running: Running) -> None:
        del self._running[running.job_id]
        self._queue.done(running.job)

    def settle(self) -> None:
        """Wait until the written images are on the disk."""
        self._store.images.settle()

    def expire(self) -> None:
        """Delete the ended jobs that the retention does not keep; to be called once an hour."""
        self._limits.retention.apply(self._store)

    def make_room(self) -> None:
        """Delete the oldest ended jobs while everything stored takes more room than the retention allows."""
        self._limits.retention.make_room(self._store)

    def check_store(self) -> None:
        """Raise what keeps the store from being written, such as a data folder that is gone."""
        self._store.check()

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
        """Tell the readers of queued jobs' events that positions may have changed."""
        metrics.queue_changed({"queued": len(self._queue), "running": len(self._running)})
        for channel in self._watched():
            self._events.publish(channel, "state", {"status": "queued"})

    def publish_all(self) -> None:
        """Have everybody who watches an open job, or waits for it, read it again."""
        for running in list(self._running.values()):
            self._publish_running(running.job)
        self.publish_positions()

    def _watched(self) -> Sequence[str]:
        return [channel for channel in self._events.watched() if channel in self._queue]
