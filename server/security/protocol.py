"""One HTTP connection: uvicorn's, with limits for the times that uvicorn leaves open."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import h11
from h11._receivebuffer import ReceiveBuffer
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.security.connections import CROWDED, ConnectionLimits, Place

#: Chunks that a body may have whatever their size, and the bytes that more must have on average: h11 takes 20 us for each,
#: so that what is read at once of chunks of one byte would hold the event loop for a second.
_CHUNKS, _CHUNK_BYTES = 500, 64
#: Bytes and lines of a request's head, or of what follows a body of chunks. h11 has its limit of bytes for heads that come
#: in pieces only, and takes 3 us for each line: 16,000 lines in each of 112 connections kept others waiting for 10 seconds.
_LONGEST_HEAD, _MOST_LINES = 16 * 2**10, 100
_HEAD_END = re.compile(rb"\n\r?\n")
#: Bytes of an answer that are handed to the connection at once; a client must take them within the limit for stalls.
_PIECE = 2**16


def _in_pieces(send: Send) -> Send:
    """Return ``send`` for bodies of any size: the next piece waits until the client has taken the one before."""

    async def send_pieces(message: Message) -> None:
        body = message.get("body", b"")
        if len(body) <= _PIECE:
            await send(message)
            return
        view = memoryview(body)
        for start in range(0, len(view), _PIECE):
            more = start + _PIECE < len(view) or message.get("more_body", False)
            await send({**message, "body": view[start : start + _PIECE], "more_body": more})

    return send_pieces


class _TooMuch(h11.RemoteProtocolError):
    """A request would take the event loop too long; the message says what is accepted."""


class _Buffer(ReceiveBuffer):
    """What was received and not parsed yet. h11 has no other place to limit a head before it is parsed."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Return the lines of a head, as h11 does; raise _TooMuch if they are too many or too long."""
        end = _HEAD_END.search(self._data)
        size = len(self) if end is None else end.start()
        if size > _LONGEST_HEAD or self._data.count(b"\n", 0, size) > _MOST_LINES:
            raise _TooMuch(
                f"the request's head is too long; accepted: up to {_LONGEST_HEAD} bytes and {_MOST_LINES} lines"
            )
        return super().maybe_extract_lines()


class _Parser(h11.Connection):
    """Refuses long heads and bodies of many tiny chunks.

    refusal: why it has refused the request; None so far.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER)
        self._receive_buffer = _Buffer()
        self._chunks = self._bytes = 0
        self.refusal: str | None = None

    def next_event(self) -> Any:
        """Return the next event, as h11 does; raise RemoteProtocolError if the request takes too long to parse."""
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                self._chunks = self._bytes = 0
            elif isinstance(event, h11.Data):
                self._count(event)
        except _TooMuch as refusal:
            self.refusal = str(refusal)
            raise
        return event

    def _count(self, part: h11.Data) -> None:
        self._chunks, self._bytes = self._chunks + part.chunk_start, self._bytes + len(part.data)
        if self._chunks > _CHUNKS and self._bytes < (self._chunks - 1) * _CHUNK_BYTES:
            raise _TooMuch(f"the body's chunks are too small; accepted: {_CHUNK_BYTES} bytes each")


class Connection(H11Protocol):
    """A connection that keeps its place informed, and closes itself if the client takes too long."""

    def __init__(self, place: Place, limits: ConnectionLimits, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self.conn = self._parser = _Parser()
        self._place, self._limits = place, limits
        self._app: ASGIApp = self.app
        self.app = self._answer
        self._head: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._is_crowded = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request's head."""
        super().connection_made(transport)
        self._place.close = transport.abort
        # The client takes an answer as long as anything of it is in the transport's buffer. With TLS, asyncio compares with
        # >= and would never resume at 0.
        transport.set_write_buffer_limits(high=1 if self.scheme == "https" else 0, low=0)
        self._head = self._later(self._limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        for timer in (self._head, self._stall):
            if timer is not None:
                timer.cancel()
        self._place.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; the first bytes of a head start its time."""
        super().data_received(data)
        if self._head is None and not self._is_answering:
            self._head = self._later(self._limits.head_seconds)

    def handle_events(self) -> None:
        """Handle what was read; a complete request makes the connection busy."""
        super().handle_events()
        self._update()

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for it."""
        super().on_response_complete()
        self._update()

    def pause_writing(self) -> None:
        """Begin to measure how long the client takes for what is in the transport's buffer."""
        super().pause_writing()
        self._stall = self._later(self._limits.stall_seconds)

    def resume_writing(self) -> None:
        """Write on: the client has taken everything."""
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        self._update()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, unless the client still reads the last answer: TLS would cut that off after a while."""
        if self.flow.write_paused:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; close without an answer if the one to an earlier request has begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(self._parser.refusal or msg)
        else:
            self.transport.close()
        if self.cycle is not None:  # nothing more can be sent of its answer
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _should_upgrade(self) -> bool:
        return False  # uvicorn would log two warnings for each request that asks for another protocol

    def _later(self, seconds: float) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, self.transport.abort)

    @property
    def _is_answering(self) -> bool:
        return (self.cycle is not None and not self.cycle.response_complete) or self.flow.write_paused

    def _update(self) -> None:
        if not self._is_answering:
            self._place.end_request()
            return
        if self._head is not None:
            self._head.cancel()
            self._head = None
        # A connection whose body is on its way still waits: slow bodies must not keep the places from others.
        if self.conn.their_state is not h11.SEND_BODY:
            self._is_crowded = not self._place.start_request()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._is_crowded:
            scope["extensions"] = {CROWDED: {}}
        await self._app(scope, receive, _in_pieces(send))
