"""Limits of a request's body: its size, and the pauses while it is sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ApiError, RenderError
from server.security.headers import header

#: Bytes: the base64 of the largest image that we decode, plus the rest of the request.
LARGEST_BODY = 48 * 2**20
#: Seconds to wait for the next part of a body; then the connection is closed.
PAUSE_SECONDS = 30.0
_DRAIN_SECONDS = 3.0
# The server would read the rest of the body as the connection's next request.
_CLOSE = {"connection": "close"}
_TOO_LARGE = ApiError(
    413, "too_large", f"the body is too large; accepted: up to {LARGEST_BODY // 2**20} MB", headers=_CLOSE
)


class _Refused(Exception):
    """The body exceeds a limit."""


def announced_too_large(scope: Scope) -> bool:
    """Return whether the request's Content-Length exceeds the limit."""
    length = header(scope, b"content-length")
    return length is not None and length.isdigit() and int(length) > LARGEST_BODY


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


class LimitedBody:
    """ASGI middleware: measures the body while it arrives, and answers 413 or 408 whatever the app does with a partial one."""

    def __init__(self, app: ASGIApp, render: RenderError, pause: float = PAUSE_SECONDS) -> None:
        """``pause``: seconds that may pass between two parts of a body."""
        self._app, self._render, self._pause = app, render, pause
        self._too_slow = ApiError(
            408,
            "too_slow",
            f"the client stopped sending the body; accepted: pauses up to {pause:g} seconds",
            headers=_CLOSE,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if announced_too_large(scope):
            await self._render(scope["path"], _TOO_LARGE)(scope, receive, send)
            return
        started = complete = False
        seen = 0
        refusal: ApiError | None = None

        async def counted() -> Message:
            nonlocal seen, complete, refusal
            if refusal is not None:
                raise _Refused
            try:
                # After a complete body, the app waits here for the client to disconnect, without a limit.
                async with asyncio.timeout(None if complete else self._pause):
                    message = await receive()
            except TimeoutError:
                refusal = self._too_slow
                raise _Refused from None
            seen += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if seen > LARGEST_BODY:
                refusal = _TOO_LARGE
                raise _Refused
            return message

        async def guarded(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                if refusal is not None:
                    raise _Refused
                started = True
            await send(message)

        try:
            await self._app(scope, counted, guarded)
            return
        except _Refused:
            if started or refusal is None:
                raise
        except ClientDisconnect:
            return  # the client disconnected while it was sending
        if refusal is _TOO_LARGE and not complete:
            await drain(receive)
        await self._render(scope["path"], refusal)(scope, receive, send)
