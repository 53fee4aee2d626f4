"""Child processes, for workers and conversions alike: start one, exchange messages, wait for news of several, stop it."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

#: Starts a process on its end of a pipe.
Launch = Callable[[Connection], BaseProcess]

#: A process that was asked to leave has so long.
STOP_SECONDS = 3.0


def spawn(target: Callable[..., None], *arguments: object, name: str) -> Launch:
    """Return a launcher of ``target(pipe, *arguments)`` in a fresh interpreter."""

    def launch(pipe: Connection) -> BaseProcess:
        process = multiprocessing.get_context("spawn").Process(
            target=target, args=(pipe, *arguments), name=name, daemon=True
        )
        process.start()
        return process

    return launch


class Transport(Protocol):
    """A way to exchange messages with one process, on this machine or another."""

    @property
    def handle(self) -> Any:
        """What `multiprocessing.connection.wait` waits for: ready when a message has come, or the other end is gone."""

    def send(self, message: object) -> None:
        """Send a message from any thread; one to an end that is gone is dropped."""

    def receive(self) -> Any | None:
        """Wait for the next message; None once the other end is gone."""

    def close(self) -> None:
        """Close this end."""


class PipeTransport:
    """Messages over a `multiprocessing.Pipe`."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._sending = pipe, threading.Lock()

    @property
    def handle(self) -> Connection:
        """The pipe."""
        return self._pipe

    def send(self, message: object) -> None:
        """Send a message; `receive` says so if the process has just died."""
        with self._sending, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if not self._pipe.closed:
                self._pipe.send(message)

    def receive(self) -> Any | None:
        """Wait for the next message; None once the process is gone."""
        try:
            return self._pipe.recv()
        except (EOFError, OSError):  # OSError if it was killed in the middle of a message
            return None

    def close(self) -> None:
        """Close the pipe."""
        with self._sending:
            self._pipe.close()


class ChildProcess:
    """A process that was started, and the transport to it. `terminate` may be called from any thread, too."""

    def __init__(self, launch: Launch) -> None:
        ours, theirs = multiprocessing.Pipe()
        self.transport: Transport = PipeTransport(ours)
        self._process = launch(theirs)
        theirs.close()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def join(self) -> int | None:
        """Wait until it has exited; returns its exit status, negative for the signal that killed it."""
        self._process.join()
        self.transport.close()
        return self._process.exitcode

    def stop(self, grace_seconds: float) -> int | None:
        """Kill it if it has not exited within the grace; returns its exit status."""
        self._process.join(grace_seconds)
        if self._process.is_alive():
            self._process.kill()
        return self.join()


class Supervisor:
    """Waits, in one thread, for messages and deaths of child processes and for `wake`."""

    def __init__(self) -> None:
        self._woken, self._wake = multiprocessing.Pipe(duplex=False)

    def wake(self) -> None:
        """End a wait, from any thread."""
        self._wake.send_bytes(b"x")

    def wait(
        self, children: Sequence[ChildProcess], timeout: float | None = None
    ) -> list[tuple[ChildProcess, Any | None]]:
        """Return the next message of each child that has sent one, None for one that is gone.

        Returns an empty list after ``timeout`` seconds, or when it was woken.
        """
        by_handle = {child.transport.handle: child for child in children}
        ready = multiprocessing.connection.wait([self._woken, *by_handle], timeout)
        if self._woken in ready:
            self._woken.recv_bytes()
        return [(child, child.transport.receive()) for handle, child in by_handle.items() if handle in ready]

    def close(self) -> None:
        """Close the pipe that wakes it."""
        self._woken.close()
        self._wake.close()
