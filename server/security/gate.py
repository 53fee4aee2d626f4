"""Middleware that checks every request: host, origin, framing, places, the client's rate, key and body."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.middleware.cors import ALL_METHODS, CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import ApiError, RenderError
from server.security.body import PAUSE_SECONDS, LimitedBody, LimitOf, answer_unread, in_units, usual_limit
from server.security.connections import CROWDED
from server.security.headers import ALWAYS, JOB_ID, header
from server.security.hosts import Hosts, host_of, is_loopback
from server.security.key import COOKIE, Authenticator
from server.security.origin import READING, is_preflight, may_change
from server.security.rate import Buckets, client_of

_READABLE = (
    "Location", "Content-Location", "Preference-Applied", "Retry-After", JOB_ID, "X-Anemone-Seed", "X-Anemone-Notes",
    "X-Anemone-Safety", "Idempotent-Replayed", "X-Request-Id", "X-Should-Retry", "Mcp-Session-Id",
)  # fmt: skip
#: Bytes of a request's query, which has at most a few names.
_LONGEST_QUERY = 4 * 2**10
#: Headers that decide who asks: of several, a proxy before the server may have looked at another.
_ONCE = (b"host", b"origin", b"sec-fetch-site", b"authorization")
# Bearer, although Basic is accepted too: browsers answer a Basic challenge with their own dialog.
_CHALLENGE = {"www-authenticate": "Bearer"}


_CROWDED_SECONDS = 5


@dataclass(frozen=True)
class Access:
    """The clients that the server accepts, and their limits.

    hosts: the host names that the server answers to.
    origins: other sites whose pages may call the server, as browsers write them.
    authenticator: checks the API key, if one is required.
    rate: requests a minute that one client may send; this machine has no limit.
    pause_seconds: how long a client may pause while it sends a body.
    """

    hosts: Hosts = field(default_factory=Hosts)
    origins: tuple[str, ...] = ()
    authenticator: Authenticator = field(default_factory=lambda: Authenticator(None))
    rate: int = 600
    pause_seconds: float = PAUSE_SECONDS


def _retry_after(seconds: float) -> dict[str, str]:
    return {"retry-after": str(math.ceil(seconds))}


def _check_crowded(scope: Scope) -> None:
    if CROWDED in scope.get("extensions", {}):
        message = "too many requests are in progress; try again later, or end some, such as event streams"
        raise ApiError(503, "crowded", message, headers={"connection": "close", **_retry_after(_CROWDED_SECONDS)})


def _check_framing(scope: Scope) -> None:
    """Refuse a body with two lengths: a proxy may read it differently, and pass on what it has not checked (RFC 9112, 6.1)."""
    if header(scope, b"transfer-encoding") is not None and header(scope, b"content-length") is not None:
        message = "the request has Content-Length and Transfer-Encoding; accepted: one of them"
        raise ApiError(400, "two_lengths", message, headers={"connection": "close"})


class Gate:
    """ASGI middleware: refuses requests that fail a check, and adds the security headers to every answer."""

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        render: RenderError,
        open_routes: frozenset[tuple[str, str]] = frozenset(),
        limit_of: LimitOf = usual_limit,
    ) -> None:
        """``open_routes``: the method and path of routes that need no key. ``limit_of``: the limits of bodies."""
        self._access, self._render, self._open = access, render, open_routes
        self._rate = Buckets(access.rate)
        self._inner = app
        self._limited = LimitedBody(app, render, limit_of, access.pause_seconds)
        self._app: ASGIApp = self._keyed
        if access.origins:
            self._app = CORSMiddleware(
                self._keyed,
                allow_origins=access.origins,
                allow_methods=ALL_METHODS,
                allow_headers=("*",),
                expose_headers=_READABLE,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *ALWAYS]}
            await send(message)

        try:
            self._check_repeated(scope)
            self._check_host(scope)
            self._check_origin(scope)
            _check_framing(scope)
            self._check_query(scope)
            _check_crowded(scope)
        except ApiError as refusal:
            await self._refuse(refusal, scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)

    async def _keyed(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Inside CORS, so that a page of an allowed site can read why its request was refused.
        try:
            self._check_rate(scope)
            self._check_key(scope)
        except ApiError as refusal:
            await self._refuse(refusal, scope, receive, send)
            return
        await self._limited(scope, receive, send)

    async def _refuse(self, refusal: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        await answer_unread(self._render(scope["path"], refusal), scope, receive, send)

    def _check_repeated(self, scope: Scope) -> None:
        names = [name for name, _ in scope["headers"] if name in _ONCE]
        if len(names) > len(set(names)):
            name = max(names, key=names.count).decode()
            raise ApiError(400, "repeated_header", f"the request has several headers {name}; accepted: one")

    def _check_host(self, scope: Scope) -> None:
        host = header(scope, b"host") or ""
        reached = scope["server"][0] if scope.get("server") else None
        if not self._access.hosts.accepts(host_of(host), reached):
            # Its names and its settings are not for whoever asks under a wrong one.
            message = (
                f"this server does not answer for the host {host[:80]!r}; accepted: localhost, 127.0.0.1, on the network the "
                "machine's own names and address, and its setting allowed_hosts"
            )
            raise ApiError(403, "wrong_host", message)

    def _check_origin(self, scope: Scope) -> None:
        origins = self._access.origins
        if is_preflight(scope):
            allowed = header(scope, b"origin") in origins or may_change(scope, ())
        else:
            allowed = scope["method"] in READING or may_change(scope, origins)
        if not allowed:
            origin = (header(scope, b"origin") or "unknown")[:80]
            message = (
                f"a page of another site ({origin}) may not change anything here; accepted: the server's own page, and the "
                "origins of its setting cors_origins"
            )
            raise ApiError(403, "cross_site", message)

    def _check_query(self, scope: Scope) -> None:
        # Parsing one of 64 KB holds the event loop for 30 ms.
        if len(scope["query_string"]) > _LONGEST_QUERY:
            raise ApiError(414, "query_too_long", f"the query is too long; accepted: up to {in_units(_LONGEST_QUERY)}")

    def _check_rate(self, scope: Scope) -> None:
        client = client_of(scope)
        if not is_loopback(client) and (wait := self._rate.take(client)) > 0:
            message = f"too many requests; accepted: {self._access.rate} a minute"
            raise ApiError(429, "too_many_requests", message, headers=_retry_after(wait))

    def _check_key(self, scope: Scope) -> None:
        # HEAD and OPTIONS show no more than GET.
        method = "GET" if scope["method"] in READING else scope["method"]
        if (method, scope["path"]) in self._open:
            return
        verdict = self._access.authenticator.authenticate(scope)
        if verdict == "missing":
            message = (
                "this server needs its API key; accepted: the header 'Authorization: Bearer KEY', Basic credentials with "
                "the key as user name or password, or its page's login"
            )
            raise ApiError(401, "key_missing", message, headers=_CHALLENGE)
        if verdict == "ended":
            # Delete the cookie, so that the browser does not keep sending it.
            stale = {"set-cookie": f"{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"}
            message = "this login has ended: by its age, a logout or another API key; log in again"
            raise ApiError(401, "login_ended", message, headers={**_CHALLENGE, **stale})
        if verdict == "wrong":
            message = (
                "the API key is wrong; accepted: the key that its owner set, or that the server made at its first start"
            )
            raise ApiError(401, "key_wrong", message, headers=_CHALLENGE)
