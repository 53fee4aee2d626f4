"""Shutdown: no more requests are accepted, the running job may end within its grace, and waiting clients are answered."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI

#: Time for the worker to exit and for answers to be sent, in addition to the running job's grace.
_EXIT_SECONDS = 5


class Shutdown:
    """Stops the backend once, at the first call: by the server when it exits, or by the end of the app."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._task: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        """Return once it has stopped."""
        if self._task is None:
            self._task = asyncio.create_task(asyncio.to_thread(self._stop))
        await asyncio.shield(self._task)


class Server(uvicorn.Server):
    """A uvicorn server that, on exit, stops the queue before it waits for the answers that depend on it."""

    def __init__(self, app: FastAPI, grace_seconds: float, **options: Any) -> None:
        """``grace_seconds`` as for `create_app`; ``options`` as `uvicorn.Config` takes them."""
        config = uvicorn.Config(
            app,
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
        self._served = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more requests, let the running job end within its grace, and answer waiting clients."""
        stopping = asyncio.create_task(self._served.state.shutdown())
        await super().shutdown(sockets)
        await stopping
