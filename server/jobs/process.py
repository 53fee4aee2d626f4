"""The worker's process, seen from here: its end of the pipe, its death."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from server.jobs.messages import Command, Event

#: Starts the worker process on its end of a pipe.
Launch = Callable[[Connection], SpawnProcess]

_LEAVE_SECONDS = 0.5


class WorkerProcess:
    """A worker that was started. `send` may be called from any thread; the others from the one that reads."""

    def __init__(self, launch: Launch) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self._process = launch(theirs)
        theirs.close()
        self._sending = threading.Lock()

    def send(self, command: Command) -> None:
        """Tell the worker. One that has just died is not told; `receive` says so."""
        with self._sending, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if not self.pipe.closed:
                self.pipe.send(command)

    def receive(self) -> Event | None:
        """The next event, waited for; None where the worker is dead."""
        try:
            event: Event = self.pipe.recv()
        except (EOFError, OSError):  # OSError where it was killed in the middle of a message
            return None
        return event

    def ended(self) -> int | None:
        """Wait until the process is gone; its exit status, negative for the signal that killed it."""
        self._process.join()
        with self._sending:
            self.pipe.close()
        return self._process.exitcode

    def end(self) -> None:
        """See the process off: killed, where it has not left by itself."""
        self._process.join(_LEAVE_SECONDS)
        if self._process.is_alive():
            self._process.kill()
        self.ended()


def launch_worker(target: Callable[..., None], *arguments: object) -> Launch:
    """A launcher of ``target(pipe, *arguments)`` in a fresh interpreter."""

    def launch(pipe: Connection) -> SpawnProcess:
        process = multiprocessing.get_context("spawn").Process(
            target=target, args=(pipe, *arguments), name="anemone-worker", daemon=True
        )
        process.start()
        return process

    return launch
