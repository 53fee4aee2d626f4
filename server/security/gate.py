"""Every request's way in: its host, its origin, its client's rate, its key and its body, in this order."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.middleware.cors import ALL_METHODS, CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.errors import ErrorDetail, error_response
from server.security.body import LimitedBody
from server.security.headers import ALWAYS, header
from server.security.hosts import Hosts, host_of, is_loopback
from server.security.key import COOKIE, Door
from server.security.origin import READING, is_preflight, may_change
from server.security.rate import Buckets, client_of

#: Where a browser's user gives the key.
SESSION = "/api/v1/session"
#: What needs no key: whether the server is alive and ready, and the page, which holds nothing.
_OPEN = ("/healthz", "/readyz", "/", "/page.js", "/page.css", "/icon.svg")
_READABLE = ("Location", "Content-Location", "Preference-Applied", "Retry-After", "X-Anemone-Job", "X-Anemone-Seed")


@dataclass(frozen=True)
class Access:
    """Who may do what.

    hosts: the names that are answered.
    origins: other sites whose pages may call, as browsers write them.
    door: knows the key, where one is needed.
    rate: requests a minute of one client, unless it is on this machine.
    """

    hosts: Hosts = field(default_factory=Hosts)
    origins: tuple[str, ...] = ()
    door: Door = field(default_factory=lambda: Door(None))
    rate: int = 600


class _Refusal(Exception):
    """The request is not let in."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.detail, self.headers = status, ErrorDetail(code=code, message=message), headers or {}


def _seconds(wait: float) -> dict[str, str]:
    return {"retry-after": str(math.ceil(wait))}


class Gate:
    """ASGI middleware: lets requests in that may come in, and gives every answer its headers."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._access = access
        self._rate = Buckets(access.rate)
        self._app = app
        self._limited = LimitedBody(app)
        self._way: ASGIApp = self._in
        if access.origins:
            self._way = CORSMiddleware(
                self._in,
                allow_origins=access.origins,
                allow_methods=ALL_METHODS,
                allow_headers=("*",),
                expose_headers=_READABLE,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def headed(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *ALWAYS]}
            await send(message)

        try:
            self._check_host(scope)
            self._check_origin(scope)
        except _Refusal as refusal:
            await _refuse(refusal, scope, receive, headed)
            return
        await self._way(scope, receive, headed)

    async def _in(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Behind CORS's headers, so that an allowed site's page can read why it was not let in.
        try:
            self._check_rate(scope)
            self._check_key(scope)
        except _Refusal as refusal:
            await _refuse(refusal, scope, receive, send)
            return
        await self._limited(scope, receive, send)

    def _check_host(self, scope: Scope) -> None:
        host = header(scope, b"host") or ""
        reached = scope["server"][0] if scope.get("server") else None
        if not self._access.hosts.accepts(host_of(host), reached):
            names = self._access.hosts.accepted
            message = f"this server does not answer for the host {host[:80]!r}; accepted: {names}"
            raise _Refusal(403, "wrong_host", message)

    def _check_origin(self, scope: Scope) -> None:
        origins = self._access.origins
        if is_preflight(scope):
            allowed = header(scope, b"origin") in origins or may_change(scope, ())
        else:
            allowed = scope["method"] in READING or may_change(scope, origins)
        if not allowed:
            origin = (header(scope, b"origin") or "unknown")[:80]
            others = f" and {', '.join(origins)}" if origins else ""
            message = f"a page of another site ({origin}) may not change anything here; accepted: its own page{others}"
            raise _Refusal(403, "cross_site", message)

    def _check_rate(self, scope: Scope) -> None:
        client = client_of(scope)
        if not is_loopback(client) and (wait := self._rate.take(client)) > 0:
            message = f"too many requests; accepted: {self._access.rate} a minute"
            raise _Refusal(429, "too_many_requests", message, _seconds(wait))

    def _check_key(self, scope: Scope) -> None:
        door, path = self._access.door, scope["path"]
        if path in _OPEN and scope["method"] in READING:
            return
        if (wait := door.wait(scope)) > 0:
            raise _Refusal(
                429, "too_many_wrong_keys", "too many wrong keys; wait, then try the right one", _seconds(wait)
            )
        if path == SESSION:
            return
        opened = door.opens(scope)
        if opened is None:
            message = (
                "this server needs its API key; accepted: the header 'Authorization: Bearer KEY', or its page's login"
            )
            raise _Refusal(401, "key_missing", message, {"www-authenticate": "Bearer"})
        if not opened:
            # An old cookie is taken back, so that a browser does not go on showing it.
            stale = {"set-cookie": f"{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"}
            message = "the API key is not this server's; accepted: the one it was given or made at its first start"
            raise _Refusal(401, "key_wrong", message, {"www-authenticate": "Bearer", **stale})


async def _refuse(refusal: _Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    # A body that was not read would be taken for the connection's next request.
    closing = {} if scope["method"] in READING else {"connection": "close"}
    headers = {**closing, **refusal.headers}
    await error_response(refusal.status, refusal.detail, headers)(scope, receive, send)
