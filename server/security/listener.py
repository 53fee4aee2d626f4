"""Accepts clients' connections.

asyncio's own server tells of a connection with TLS only after its handshake, and logs a line for each one that it cannot
accept: 23 MB in 40 s. This one counts a connection from its acceptance, and pauses while nothing can be accepted.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from server.logs import CONNECTIONS
from server.security.connections import ConnectionLimits, Connections, Place
from server.security.rate import client_at

log = logging.getLogger(CONNECTIONS)

#: Accepted before other events have their turn; then those before have had time to send something.
_AT_ONCE = 16
_BACKLOG = 2048
_PAUSE_SECONDS = 0.5
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
#: Seconds without a sign of life until the system asks the client's, the seconds between questions, and their number: a
#: machine that was switched off keeps its place for two minutes.
_KEEPALIVE = (60, 15, 4)


def _find_vanished_clients(listening: socket.socket) -> None:
    """Let the system end connections of machines that are gone; accepted sockets inherit these options."""
    # macOS has another name for the first.
    idle = getattr(socket, "TCP_KEEPIDLE", None) or socket.TCP_KEEPALIVE  # type: ignore[attr-defined,unused-ignore]
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in zip((idle, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT), _KEEPALIVE, strict=True):
        listening.setsockopt(socket.IPPROTO_TCP, option, value)


class Listener:
    """Accepts the connections of a listening socket, from `start` to `close`."""

    def __init__(
        self,
        listening: socket.socket,
        connections: Connections,
        limits: ConnectionLimits,
        protocol: Callable[[Place], asyncio.Protocol],
        tls: ssl.SSLContext | None,
    ) -> None:
        """``protocol`` makes the protocol of a connection, which gives the place back when the connection is lost."""
        self._socket, self._connections, self._protocol = listening, connections, protocol
        self._tls: dict[str, Any] = {}
        if tls is not None:
            self._tls = {
                "ssl": tls,
                "ssl_handshake_timeout": limits.handshake_seconds,
                "ssl_shutdown_timeout": limits.stall_seconds,
            }
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._resuming: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to accept."""
        _find_vanished_clients(self._socket)
        self._socket.setblocking(False)
        self._socket.listen(_BACKLOG)
        self._loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Accept no more, and drop connections whose handshake is not complete."""
        self._loop.remove_reader(self._socket)
        if self._resuming is not None:
            self._resuming.cancel()
        for task in self._opening:
            task.cancel()

    async def wait_closed(self) -> None:
        """Return once no handshake runs; uvicorn calls this as for a server of asyncio, and waits for connections itself."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._pause(error)
                return
            if not address:  # macOS: the client has reset the connection already
                accepted.close()
                continue
            place = self._connections.enter(client_at(address[0]))
            task = self._loop.create_task(self._open(accepted, place))
            place.close = task.cancel
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _pause(self, error: OSError) -> None:
        """Try again in a while: the socket stays readable, and the loop would spin."""
        log.warning("no connection can be accepted: %s; %d are open", error.strerror, len(self._connections))
        self._connections.make_room()
        self._loop.remove_reader(self._socket)
        self._resuming = self._loop.call_later(_PAUSE_SECONDS, self._loop.add_reader, self._socket, self._accept)

    async def _open(self, accepted: socket.socket, place: Place) -> None:
        """Begin HTTP on an accepted connection, after its handshake."""
        # The handshake failed or took too long, or the connection gave way to a newcomer.
        with suppress(OSError, asyncio.CancelledError):
            try:
                await self._loop.connect_accepted_socket(lambda: self._protocol(place), accepted, **self._tls)
            except BaseException:
                place.leave()
                accepted.close()
                raise
