"""Sends requests to an ASGI app without a server, as any client, from any address."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.app import DIALECTS, create_app, open_routes
from server.api.dialect import Dialects
from server.security.gate import Access, Gate

LAN, HERE = "192.168.1.20", "127.0.0.1"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def error(self) -> dict[str, Any]:
        return dict(json.loads(self.body)["error"])


def ask(
    app: ASGIApp,
    method: str = "GET",
    path: str = "/api/v1/jobs",
    headers: dict[str, str] | None = None,
    client: str = HERE,
    reached: str = HERE,
    body: Iterable[bytes | None] = (),
) -> Answer:
    """Send a request and return the answer. ``body``: its parts; None is an endless pause."""
    sent: list[Message] = []
    parts = list(body)
    all_headers = {"host": "localhost", **(headers or {})}
    scope: Scope = {
        "type": "http",
        "method": method,
        "path": path,
        "scheme": "http",
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in all_headers.items()],
        "client": (client, 50000),
        "server": (reached, 7860),
        "query_string": b"",
    }

    async def receive() -> Message:
        part = parts.pop(0) if parts else b""
        if part is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    start = sent[0]
    answer_headers = [(k.decode().lower(), v.decode("latin-1")) for k, v in start["headers"]]
    return Answer(start["status"], answer_headers, b"".join(m.get("body", b"") for m in sent[1:]))


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that reads its body and answers with its length."""
    length, more = 0, scope["method"] not in ("GET", "OPTIONS")
    while more:
        message = await receive()
        length += len(message["body"])
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


def _never_opened() -> NoReturn:
    raise AssertionError("this app never starts")


render_error = Dialects(DIALECTS).render_error
#: Routes that need no key, as the app has them.
OPEN = open_routes(create_app(_never_opened))


def gated(access: Access | None = None) -> Gate:
    return Gate(hello, access or Access(), render_error, OPEN)
