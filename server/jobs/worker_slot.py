"""A worker's slot: its process, and the job and model that it has."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from server.jobs.messages import Command, Event
from server.jobs.running import Running
from server.pipeline.request import JobRequest
from server.supervisor import ChildProcess, Launch, Transport

log = logging.getLogger("anemone.queue")

#: How long to wait until a worker that was asked to stop has exited, before it is killed.
_EXIT_SECONDS = 0.5


@dataclass(frozen=True)
class Assigned:
    """The slot's job is to be sent to its worker."""

    request: JobRequest
    attachments: dict[str, bytes]


@dataclass(frozen=True)
class Died:
    """The worker has exited with this status."""

    code: int | None


#: What happens to a slot: its worker's events, and the dispatcher's own.
SlotEvent = Event | Assigned | Died


@dataclass
class WorkerSlot:
    """A place for one worker process, which is restarted when it dies.

    unhandled: an event that could not be handled yet, for example because the disk is full. It is handled before the worker's
        next one is read.
    has_begun: whether the worker was told to load the first model.
    running: the job that the worker runs.
    loaded: the model that it has loaded.
    loads: the models that a client asked it to load, until it has answered.
    note: the file that names what the worker tries for the first time. The worker deletes it after the try, so the file
        exists only during the try, or if the worker died of it.
    deaths: how many times the worker died outside of jobs since one last loaded a model.
    idle_since: monotonic seconds.
    """

    number: int
    launch: Launch
    worker: ChildProcess | None = None
    unhandled: SlotEvent | None = None
    has_begun: bool = False
    running: Running | None = None
    loaded: str | None = None
    loads: set[str] = field(default_factory=set)
    note: Path | None = None
    deaths: int = 0
    idle_since: float = field(default_factory=time.monotonic)

    @property
    def transport(self) -> Transport | None:
        """The connection to the worker; None while no worker runs."""
        return self.worker.transport if self.worker is not None else None

    def send(self, command: Command) -> None:
        """Send a command, from any thread; it is dropped while no worker runs."""
        transport = self.transport
        if transport is not None:
            transport.send(command)

    def delete_note(self) -> None:
        """Delete the note, if there is one: what it names is not the cause of the worker's death."""
        if self.note is None:
            return
        try:
            self.note.unlink(missing_ok=True)
        except OSError as error:  # the compute unit is not tried again, which costs speed at most
            log.warning("%s cannot be deleted: %s", self.note, error.strerror)

    def end_worker(self) -> None:
        """End the worker that was asked to stop. It does not die of what it tries."""
        if self.worker is not None:
            self.worker.stop(_EXIT_SECONDS)
        self.delete_note()
