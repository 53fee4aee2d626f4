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
from server.logs import LogFormat, about_job
from server.models.conversion import Conversion, ConversionFiles
from server.models.conversion_request import ConversionRequest
from server.models.converting import ConversionFailed, Converted, convert_requested
from server.models.installed import InstalledModels
from server.supervisor import STOP_SECONDS, ChildProcess, Launch, Supervisor, spawn

log = logging.getLogger("anemone.conversions")

#: A conversion whose process died is begun once more.
_MOST_ATTEMPTS = 2
#: Conversions that may wait; each brings gigabytes.
MOST_OPEN = 16

#: Returns the launcher of a process that serves a request and reports on its end of a pipe.
LaunchConversion = Callable[[ConversionRequest], Launch]


class NameTaken(AnemoneError):
    """The name is another model's."""


class TooManyConversions(AnemoneError):
    """Enough conversions wait already."""


def launch_conversion(data_dir: Path, log_format: LogFormat = "text") -> LaunchConversion:
    """Return what launches conversion processes that write into ``data_dir``, and log as the server does."""
    return lambda request: spawn(convert_requested, request, data_dir, log_format, name="anemone-conversion")


class Conversions:
    """All conversions, open and ended. One thread does the waiting; the methods may be called from any.

    ``events`` has a channel for each, named by its id: ``state`` at every change of its status, ``progress`` between.
    """

    def __init__(
        self,
        data_dir: Path,
        models: InstalledModels,
        events: EventLog,
        launch: LaunchConversion,
    ) -> None:
        self._files, self._models, self._events = ConversionFiles(data_dir), models, events
        self._checkpoints = data_dir / "checkpoints"
        self._launch = launch
        self._listeners: list[Callable[[Conversion], None]] = []
        self._lock = threading.RLock()
        self._all: dict[str, Conversion] = self._files.read()
        self._running: str | None = None
        self._cancelling: set[str] = set()
        self._child: ChildProcess | None = None
        self._stopping = False
        self._supervisor = Supervisor()
        self._thread = threading.Thread(target=self._run, name="conversions", daemon=True)

    def start(self) -> None:
        """Resume the conversions of an earlier run, and start the thread."""
        self._models.sweep()
        for left in [c for c in self._all.values() if c.status == "running"]:
            # It ran in a process of its own, so it is not what the server died of.
            self._put(replace(left, status="queued", attempts=left.attempts - 1))
        self._thread.start()

    def listen(self, listener: Callable[[Conversion], None]) -> None:
        """Call ``listener`` with every change, in the thread that makes it; to be called before `start`."""
        self._listeners.append(listener)

    def stop(self) -> None:
        """Stop the process; its conversion goes back to the queue and keeps the networks that are finished."""
        self._stopping = True
        self._supervisor.wake()
        self._thread.join()
        self._supervisor.close()

    def all(self) -> list[Conversion]:
        """Return all conversions, the newest first."""
        with self._lock:
            return sorted(self._all.values(), key=lambda c: c.created, reverse=True)

    def get(self, conversion_id: str) -> Conversion | None:
        """Return the conversion; None if there is none of this id."""
        return self._all.get(conversion_id)

    def checkpoints(self) -> dict[str, Path]:
        """Return the folders and .safetensors files in the data folder's ``checkpoints``, by name."""
        there = self._checkpoints.iterdir() if self._checkpoints.is_dir() else ()
        return {
            path.name: path.absolute()
            for path in sorted(there)
            if path.name[0] != "." and path.name.isprintable() and (path.is_dir() or path.suffix == ".safetensors")
        }

    def making(self, name: str) -> Conversion | None:
        """Return the open conversion that makes the model ``name``; None if there is none."""
        return next((c for c in self.all() if c.open and c.request.name == name), None)

    def submit(self, request: ConversionRequest, *, replacing: bool = False) -> Conversion:
        """Return the conversion of this request: the known one if it is open or its model is installed, else a new one.

        Raises NameTaken if another model has the request's name, and TooManyConversions. The server's first model is
        ``replacing`` whatever has its name, and raises neither.
        """
        with self._lock:
            there = self._all.get(request.id)
            if there is not None and (
                there.open
                or (there.status == "succeeded" and not replacing and there.request.name in self._models.names())
            ):
                return there
            if not replacing:
                self._require_free(request)
                self._require_place()
            self._put(Conversion(request, "queued", time.time()))
            for gone in self._files.forget(self._all):
                del self._all[gone]
        self._supervisor.wake()
        return self._all[request.id]

    def _require_free(self, request: ConversionRequest) -> None:
        other = self.making(request.name)
        if request.name in self._models.names() or (other is not None and other.id != request.id):
            raise NameTaken(
                f"there is a model {request.name} already, or one is being made; give this one another name, or delete that one"
            )

    def _require_place(self) -> None:
        if sum(c.open for c in self._all.values()) >= MOST_OPEN:
            raise TooManyConversions(f"{MOST_OPEN} conversions wait already; come back when one is done")

    def cancel(self, conversion_id: str) -> Conversion | None:
        """Stop it. The networks it has finished are kept for when the same is asked for again."""
        with self._lock:
            found = self._all.get(conversion_id)
            if found is None or not found.open:
                return found
            if self._running == conversion_id and self._child is not None:
                self._cancelling.add(conversion_id)
                self._child.terminate()
            else:
                self._over(found, "cancelled")
            return self._all[conversion_id]

    # --- the thread -----------------------------------------------------------------------------------------------

    def _put(self, conversion: Conversion) -> None:
        with self._lock:
            self._all[conversion.id] = conversion
            self._files.write(conversion)
        self._publish(conversion)

    def _publish(self, conversion: Conversion) -> None:
        error = conversion.error and {"code": conversion.error[0], "message": conversion.error[1]}
        state = {"status": conversion.status, "model": conversion.request.name, "error": error}
        self._events.publish(conversion.id, "state", state, last=not conversion.open)
        for listener in self._listeners:
            listener(conversion)

    def _over(self, conversion: Conversion, status: EndStatus, error: tuple[str, str] | None = None) -> None:
        with about_job(conversion.id):
            log.info("the conversion of %s %s", conversion.request.source, status)
        self._put(replace(conversion, status=status, finished=time.time(), error=error, progress=None))
        metrics.conversion_ended(status)

    def _again(self, conversion: Conversion, status: int | None) -> None:
        """Queue a conversion again whose process died with this exit status, or fail it if that happened before."""
        if conversion.attempts < _MOST_ATTEMPTS:
            self._put(replace(conversion, status="queued", progress=None))
            return
        times = f"died {conversion.attempts} times (last exit status {status})"
        message = f"the conversion's process {times}; it may need more memory than there is"
        self._over(conversion, "failed", ("process_died", message))

    def _run(self) -> None:
        while not self._stopping:
            self._begin()
            for child, report in self._supervisor.wait([] if self._child is None else [self._child]):
                if isinstance(report, Progress):
                    self._progressed(report)
                else:
                    self._ended(child, report)
        self._leave()

    def _begin(self) -> None:
        """Start the process of the conversion that has waited longest, if none runs."""
        with self._lock:
            waiting = min(
                (c for c in self._all.values() if c.status == "queued"), key=lambda c: c.created, default=None
            )
            if self._child is not None or waiting is None:
                return
            self._put(replace(waiting, status="running", started=time.time(), attempts=waiting.attempts + 1))
            self._child, self._running = ChildProcess(self._launch(waiting.request)), waiting.id
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
        """End the conversion as its process reports; None is a process that died."""
        status = child.join()
        with self._lock:
            assert self._running is not None
            conversion, cancelled = self._all[self._running], self._running in self._cancelling
            self._cancelling.discard(self._running)
            self._running = self._child = None
            if isinstance(report, Converted):
                self._over(conversion, "succeeded")
            elif cancelled:
                self._over(conversion, "cancelled")
            elif report is None:
                self._again(conversion, status)
            else:
                self._over(conversion, "failed", (report.code, report.message))

    def _leave(self) -> None:
        if self._running is None or self._child is None:
            return
        self._child.terminate()
        self._child.stop(STOP_SECONDS)
        conversion = self._all[self._running]
        if self._running in self._cancelling:
            self._over(conversion, "cancelled")
        else:  # the server is stopping; the conversion is not to blame
            self._put(replace(conversion, status="queued", attempts=conversion.attempts - 1, progress=None))
