"""The queue: hands jobs to the worker one at a time, keeps what it reports, and starts it again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from converter.folder import Manifest
from server.jobs.job import OPEN, Job, JobFailure
from server.jobs.messages import Cancel, Ended, Event, Finished, Preparing, Progressed, Ready, Run, Stop, Unable
from server.jobs.request import GenerationRequest
from server.jobs.store import JobStore

log = logging.getLogger("anemone.queue")

#: Deaths in a row without a job done after which the worker is left down: it would only die again.
_MOST_DEATHS = 3
_STOP_SECONDS = 5.0

#: Starts the worker process on its end of a pipe.
Launch = Callable[[Connection], SpawnProcess]


@dataclass(frozen=True)
class Readiness:
    """How far the model is.

    ``state`` is starting, converting, verifying, loading, ready or failed (then ``message`` says why).
    """

    state: str = "starting"
    network: str | None = None
    done: int = 0
    total: int = 0
    message: str | None = None
    manifest: Manifest | None = None


class JobQueue:
    """One worker, fed from the store. Its thread does all the waiting; the other methods may be called from any."""

    def __init__(self, store: JobStore, launch: Launch, notice: Callable[[Readiness], None]) -> None:
        """``notice`` hears of every change of readiness, in the queue's thread."""
        self._store, self._launch, self._notice = store, launch, notice
        self._readiness = Readiness()
        self._progress: dict[str, Progressed] = {}
        self._waiters: dict[str, list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}
        self._lock = threading.Lock()
        self._running: str | None = None
        self._cancelling: set[str] = set()
        self._worker: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._deaths = 0
        self._stopping = False
        # A byte through this pair wakes the thread out of its wait.
        self._woken, self._wake = multiprocessing.Pipe(duplex=False)
        self._thread = threading.Thread(target=self._run, name="job-queue", daemon=True)

    @property
    def readiness(self) -> Readiness:
        """How far the model is, now."""
        return self._readiness

    def start(self) -> None:
        """Take up what an earlier server left, and begin."""
        self._store.interrupted("the server stopped")
        self._thread.start()

    def stop(self) -> None:
        """Stop the worker; the job it is at goes back to the queue."""
        self._stopping = True
        self._wake.send_bytes(b"x")
        self._thread.join()

    def submit(self, request: GenerationRequest) -> str:
        """Keep a request as a job; its id."""
        job_id = self._store.add(request)
        self._wake.send_bytes(b"x")
        return job_id

    def job(self, job_id: str) -> Job | None:
        """The job as it stands, with its progress."""
        job = self._store.get(job_id)
        seen = self._progress.get(job_id)
        if job is None or seen is None or job.status != "running":
            return job
        return replace(job, image=seen.image, step=seen.step, steps=seen.total)

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a queued job at once, a running one after its step; the job as it stands then."""
        with self._lock:
            if self._running == job_id and self._pipe is not None:
                self._cancelling.add(job_id)
                # A worker that has just died is noticed by the thread, which then ends the job itself.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self._pipe.send(Cancel(job_id))
                return self.job(job_id)
            job = self._store.get(job_id)
            if job is not None and job.status in OPEN:
                self._store.end(job_id, "cancelled")
                self._announce(job_id)
        return self.job(job_id)

    async def wait(self, job_id: str) -> Job | None:
        """The job once it is over, or as it stands when there is no worker left to do it."""
        entry = (asyncio.get_running_loop(), asyncio.Event())
        self._waiters.setdefault(job_id, []).append(entry)
        try:
            job = self._store.get(job_id)
            while job is not None and job.status in OPEN and self._readiness.state != "failed":
                await entry[1].wait()
                entry[1].clear()
                job = self._store.get(job_id)
            return job
        finally:
            remaining = [e for e in self._waiters.get(job_id, []) if e is not entry]
            if remaining:
                self._waiters[job_id] = remaining
            else:
                self._waiters.pop(job_id, None)

    # --- the thread -----------------------------------------------------------------------------------------------

    def _announce(self, job_id: str) -> None:
        for loop, event in self._waiters.get(job_id, []):
            loop.call_soon_threadsafe(event.set)

    def _now(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self._notice(readiness)
        if readiness.state == "failed":
            for job_id in list(self._waiters):
                self._announce(job_id)

    def _run(self) -> None:
        self._start_worker()
        while not self._stopping:
            self._feed()
            sources: list[Connection] = [self._woken]
            if self._pipe is not None:
                sources.append(self._pipe)
            for source in multiprocessing.connection.wait(sources):
                if source is self._woken:
                    self._woken.recv_bytes()
                elif self._pipe is not None:
                    self._read(self._pipe)
        self._stop_worker()

    def _start_worker(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        self._worker = self._launch(theirs)
        theirs.close()
        with self._lock:
            self._pipe = ours

    def _read(self, pipe: Connection) -> None:
        try:
            event: Event = pipe.recv()
        except (EOFError, ConnectionResetError):
            self._mourn()
            return
        self._keep(event)

    def _keep(self, event: Event) -> None:
        """Act on what the worker says."""
        if isinstance(event, Preparing):
            self._now(
                replace(self._readiness, state=event.stage, network=event.network, done=event.done, total=event.total)
            )
        elif isinstance(event, Ready):
            self._now(Readiness("ready", manifest=Manifest.read(event.folder)))
        elif isinstance(event, Unable):
            self._now(replace(self._readiness, state="failed", message=event.message))
        elif isinstance(event, Progressed):
            self._progress[event.job_id] = event
        elif isinstance(event, Finished):
            self._store.add_image(event.job_id, event.image, event.seed, event.png)
        else:
            self._end(event)

    def _end(self, event: Ended) -> None:
        failure = JobFailure(event.code, event.message or "") if event.code else None
        status = event.status
        if status not in ("succeeded", "failed", "cancelled"):
            raise ValueError(f"the worker ended a job as {status!r}")
        with self._lock:
            self._store.end(event.job_id, status, failure)  # type: ignore[arg-type]
            self._running = None
            self._cancelling.discard(event.job_id)
        self._progress.pop(event.job_id, None)
        self._deaths = 0
        self._announce(event.job_id)

    def _mourn(self) -> None:
        """The worker is gone: its job is tried once more, and a new worker started unless dying is all it does."""
        assert self._worker is not None
        self._worker.join()
        code = self._worker.exitcode
        with self._lock:
            job_id, self._running, self._pipe = self._running, None, None
            if job_id is not None and job_id in self._cancelling:
                self._cancelling.discard(job_id)
                self._store.end(job_id, "cancelled")
                self._announce(job_id)
        for failed in self._store.interrupted(f"the worker died (exit status {code})"):
            self._announce(failed)
        if job_id is not None:
            self._progress.pop(job_id, None)
        if self._readiness.state == "failed" or self._stopping:
            return
        if job_id is None:
            # A death in a job is the job's doing, and the job is failed for it; these are the worker's own.
            self._deaths += 1
        log.error("the worker died (exit status %s)", code)
        if self._deaths >= _MOST_DEATHS:
            message = f"the worker died {self._deaths} times in a row (last exit status {code}); restart the server"
            self._now(replace(self._readiness, state="failed", message=message))
            return
        self._now(replace(self._readiness, state="starting", network=None, done=0, total=0))
        self._start_worker()

    def _feed(self) -> None:
        """Give the worker the next job if it is free."""
        if self._readiness.state != "ready" or self._pipe is None:
            return
        with self._lock:
            if self._running is not None:
                return
            following = self._store.start_next()
            if following is None:
                return
            self._running = following[0]
            try:
                self._pipe.send(Run(*following))
            except (BrokenPipeError, ConnectionResetError):
                return  # its death is read from the pipe next, and the job put back

    def _stop_worker(self) -> None:
        worker = self._worker
        if worker is None:
            return
        if self._pipe is not None:
            try:
                self._pipe.send(Stop())
            except (BrokenPipeError, ConnectionResetError):
                log.info("the worker was gone before it was told to stop")
        deadline = time.monotonic() + _STOP_SECONDS
        while worker.is_alive() and time.monotonic() < deadline:
            # What it still reports is kept: the job may have ended in this very moment.
            if self._pipe is not None and self._pipe.poll(0.05):
                try:
                    event: Event = self._pipe.recv()
                except (EOFError, ConnectionResetError):
                    break
                if isinstance(event, Finished | Ended):
                    self._keep(event)
        worker.join(0.5)
        if worker.is_alive():
            worker.kill()
            worker.join()
        if self._running is not None:
            self._store.requeue(self._running)


def launch_worker(target: Callable[..., None], *arguments: object) -> Launch:
    """A launcher of ``target(pipe, *arguments)`` in a fresh interpreter."""

    def launch(pipe: Connection) -> SpawnProcess:
        process = multiprocessing.get_context("spawn").Process(
            target=target, args=(pipe, *arguments), name="anemone-worker", daemon=True
        )
        process.start()
        return process

    return launch
