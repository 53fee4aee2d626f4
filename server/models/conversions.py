"""The conversion queue: one at a time, in a child process; persistent, cancellable, resumable."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from converter.errors import AnemoneError
from converter.progress import Progress
from server import metrics
from server.events import EndStatus, EventLog
from server.faults import fault_of
from server.logs import LogFormat, about_job
from server.models.conversion import Conversion, ConversionFiles
from server.models.conversion_request import ConversionRequest
from server.models.converting import ConversionFailed, Converted, convert_requested
from server.models.installed import InstalledModels
from server.outage import Outage, Pauses
from server.supervisor import STOP_SECONDS, ChildProcess, Launch, Supervisor, spawn

log = logging.getLogger("anemone.conversions")

#: A conversion whose process died is tried once more.
_MOST_ATTEMPTS = 2
#: The most open conversions; each needs gigabytes of disk.
MOST_OPEN = 16

#: Returns the launcher of a process that converts for a request and reports on its end of a pipe.
LaunchConversion = Callable[[ConversionRequest], Launch]


class NameTaken(AnemoneError):
    """Another model has the name."""


class TooManyConversions(AnemoneError):
    """Too many conversions are open."""


def launch_conversion(data_dir: Path, log_format: LogFormat = "text") -> LaunchConversion:
    """Return a function that launches conversion processes, which write into ``data_dir`` and log like the server."""
    return lambda request: spawn(convert_requested, request, data_dir, log_format, name="anemone-conversion")


class Conversions:
    """All conversions, open and ended. One thread runs them; the methods may be called from any thread.

    ``events`` has a channel for each conversion, named by its id: ``state`` at every change of status, ``progress`` between.

    A new conversion is on disk before it is answered. Its further states count in memory; one that cannot be written, for
    example because the disk is full, is written later. A server that starts before that does the conversion again, which
    keeps the networks that are finished.
    """

    def __init__(
        self,
        data_dir: Path,
        models: InstalledModels,
        events: EventLog,
        launch: LaunchConversion,
        pauses: Pauses | None = None,
    ) -> None:
        """``pauses``: how long to wait between attempts while states cannot be written, or no process can be started."""
        self._files, self._models, self._events = ConversionFiles(data_dir), models, events
        self._checkpoints = data_dir / "checkpoints"
        self._launch = launch
        self._listeners: list[Callable[[Conversion], None]] = []
        self._lock = threading.RLock()
        self._all: dict[str, Conversion] = self._files.read()
        self._running: str | None = None
        self._first: str | None = None
        self._cancelling: set[str] = set()
        #: The ids of conversions whose state is not on disk.
        self._unwritten: set[str] = set()
        self._outage = Outage("conversions", log, pauses)
        self._child: ChildProcess | None = None
        self._stopping = False
        self._supervisor = Supervisor()
        self._thread = threading.Thread(target=self._run, name="conversions", daemon=True)

    def start(self) -> None:
        """Resume the conversions of an earlier run, and start the thread."""
        self._models.sweep()
        for interrupted in [c for c in self._all.values() if c.status == "running"]:
            # It ran in a process of its own, so it did not cause the server's death.
            self._put(replace(interrupted, status="queued", attempts=interrupted.attempts - 1))
        self._thread.start()

    def listen(self, listener: Callable[[Conversion], None]) -> None:
        """Call ``listener`` with every change, in the thread that makes it; to be called before `start`."""
        self._listeners.append(listener)

    def stop(self) -> None:
        """Stop the process. Its conversion goes back to the queue, and its finished networks are kept."""
        self._stopping = True
        self._supervisor.wake()
        self._thread.join()
        self._supervisor.close()

    def all(self) -> list[Conversion]:
        """Return all conversions, the newest first."""
        with self._lock:
            return sorted(self._all.values(), key=lambda c: c.created, reverse=True)

    def get(self, conversion_id: str) -> Conversion | None:
        """Return the conversion; None if no conversion has this id."""
        return self._all.get(conversion_id)

    def checkpoints(self) -> dict[str, Path]:
        """Return the folders and .safetensors files in the data folder's ``checkpoints``, by name."""
        paths = self._checkpoints.iterdir() if self._checkpoints.is_dir() else ()
        return {
            path.name: path.absolute()
            for path in sorted(paths)
            if path.name[0] != "." and path.name.isprintable() and (path.is_dir() or path.suffix == ".safetensors")
        }

    def making(self, name: str) -> Conversion | None:
        """Return the open conversion that makes the model ``name``; None if no conversion does."""
        return next((c for c in self.all() if c.open and c.request.name == name), None)

    def submit(self, request: ConversionRequest, *, replacing: bool = False) -> Conversion:
        """Return the conversion of this request: the existing one if it is open or its model is installed, else a new one.

        Raises NameTaken if another model has the request's name, and TooManyConversions. The server's first model is
        submitted with ``replacing``: it replaces a model of its name, and raises neither.
        """
        with self._lock:
            if replacing:
                # The server is not ready before it, and others may take minutes.
                self._first = request.id
            existing = self._all.get(request.id)
            if existing is not None and (
                existing.open
                or (existing.status == "succeeded" and not replacing and existing.request.name in self._models.names())
            ):
                return existing
            if not replacing:
                self._require_free(request)
                self._require_place()
            conversion = Conversion(request, "queued", time.time())
            if replacing:  # the server needs the model, whether or not the request can be stored
                self._put(conversion)
            else:
                self._files.write(conversion)
                self._set(conversion)
            for forgotten in self._files.forget(self._all):
                del self._all[forgotten]
        self._supervisor.wake()
        return conversion

    def _require_free(self, request: ConversionRequest) -> None:
        other = self.making(request.name)
        if request.name in self._models.names() or (other is not None and other.id != request.id):
            raise NameTaken(
                f"a model {request.name} exists already, or is being converted; choose another name, or delete that model"
            )

    def _require_place(self) -> None:
        if sum(c.open for c in self._all.values()) >= MOST_OPEN:
            raise TooManyConversions(f"{MOST_OPEN} conversions are open already; try again when one of them has ended")

    def cancel(self, conversion_id: str) -> Conversion | None:
        """Cancel a conversion and return it; None if no conversion has this id.

        Its finished networks are kept for the next conversion with the same request.
        """
        with self._lock:
            conversion = self._all.get(conversion_id)
            if conversion is None or not conversion.open:
                return conversion
            if self._running == conversion_id and self._child is not None:
                self._cancelling.add(conversion_id)
                self._child.terminate()
            else:
                self._end(conversion, "cancelled")
            return self._all[conversion_id]

    # --- the thread -----------------------------------------------------------------------------------------------

    def _put(self, conversion: Conversion) -> None:
        """Set and publish a conversion's state; write it now or, if that is not possible, later."""
        with self._lock:
            self._set(conversion)
            self._unwritten.add(conversion.id)
            self._try(self._write)

    def _set(self, conversion: Conversion) -> None:
        with self._lock:
            self._all[conversion.id] = conversion
        self._publish(conversion)

    def _write(self) -> None:
        with self._lock:
            for conversion_id in sorted(self._unwritten):
                if conversion_id in self._all:
                    self._files.write(self._all[conversion_id])
                self._unwritten.discard(conversion_id)

    def _try(self, work: Callable[[], None]) -> bool:
        """Return whether the work is done; if not, the thread tries again later."""
        try:
            work()
        except Exception as error:
            self._outage.failed(error)
            self._supervisor.wake()  # the thread may sleep until something happens
            return False
        return True

    def _publish(self, conversion: Conversion) -> None:
        error = conversion.error and {"code": conversion.error[0], "message": conversion.error[1]}
        state = {"status": conversion.status, "model": conversion.request.name, "error": error}
        self._events.publish(conversion.id, "state", state, last=not conversion.open)
        for listener in self._listeners:
            listener(conversion)

    def _end(self, conversion: Conversion, status: EndStatus, error: tuple[str, str] | None = None) -> None:
        with about_job(conversion.id):
            log.info("the conversion of %s %s", conversion.request.source, status)
        self._put(replace(conversion, status=status, finished=time.time(), error=error, progress=None))
        metrics.conversion_ended(status)

    def _retry(self, conversion: Conversion, status: int | None) -> None:
        """Queue a conversion again whose process died with this exit status, or fail it if a process died before."""
        if conversion.attempts < _MOST_ATTEMPTS:
            self._put(replace(conversion, status="queued", progress=None))
            return
        times = f"died {conversion.attempts} times (last exit status {status})"
        message = f"the conversion's process {times}; it may need more memory than this machine has"
        self._end(conversion, "failed", ("process_died", message))

    def _run(self) -> None:
        while not self._stopping:
            if self._outage.is_due and self._try(self._work) and self._outage.end():
                log.info("conversions go on")
            if not self._try(self._listen):
                self._supervisor.wait([], self._outage.seconds_left)
        self._stop_child()

    def _work(self) -> None:
        try:
            self._write()
        finally:  # a conversion that needs more room than there is says so itself
            self._begin()

    def _listen(self) -> None:
        seconds = None if self._outage.cause is None else self._outage.seconds_left
        for child, report in self._supervisor.wait([] if self._child is None else [self._child], seconds):
            if isinstance(report, Progress):
                self._progressed(report)
            else:
                self._ended(child, report)

    def _begin(self) -> None:
        """Start the process of the conversion that has waited longest, the first model's before it, unless one is running."""
        with self._lock:
            queued = (c for c in self._all.values() if c.status == "queued")
            waiting = min(queued, key=lambda c: (c.id != self._first, c.created), default=None)
            if self._child is not None or waiting is None:
                return
            try:
                self._child, self._running = ChildProcess(self._launch(waiting.request)), waiting.id
            except Exception as error:
                if fault_of(error) is not None:
                    raise
                log.exception("the conversion of %s cannot be started", waiting.request.source)
                message = f"an internal error occurred ({type(error).__name__}); see the server's log"
                self._end(waiting, "failed", ("internal", message))
                self._supervisor.wake()
                return
            self._put(replace(waiting, status="running", started=time.time(), attempts=waiting.attempts + 1))
        with about_job(waiting.id):
            log.info("the conversion of %s begins", waiting.request.source)

    def _progressed(self, progress: Progress) -> None:
        with self._lock:
            assert self._running is not None
            self._all[self._running] = replace(self._all[self._running], progress=progress)
            data = {"stage": progress.stage, "item": progress.item, "done": progress.done, "total": progress.total}
            self._events.publish(self._running, "progress", {**data, "eta_s": progress.eta_s})
            for listener in self._listeners:
                listener(self._all[self._running])

    def _ended(self, child: ChildProcess, report: Converted | ConversionFailed | None) -> None:
        """End the running conversion with its process's report; None if the process died."""
        status = child.stop(STOP_SECONDS)
        with self._lock:
            assert self._running is not None
            conversion, cancelled = self._all[self._running], self._running in self._cancelling
            self._cancelling.discard(self._running)
            self._running = self._child = None
            if isinstance(report, Converted):
                self._end(conversion, "succeeded")
            elif cancelled:
                self._end(conversion, "cancelled")
            elif report is None:
                self._retry(conversion, status)
            else:
                self._end(conversion, "failed", (report.code, report.message))

    def _stop_child(self) -> None:
        if self._running is None or self._child is None:
            return
        self._child.terminate()
        self._child.stop(STOP_SECONDS)
        conversion = self._all[self._running]
        if self._running in self._cancelling:
            self._end(conversion, "cancelled")
        else:  # the server is stopping; the conversion is not the cause
            self._put(replace(conversion, status="queued", attempts=conversion.attempts - 1, progress=None))
