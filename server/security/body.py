"""Limits of a request's body: its size, its coding, and how slowly it may be sent."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ApiError, RenderError
from server.security.headers import header

#: Bytes of a body without an image, unless its route sets another limit: ten times the longest prompts.
USUAL_BODY = 256 * 2**10
#: Bytes: the base64 of the largest image that we decode, plus the rest of the request.
LARGEST_BODY = 48 * 2**20
#: Seconds that a client may let us wait for the next part of a body; then the connection is closed.
PAUSE_SECONDS = 30.0
#: Bytes a second that a body must have on average, after the first PAUSE_SECONDS: a third of what a phone with weak Wi-Fi
#: sends. Web servers that share no memory between uploads take 240 (Kestrel) or 500 (Apache).
LEAST_RATE = 32 * 2**10
#: Seconds to read on after a refusal: at 5 MB a second, a client has sent the largest body by then.
_DRAIN_SECONDS = 10.0

#: Returns the bytes that the body of a request may have, by method and path.
LimitOf = Callable[[str, str], int]


def usual_limit(method: str, path: str) -> int:
    """Return the limit of routes that set none."""
    return USUAL_BODY


def in_units(size: int) -> str:
    """Return a number of bytes as text."""
    return f"{size // 2**20} MB" if size >= 2**20 else f"{size // 2**10} KB"


def too_large(limit: int, what: str = "the body") -> ApiError:
    """Return the error for a body, or a part of it, of more than ``limit`` bytes."""
    return ApiError(413, "too_large", f"{what} is too large; accepted: up to {in_units(limit)}")


def announced(scope: Scope) -> float:
    """Return the bytes that the body has according to the request's headers; infinity for one of chunks."""
    if header(scope, b"transfer-encoding") is not None:
        return math.inf
    length = header(scope, b"content-length") or "0"
    return int(length) if length.isdecimal() else 0


async def drain(receive: Receive) -> None:
    """Read on for a while: otherwise a client that is still sending gets a reset connection before it reads the answer."""
    drained = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while drained < LARGEST_BODY:
                message = await receive()
                drained += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return


def _refusal(scope: Scope, limit: int) -> ApiError | None:
    """Return why the request's headers already refuse its body; None if they do not."""
    coding = (header(scope, b"content-encoding") or "identity").strip().lower()
    if coding != "identity":
        message = f"the body is compressed ({coding[:40]}); accepted: an uncompressed body, without Content-Encoding"
        return ApiError(415, "wrong_coding", message, headers={"accept-encoding": "identity"})
    return too_large(limit) if limit < announced(scope) < math.inf else None


class _Refused(Exception):
    """The body exceeds a limit."""


class _Body:
    """The body of one request, measured while it arrives.

    refusal: why it is given up, if it is. complete: whether its last part has arrived.
    """

    def __init__(self, scope: Scope, receive: Receive, limit: int, pause: float) -> None:
        self._receive, self._limit, self._pause = receive, limit, pause
        self._seen, self._waited = 0, 0.0
        # uvicorn reads the rest of a small body itself, to keep the connection.
        self._is_small = announced(scope) <= USUAL_BODY
        self.refusal = _refusal(scope, limit)
        self.complete = False

    @property
    def is_open_ended(self) -> bool:
        """Whether so much may still arrive that the connection must be closed instead."""
        return not self.complete and (self.refusal is not None or not self._is_small)

    @property
    def is_too_slow(self) -> bool:
        """Whether it is given up because the client stopped sending it."""
        return self.refusal is not None and self.refusal.status == 408

    async def receive(self) -> Message:
        """Return the next message; raise _Refused if the body is too large or is sent too slowly."""
        if self.refusal is not None:
            raise _Refused
        if self.complete:
            return await self._receive()  # the app waits for the client to disconnect, without a limit
        # Only the time that we wait counts: the server's own work may take longer.
        patience = self._pause + min(0.0, self._seen / LEAST_RATE - self._waited)
        clock = asyncio.get_running_loop().time
        start = clock()
        try:
            async with asyncio.timeout(patience):
                message = await self._receive()
        except TimeoutError:
            accepted = (
                f"pauses up to {self._pause:g} seconds, and {in_units(LEAST_RATE)} a second after as many seconds"
            )
            self.refusal = ApiError(408, "too_slow", f"the client sent the body too slowly; accepted: {accepted}")
            raise _Refused from None
        self._waited += clock() - start
        self._seen += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        if self._seen > self._limit:
            self.refusal = too_large(self._limit)
            raise _Refused
        return message


class _Answer:
    """The answer to one request: it closes the connection if much of the body may still arrive."""

    def __init__(self, body: _Body, receive: Receive, send: Send) -> None:
        self._body, self._receive, self._send = body, receive, send
        self._closes = False
        self.started = False

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self.started, self._closes = True, self._body.is_open_ended
            if self._closes:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        elif self._closes and not message.get("more_body", False):
            # The client gets the whole answer before we read on.
            await self._send({**message, "more_body": True})
            if not self._body.is_too_slow:
                await drain(self._receive)
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)


async def answer_unread(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Let ``app`` answer a request without reading its body."""
    body = _Body(scope, receive, LARGEST_BODY, PAUSE_SECONDS)
    await app(scope, receive, _Answer(body, receive, send).send)


class LimitedBody:
    """ASGI middleware: measures the body while it arrives, and answers 413 or 408 whatever the app does with a partial one."""

    def __init__(
        self, app: ASGIApp, render: RenderError, limit_of: LimitOf = usual_limit, pause: float = PAUSE_SECONDS
    ) -> None:
        """``pause``: seconds that may pass between two parts of a body."""
        self._app, self._render, self._limit_of, self._pause = app, render, limit_of, pause

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        body = _Body(scope, receive, self._limit_of(scope["method"], scope["path"]), self._pause)
        answer = _Answer(body, receive, send)

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if body.refusal is not None and not answer.started:
                raise _Refused
            await answer.send(message)

        if body.refusal is None:
            try:
                await self._app(scope, body.receive, guarded)
                return
            except _Refused:
                if answer.started or body.refusal is None:
                    raise
            except ClientDisconnect:
                return  # the client disconnected while it was sending
        await self._render(scope["path"], body.refusal)(scope, receive, answer.send)
