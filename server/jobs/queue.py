"""The queue as the API sees it: submit, read, wait for and cancel jobs; load and unload models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from converter.progress import Progress
from server.events import OPEN, EventLog, Status
from server.jobs.dispatcher import Dispatcher
from server.jobs.job import Job, Submission
from server.jobs.ledger import Accepted, JobLedger, Limits
from server.jobs.loading import FindRepair
from server.jobs.readiness import Readiness
from server.jobs.slot_events import Models
from server.jobs.store import JobStore
from server.outage import Pauses
from server.supervisor import Launch


class JobQueue:
    """The queue of jobs. Every method may be called from any thread."""

    def __init__(
        self,
        store: JobStore,
        workers: Sequence[Launch],
        models: Models,
        on_readiness: Callable[[Readiness], None],
        limits: Limits | None = None,
        events: EventLog | None = None,
        pauses: Pauses | None = None,
    ) -> None:
        """``workers`` has a launcher for each. ``on_readiness`` is called at every change; ``events`` may be shared.

        ``pauses``: how long to wait between attempts while the disk or the database cannot be used.
        """
        self._store, self.limits = store, limits or Limits()
        self.events = events or EventLog()
        self._ledger = JobLedger(store, self.events, self.limits)
        self._dispatcher = Dispatcher(self._ledger, workers, models, self.events, self.limits, on_readiness, pauses)

    @property
    def readiness(self) -> Readiness:
        """The state of the first model, or of the outage that keeps jobs from running."""
        return self._dispatcher.readiness

    @property
    def loaded(self) -> list[str]:
        """The models that are loaded."""
        return self._dispatcher.loaded

    def start(self, default_model: str | None = None, find_repair: FindRepair = lambda model: None) -> None:
        """Queue the open jobs of an earlier server run; `on_installed` starts the workers.

        Jobs that a version without model names stored are bound to ``default_model``. ``find_repair`` is asked for models
        that are damaged or gone.
        """
        if default_model is not None:
            self._store.name_model(default_model)
        self._ledger.recover()
        self._dispatcher.start(find_repair)

    def on_progress(self, progress: Progress) -> None:
        """Publish the progress of the first model's conversion."""
        self._dispatcher.set_readiness(Readiness(progress.stage, progress))

    def on_failure(self, message: str) -> None:
        """Publish why there will be no first model."""
        self._dispatcher.set_readiness(Readiness("failed", message=message))

    def on_installed(self, model: str) -> None:
        """Start the workers, each of which loads this model first."""
        self._dispatcher.begin(model)

    def stop(self, grace_seconds: float = 0.0) -> None:
        """Stop the workers. A running job goes back to the queue unless it ends within ``grace_seconds``."""
        self._dispatcher.stop(grace_seconds)
        self.events.close()

    # --- jobs -----------------------------------------------------------------------------------------------------

    def submit(self, submission: Submission) -> Accepted:
        """Store a request as a job, on disk when this returns, or find the job that it repeats.

        Raises NoPlace, and KeyReused if its key belongs to another request.
        """
        accepted = self._ledger.submit(submission)
        if not accepted.is_repeat:
            self._dispatcher.wake()
        return accepted

    def job(self, job_id: str) -> Job | None:
        """Return the job with its present position and progress; None if no job has this id."""
        job = self._store.get(job_id)
        return None if job is None else self._current(job)

    def jobs(
        self, limit: int, before: int | None = None, statuses: tuple[Status, ...] = (), model: str | None = None
    ) -> list[Job]:
        """Return a page of jobs with their present positions and progress; see `JobStore.page`."""
        return [self._current(job) for job in self._store.page(limit, before, statuses, model)]

    def _current(self, job: Job) -> Job:
        cause = self.readiness.cause
        paused = cause.message if cause is not None and job.status in OPEN else None
        return replace(self._ledger.current(job), paused=paused)

    def preview(self, job_id: str) -> bytes | None:
        """Return the preview of a running job's image, a small JPEG; None if it has none."""
        return self._ledger.preview(job_id)

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a queued job at once, a running one after its present call of a network; returns the job."""
        running = self._ledger.cancel(job_id)
        if running is not None:
            self._dispatcher.cancel(running)
        return self.job(job_id)

    def delete(self, job_id: str) -> Job | None:
        """Delete a job that has ended, with its images, and return it; return an open one without deleting it."""
        return self._ledger.delete(job_id)

    async def wait(self, job_id: str) -> Job | None:
        """Return the job once it has ended; earlier if `Dispatcher.is_stuck` says so, or the server stops."""
        events = self.events.subscribe(job_id)
        try:
            job = self.job(job_id)
            while job is not None and job.status in OPEN and not self._dispatcher.is_stuck(job.model):
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
        """Have a worker load a model; the events of ``models/NAME`` report the progress.

        Raises AnemoneError if no model has this name.
        """
        self._dispatcher.load(model)

    def restore(self, model: str) -> bool:
        """Have a model whose folder is gone made again if that can be; return whether it is."""
        return self._dispatcher.restore(model)

    def unload(self, model: str) -> None:
        """Have the workers unload a model once their running jobs have ended."""
        self._dispatcher.unload(model)

    def jobs_for(self, model: str) -> int:
        """Count the queued and running jobs of a model."""
        return self._ledger.jobs_for(model)
