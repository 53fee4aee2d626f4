"""Supervises child processes (workers and conversions): starts them, exchanges messages, waits for events, stops them."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from server.signals import ignored_by_children

#: Starts a process, which gets its end of a pipe.
Launch = Callable[[Connection], BaseProcess]

#: How long a process may take to exit after it was asked to.
STOP_SECONDS = 3.0


def spawn(target: Callable[..., None], *arguments: object, name: str) -> Launch:
    """Return a launcher of ``target(pipe, *arguments)`` in a fresh interpreter."""

    def launch(pipe: Connection) -> BaseProcess:
        process = multiprocessing.get_context("spawn").Process(
            target=target, args=(pipe, *arguments), name=name, daemon=True
        )
        # Starting this helper of multiprocessing's, which it does itself otherwise, unblocks SIGINT.
        multiprocessing.resource_tracker.ensure_running()
        with ignored_by_children():
            process.start()
        return process

    return launch


class Transport(Protocol):
    """A connection to one process, on this machine or another."""

    @property
    def handle(self) -> Any:
        """The object for `multiprocessing.connection.wait`: ready when a message has arrived, or the other end is closed."""

    def send(self, message: object) -> None:
        """Send a message, from any thread; it is dropped if the other end is closed."""

    def receive(self) -> Any | None:
        """Wait for the next message; None once the other end is closed."""

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
        """Send a message; it is dropped if the process has died, which `receive` reports."""
        with self._sending, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if not self._pipe.closed:
                self._pipe.send(message)

    def receive(self) -> Any | None:
        """Wait for the next message; None once the process has exited."""
        try:
            return self._pipe.recv()
        except (EOFError, OSError):  # OSError if the process was killed while it sent a message
            return None

    def close(self) -> None:
        """Close the pipe."""
        with self._sending:
            self._pipe.close()


class ChildProcess:
    """A started process and the transport to it. `terminate` may be called from any thread."""

    def __init__(self, launch: Launch) -> None:
        ours, theirs = multiprocessing.Pipe()
        self.transport: Transport = PipeTransport(ours)
        self._process = launch(theirs)
        theirs.close()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def stop(self, grace_seconds: float) -> int | None:
        """Wait until it has exited, and kill it after ``grace_seconds``; return its exit status, negative if a signal killed it.

        To be called for one whose pipe is closed, too: it may hang as it exits.
        """
        self._process.join(grace_seconds)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self.transport.close()
        return self._process.exitcode


class Supervisor:
    """Waits, in one thread, for messages and deaths of child processes, and for `wake`."""

    def __init__(self) -> None:
        self._woken, self._wake = multiprocessing.Pipe(duplex=False)

    def wake(self) -> None:
        """End `wait`, from any thread."""
        self._wake.send_bytes(b"x")

    def wait(
        self, children: Sequence[ChildProcess], timeout: float | None = None
    ) -> list[tuple[ChildProcess, Any | None]]:
        """Return the next message of each child that has sent one, with None for a child that has exited.

        Returns an empty list after ``timeout`` seconds, or when `wake` was called.
        """
        by_handle = {child.transport.handle: child for child in children}
        ready = multiprocessing.connection.wait([self._woken, *by_handle], timeout)
        if self._woken in ready:
            self._woken.recv_bytes()
        return [(child, child.transport.receive()) for handle, child in by_handle.items() if handle in ready]

    def close(self) -> None:
        """Close the pipe of `wake`."""
        self._woken.close()
        self._wake.close()
