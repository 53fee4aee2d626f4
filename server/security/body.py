"""How much a request may carry, and how long it may take to send it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.errors import ErrorDetail, error_response
from server.security.headers import header

#: Base64 of the largest picture we decode, with room for the rest of the request.
LARGEST_BODY = 48 * 2**20
#: Between two parts of a body; who sends nothing for so long holds a connection and no more.
_PAUSE_SECONDS = 30.0
_DRAIN_SECONDS = 3.0
_TOO_LARGE = ErrorDetail(code="too_large", message=f"the body is too large; accepted: up to {LARGEST_BODY // 2**20} MB")
_TOO_SLOW = ErrorDetail(
    code="too_slow", message=f"no more of the body came; accepted: pauses up to {_PAUSE_SECONDS:g} seconds"
)


class _Refused(Exception):
    """The body goes past a limit."""


def announced_too_large(scope: Scope) -> bool:
    """Whether the request says itself that its body is past the limit."""
    length = header(scope, b"content-length")
    return length is not None and length.isdigit() and int(length) > LARGEST_BODY


async def drain(receive: Receive) -> None:
    """Read on for a while: a client still sending would have its connection reset and never see the answer."""
    drained = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while drained < LARGEST_BODY:
                message = await receive()
                drained += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return


class LimitedBody:
    """ASGI middleware: counts the body as it comes, and answers 413 or 408 whatever the app made of a body cut short."""

    def __init__(self, app: ASGIApp, pause: float = _PAUSE_SECONDS) -> None:
        """``pause``: seconds that may pass between two parts of a body."""
        self._app, self._pause = app, pause

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if announced_too_large(scope):
            await error_response(413, _TOO_LARGE, {"connection": "close"})(scope, receive, send)
            return
        started = whole = False
        seen = 0
        refusal: tuple[int, ErrorDetail] | None = None

        async def counted() -> Message:
            nonlocal seen, whole, refusal
            if refusal is not None:
                raise _Refused
            try:
                # Once the body is whole, the app waits here for the client to hang up, as long as that may take.
                async with asyncio.timeout(None if whole else self._pause):
                    message = await receive()
            except TimeoutError:
                refusal = 408, _TOO_SLOW
                raise _Refused from None
            seen += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if seen > LARGEST_BODY:
                refusal = 413, _TOO_LARGE
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
            return  # it hung up while it was sending: there is nobody to answer
        if refusal[0] == 413 and not whole:
            await drain(receive)
        await error_response(*refusal, {"connection": "close"})(scope, receive, send)
