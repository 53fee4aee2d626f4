"""The HTTP server: which connections it accepts; at shutdown, the running job may end and waiting clients are answered."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from server.security.connections import ConnectionLimits, Connections, Place
from server.security.listener import Listener
from server.security.protocol import Connection
from server.signals import exit_status, handled_by
from server.terminal import say

#: Time for the worker to exit and for answers to be sent, in addition to the running job's grace.
_EXIT_SECONDS = 5


class Shutdown:
    """Stops the backend once, at the first call: by the server when it exits, or by the end of the app."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._task: asyncio.Task[None] | None = None

    @property
    def is_begun(self) -> bool:
        """Whether the server is stopping."""
        return self._task is not None

    async def __call__(self) -> None:
        """Return once it has stopped."""
        if self._task is None:
            self._task = asyncio.create_task(asyncio.to_thread(self._stop))
        await asyncio.shield(self._task)


class Server(uvicorn.Server):
    """A uvicorn server that limits connections and, on exit, stops the queue before it waits for the answers of its jobs."""

    def __init__(
        self, app: FastAPI, grace_seconds: float, limits: ConnectionLimits | None = None, **options: Any
    ) -> None:
        """``grace_seconds`` as for `create_app`; ``options`` as `uvicorn.Config` takes them."""
        self._limits = limits or ConnectionLimits()
        config = uvicorn.Config(
            app,
            timeout_keep_alive=self._limits.idle_seconds,  # type: ignore[arg-type]  # fractions of a second do as well
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="warning",
            timeout_graceful_shutdown=math.ceil(grace_seconds) + _EXIT_SECONDS,
            server_header=False,
            proxy_headers=False,  # a client could forge its address with them
            **options,
        )
        super().__init__(config)
        self._served, self._grace_seconds = app, grace_seconds
        #: The exit status: that of Ctrl-C after Ctrl-C; 0 after the other signals, by which the system stops a service.
        self.status = 0
        self.connections = Connections(self._limits)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the backend, then accept connections on these sockets, which are bound."""
        await super().startup(sockets=[])
        listeners = [
            Listener(listening, self.connections, self._limits, self._connection, self.config.ssl)
            for listening in sockets or ()
        ]
        for listener in listeners:
            listener.start()
        self.servers = listeners  # type: ignore[assignment]  # uvicorn closes them as it would asyncio's

    def _connection(self, place: Place) -> Connection:
        return Connection(
            place,
            self._limits,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop gently at the first signal; at a second one the process ends (`server.signals`)."""
        with handled_by(self.handle_exit):
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop, and say so once."""
        if self.should_exit:
            return
        self.should_exit = True
        again = ""
        if sig == signal.SIGINT:
            self.status, again = exit_status(sig), "; Ctrl-C again ends it now, and its job stays in the queue"
        say(f"stopping: a running job may take up to {self._grace_seconds:g} s to finish{again}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more requests, let the running job end within its grace, and answer waiting clients."""
        stopping = asyncio.create_task(self._served.state.shutdown())
        await super().shutdown(sockets)
        await stopping
