from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from server.security.body import LARGEST_BODY, LimitedBody
from tests.support.asgi_client import ask, gated, hello, render_error

MB = b" " * 2**20


def test_a_body_as_large_as_allowed_passes() -> None:
    answer = ask(gated(), "POST", body=[MB] * 48)
    assert (answer.status, answer.body) == (200, str(LARGEST_BODY).encode())


def test_a_body_that_grows_too_large_is_refused_as_it_comes() -> None:
    answer = ask(gated(), "POST", body=[MB] * 48 + [b" "])
    assert (answer.status, answer.error()["code"]) == (413, "too_large")
    assert "48 MB" in answer.error()["message"]


def test_a_body_announced_too_large_is_refused_unread() -> None:
    answer = ask(gated(), "POST", headers={"content-length": str(LARGEST_BODY + 1)}, body=[None])
    assert (answer.status, answer.header("connection")) == (413, "close")


def test_a_body_that_stops_coming_is_given_up() -> None:
    answer = ask(LimitedBody(hello, render_error, pause=0.01), "POST", body=[b"abc", None])
    assert (answer.status, answer.error()["code"]) == (408, "too_slow")


def test_an_app_that_swallows_the_refusal_does_not_change_it() -> None:
    async def careless(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await hello(scope, receive, send)
        except Exception:
            await send({"type": "http.response.start", "status": 400, "headers": []})

    assert ask(LimitedBody(careless, render_error), "POST", body=[MB] * 49).status == 413


def test_a_client_that_waits_for_its_answer_is_not_given_up() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.sleep(0.05)
        await hello({**scope, "method": "GET"}, receive, send)

    assert ask(LimitedBody(slow, render_error, pause=0.01), "POST", body=[b"abc"]).status == 200


def test_a_client_that_hangs_up_while_sending_is_not_answered() -> None:
    sent: list[Message] = []

    async def reading(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(LimitedBody(reading, render_error)({"type": "http", "method": "POST", "headers": []}, gone, send))
    assert sent == []
