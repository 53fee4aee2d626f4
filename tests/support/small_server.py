"""A server of the app's own kind, on a real port, behind the gate, but with a few small routes instead of the backend."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response

from server.security.connections import ConnectionLimits
from server.security.gate import Access, Gate
from server.shutdown import Server
from tests.support.asgi_client import OPEN, render_error
from tests.support.live_server import bound, until

LARGE = 64 * 2**20
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def app(release: threading.Event, access: Access) -> FastAPI:
    """Return an app with routes that answer at once, at length, or when ``release`` is set."""
    small = FastAPI()

    async def stopped() -> None:
        pass

    small.state.shutdown = stopped

    @small.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @small.get("/wait")
    async def wait() -> Response:
        while not release.is_set():
            await asyncio.sleep(0.01)
        return Response(b"done")

    @small.get("/large")
    async def large() -> Response:
        return Response(bytes(LARGE))

    @small.post("/length")
    async def length(request: Request) -> int:
        return len(await request.body())

    small.add_middleware(Gate, access=access, render=render_error, open_routes=OPEN)
    return small


@dataclass
class Small:
    """The server's port, its running instance, and what lets ``/wait`` answer."""

    port: int
    server: Server
    release: threading.Event

    def connect(self, sent: bytes = b"") -> socket.socket:
        """Open a connection and send these bytes."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(sent)
        return connection

    def ask(self, request: bytes) -> bytes:
        """Return all that the server sends until it closes the connection."""
        with self.connect(request) as connection:
            return read_all(connection)

    def is_well(self) -> bool:
        """Return whether a new client gets an answer."""
        with self.connect(HEALTH) as connection:
            return read_answer(connection).startswith(b"HTTP/1.1 200 ")


def read_answer(connection: socket.socket) -> bytes:
    """Return the next answer, which has a Content-Length."""
    answer = b""
    while not (head := re.search(rb"content-length: (\d+)\r\n(.*\r\n)?\r\n", answer, re.DOTALL)) or (
        len(answer) < head.end() + int(head[1])
    ):
        part = connection.recv(2**16)
        assert part, answer
        answer += part
    return answer


def read_all(connection: socket.socket) -> bytes:
    """Return what the server sends until it closes the connection; a reset counts as closed."""
    answer = b""
    try:
        while part := connection.recv(2**16):
            answer += part
    except ConnectionResetError:
        pass
    return answer


@contextmanager
def small(
    limits: ConnectionLimits | None = None,
    listening: socket.socket | None = None,
    access: Access | None = None,
    **options: Any,
) -> Iterator[Small]:
    """Run a small server on a bound socket, by default this machine's; ``options`` as `uvicorn.Config` takes them."""
    release = threading.Event()
    server = Server(app(release, access or Access()), 0.0, limits, **options)
    with listening or bound() as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until(lambda: server.servers if server.started else None)
            yield Small(port, server, release)
        finally:
            release.set()
            server.should_exit = True
            thread.join()
