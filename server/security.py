"""What every request passes before the app sees it.

A server on localhost is reachable from any web page its user opens: by a name that resolves to 127.0.0.1 (DNS
rebinding: Ollama's CVE-2024-28224) or by a plain cross-site post (ComfyUI's CVE-2024-10481).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ErrorDetail, error_response

#: Base64 of the largest picture we decode, with room for the rest of the request.
LARGEST_BODY = 48 * 2**20
_DRAIN_SECONDS = 3.0
_READING = ("GET", "HEAD", "OPTIONS")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
)


def host_of(header: str) -> str:
    """The name in a Host header, without its port; empty where it is malformed."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def is_own_name(host: str) -> bool:
    """Whether a Host header's name can only mean this machine: localhost or a loopback address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _TooLarge(Exception):
    """The body has grown past the limit."""


def _header(scope: Scope, name: bytes) -> str | None:
    found = [value for key, value in scope["headers"] if key == name]
    return found[0].decode("latin-1") if found else None


def _is_same_origin(scope: Scope, host: str) -> bool:
    site, origin = _header(scope, b"sec-fetch-site"), _header(scope, b"origin")
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or origin.partition("://")[2] == host


def _refusal(scope: Scope) -> tuple[int, ErrorDetail] | None:
    host = _header(scope, b"host") or ""
    if not is_own_name(host_of(host)):
        message = f"this server does not answer for the host {host[:80]!r}; open it as localhost or 127.0.0.1"
        return 403, ErrorDetail(code="wrong_host", message=message)
    if scope["method"] in _READING:
        return None
    if not _is_same_origin(scope, host):
        origin = (_header(scope, b"origin") or "unknown")[:80]
        return 403, ErrorDetail(
            code="cross_site", message=f"a page of another site ({origin}) may not change anything here"
        )
    length = _header(scope, b"content-length")
    if length is not None and length.isdigit() and int(length) > LARGEST_BODY:
        return 413, _too_large()
    return None


def _too_large() -> ErrorDetail:
    return ErrorDetail(code="too_large", message=f"the body is too large; accepted: up to {LARGEST_BODY // 2**20} MB")


async def _drain(receive: Receive) -> None:
    """Read on for a while: a client still sending would have its connection reset and never see the answer."""
    drained = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while drained < LARGEST_BODY:
                message = await receive()
                drained += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return


class Gate:
    """ASGI middleware: refuses wrong hosts, cross-site changes and oversized bodies; adds headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > LARGEST_BODY:
                raise _TooLarge
            return message

        async def guarded(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                if seen > LARGEST_BODY:
                    raise _TooLarge  # whatever the app made of a body cut short, this is the answer
                started = True
                await send({**message, "headers": [*message["headers"], *_HEADERS]})
            else:
                await send(message)

        refusal = _refusal(scope)
        if refusal is None:
            try:
                await self._app(scope, counted, guarded)
                return
            except _TooLarge:
                if started:
                    raise
                refusal = 413, _too_large()
        if seen > 0:
            await _drain(receive)
        seen = 0
        await error_response(*refusal, {"connection": "close"})(scope, receive, guarded)
