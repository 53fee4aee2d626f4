"""A worker's slot: its process, and the job and model that it has."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from server.jobs.messages import Command
from server.jobs.running import Running
from server.supervisor import ChildProcess, Launch, Transport


@dataclass
class WorkerSlot:
    """A place for one worker process, which is restarted when it dies.

    running: the job that the worker runs.
    loaded: the model that it has loaded.
    loads: the models that a client asked it to load, until it has answered.
    note: the file that names what the worker tries for the first time. The worker deletes it after the try, so the file
        exists only during the try, or if the worker died of it.
    deaths: how many times in a row the worker died outside of jobs.
    idle_since: monotonic seconds.
    """

    number: int
    launch: Launch
    worker: ChildProcess | None = None
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
