"""The queue: takes jobs in, says how they stand, cancels them; its other half hands them to the worker."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from converter.errors import AnemoneError
from server import metrics
from server.events import EventLog
from server.jobs.dispatcher import Dispatcher
from server.jobs.estimates import StepTimes
from server.jobs.fair_queue import FairQueue
from server.jobs.job import OPEN, Job, Status, Submission
from server.jobs.limits import Limits
from server.jobs.messages import Cancel, Load, Unload
from server.jobs.process import Launch
from server.jobs.readiness import Readiness
from server.jobs.store import JobStore

#: A client that does not name its request but says it sends it again means one it sent lately: SDKs give up after this.
_RETRY_SECONDS = 3600.0
#: Bounds of Retry-After; OpenAI's SDK does not come back when it is told more than 120.
_COME_BACK = (1, 120)


class QueueFull(AnemoneError):
    """As many jobs wait as may; ``retry_after`` says in how many seconds one of them will have gone."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} jobs are waiting, and no more may; come back in {retry_after} s")
        self.retry_after = retry_after


class KeyReused(AnemoneError):
    """A client gave two different requests one Idempotency-Key."""


@dataclass(frozen=True)
class Accepted:
    """A job that was taken in. ``is_repeat``: it was there already, the client had asked for it before."""

    job_id: str
    is_repeat: bool


class JobQueue:
    """Jobs from their acceptance to their end. Every method may be called from any thread."""

    def __init__(
        self,
        store: JobStore,
        launch: Launch,
        notice: Callable[[Readiness], None],
        limits: Limits | None = None,
        events: EventLog | None = None,
    ) -> None:
        """``notice`` hears of every change of readiness, in the queue's thread. ``events`` may be shared."""
        self._store, self._limits = store, limits or Limits()
        self.events = events or EventLog()
        self._queue, self._step_times = FairQueue(), StepTimes(store.step_times())
        self._dispatcher = Dispatcher(store, launch, self._queue, self._step_times, self.events, notice, self._limits)

    @property
    def readiness(self) -> Readiness:
        """How far the model is, now."""
        return self._dispatcher.readiness

    @property
    def limits(self) -> Limits:
        """What it keeps to."""
        return self._limits

    @property
    def loaded(self) -> str | None:
        """The loaded model."""
        return self._dispatcher.loaded

    def start(self, default_model: str | None = None, *, begin: bool = True) -> None:
        """Take up what an earlier server left, and begin; or only when `begin` is called.

        ``default_model`` is what jobs of a version without model names are bound to.
        """
        if default_model is not None:
            self._store.name_model(default_model)
        self._store.interrupted("the server was killed", by_worker=False)
        for job in self._store.queued():
            self._queue.add(job)
        metrics.queue_changed({"queued": len(self._queue), "running": 0})
        self._dispatcher.start(begin)

    def begin(self) -> None:
        """Start the worker, where `start` did not."""
        self._dispatcher.begin()

    def set_readiness(self, readiness: Readiness) -> None:
        """Show how the model is coming along before the worker is started; ``failed`` says that it never will be."""
        self._dispatcher.set_readiness(readiness)

    def stop(self, grace_seconds: float = 0.0) -> None:
        """Stop the worker. The job it is at may end within the grace; then it goes back to the queue."""
        self._dispatcher.stop(grace_seconds)
        self.events.close()

    # --- jobs -----------------------------------------------------------------------------------------------------

    def submit(self, submission: Submission) -> Accepted:
        """Keep a request as a job, on disk when this returns, or find the one it repeats.

        Raises QueueFull, and KeyReused where its key belongs to another request.
        """
        with self._dispatcher.lock:
            known = self._repeated(submission)
            if known is not None:
                return Accepted(known, True)
            if len(self._queue) >= self._limits.max_queue:
                raise QueueFull(len(self._queue), self._retry_after())
            start_tag = self._queue.start_tag(submission.client, submission.priority)
            job = self._store.add(submission, start_tag)
            self._queue.add(job)
        self._dispatcher.wake()
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
        running = self._dispatcher.running
        left = None if running is None else running.seconds_left(self._step_times.of(running.job.cost.shape))
        low, high = _COME_BACK
        return 10 if left is None else min(max(math.ceil(left), low), high)

    def job(self, job_id: str) -> Job | None:
        """The job as it stands, with its place and progress; None where there is none."""
        job = self._store.get(job_id)
        return None if job is None else self._as_it_stands(job)

    def jobs(
        self, limit: int, before: int | None = None, statuses: tuple[Status, ...] = (), model: str | None = None
    ) -> list[Job]:
        """A page of jobs as they stand; see `JobStore.page`."""
        return [self._as_it_stands(job) for job in self._store.page(limit, before, statuses, model)]

    def _as_it_stands(self, job: Job) -> Job:
        running = self._dispatcher.running
        left = None if running is None else running.seconds_left(self._step_times.of(running.job.cost.shape))
        if job.status == "queued":
            ahead = self._queue.ahead(job.id)
            if ahead is None:
                return replace(job, position=0)  # it is being handed to the worker in this moment
            count, total = ahead
            seconds = self._step_times.seconds(total)
            known = seconds is not None and (running is None or left is not None)
            eta = (seconds or 0.0) + (left or 0.0) if known else None
            return replace(job, position=count, eta=eta)
        if job.status == "running" and running is not None and running.job_id == job.id:
            last = running.last_step
            if last is not None:
                job = replace(job, image=last.image, step=last.step, steps=last.total)
            return replace(job, eta=left, steps_done=running.steps_done, step_seconds=running.step_seconds)
        return job

    def preview(self, job_id: str) -> bytes | None:
        """What a running job's picture looks like now, as a small JPEG; None where there is nothing to see."""
        running = self._dispatcher.running
        return running.preview if running is not None and running.job_id == job_id else None

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a queued job at once, a running one after its step; the job as it stands then."""
        with self._dispatcher.lock:
            running = self._dispatcher.running
            if running is not None and running.job_id == job_id:
                # Noted first: whatever dies before the step is over, the job does not come back.
                self._store.cancelling(job_id)
                running.is_cancelling = True
                self._dispatcher.send(Cancel(job_id))
            elif self._queue.remove(job_id):
                self._store.end(job_id, "cancelled")
                self._dispatcher.publish_end(job_id, "cancelled", None)
        return self.job(job_id)

    async def wait(self, job_id: str) -> Job | None:
        """The job once it is over, or as it stands when there is no worker left to do it or the server stops."""
        events = self.events.subscribe(job_id)
        try:
            job = self.job(job_id)
            while job is not None and job.status in OPEN and self.readiness.state != "failed":
                event = await anext(events, None)
                if event is None:
                    return self.job(job_id)
                if event.kind == "state":
                    job = self.job(job_id)
            return job
        finally:
            events.close()

    # --- models ---------------------------------------------------------------------------------------------------

    def load(self, model: str) -> None:
        """Have the worker load a model for jobs to come; how it goes is told in the events of ``models/NAME``."""
        self._dispatcher.send(Load(model))

    def unload(self, model: str) -> None:
        """Have the worker let a model go once the job it is at is over."""
        self._dispatcher.send(Unload(model))

    def jobs_for(self, model: str) -> int:
        """How many jobs wait for a model or are made with it."""
        running = self._dispatcher.running
        return self._queue.count_of(model) + (running is not None and running.job.cost.shape.model == model)
