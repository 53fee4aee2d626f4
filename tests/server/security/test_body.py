from __future__ import annotations

import asyncio

import pytest
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from server.security.body import LARGEST_BODY, USUAL_BODY, LimitedBody
from server.security.gate import Access, Gate
from tests.support.asgi_client import ask, gated, hello, render_error

MB = b" " * 2**20


def large(size: int = LARGEST_BODY) -> Gate:
    """An app whose every route takes bodies of this size."""
    return Gate(hello, Access(), render_error, limit_of=lambda method, path: size)


@pytest.mark.parametrize("size", [1, USUAL_BODY, LARGEST_BODY])
def test_a_body_as_large_as_its_route_allows_passes(size: int) -> None:
    answer = ask(large(size), "POST", body=[b" " * size])
    assert (answer.status, answer.body) == (200, str(size).encode())


@pytest.mark.parametrize(("size", "named"), [(4 * 2**10, "4 KB"), (USUAL_BODY, "256 KB"), (LARGEST_BODY, "48 MB")])
def test_a_body_that_grows_too_large_is_refused_as_it_comes(size: int, named: str) -> None:
    answer = ask(large(size), "POST", body=[b" " * size, b" ", b""])
    assert (answer.status, answer.error()["code"]) == (413, "too_large")
    assert named in answer.error()["message"]
    assert answer.header("connection") == "close"


def test_a_route_that_sets_no_limit_has_the_usual_one() -> None:
    assert ask(gated(), "POST", body=[b" " * USUAL_BODY]).status == 200
    assert ask(gated(), "POST", body=[b" " * USUAL_BODY, b" "]).status == 413


def test_a_body_announced_too_large_is_refused_before_it_is_read() -> None:
    answer = ask(large(), "POST", headers={"content-length": str(LARGEST_BODY + 1)}, body=[MB])
    assert (answer.status, answer.header("connection")) == (413, "close")


@pytest.mark.parametrize("coding", ["gzip", "br", "gzip, identity"])
def test_a_compressed_body_is_refused(coding: str) -> None:
    answer = ask(gated(), "POST", headers={"content-encoding": coding}, body=[b"x"])
    assert (answer.status, answer.error()["code"]) == (415, "wrong_coding")
    assert answer.header("accept-encoding") == "identity"
    assert ask(gated(), "POST", headers={"content-encoding": "Identity"}, body=[b"x"]).status == 200


def test_an_endless_body_of_small_parts_is_given_up() -> None:
    sent: list[Message] = []

    async def dripping() -> Message:
        await asyncio.sleep(0.001)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"transfer-encoding", b"chunked")]}
    asyncio.run(LimitedBody(hello, render_error, pause=0.05)(scope, dripping, send))
    assert sent[0]["status"] == 408


class _Loop(asyncio.SelectorEventLoop):
    """A loop whose time only passes when a test says so."""

    seconds = 0.0

    def time(self) -> float:
        return self.seconds


@pytest.mark.parametrize(("rate", "status"), [(100_000, 200), (40_000, 200), (10_000, 408)])
def test_a_photo_of_a_phone_with_weak_wifi_passes_and_one_that_takes_half_an_hour_does_not(
    rate: int, status: int
) -> None:
    sent: list[Message] = []
    parts = [b" " * 2**14] * (12 * 2**20 // 2**14)

    async def upload(loop: _Loop) -> None:
        async def receive() -> Message:
            part = parts.pop()
            loop.seconds += len(part) / rate
            for _ in range(3):  # time for the timers
                await asyncio.sleep(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        async def send(message: Message) -> None:
            sent.append(message)

        await LimitedBody(hello, render_error, lambda method, path: LARGEST_BODY)(
            {"type": "http", "method": "POST", "path": "/", "headers": []}, receive, send
        )

    loop = _Loop()
    try:
        loop.run_until_complete(upload(loop))
    finally:
        loop.close()
    assert sent[0]["status"] == status


def test_an_answer_to_a_large_body_that_is_not_read_closes_the_connection() -> None:
    async def careless(scope: Scope, receive: Receive, send: Send) -> None:
        await hello({**scope, "method": "GET"}, receive, send)

    headers = [{"content-length": str(USUAL_BODY + 1)}, {"transfer-encoding": "chunked"}]
    for header in headers:
        answer = ask(LimitedBody(careless, render_error, lambda method, path: LARGEST_BODY), "POST", headers=header)
        assert (answer.status, answer.header("connection"), answer.body) == (200, "close", b"0")
    assert (
        ask(LimitedBody(careless, render_error), "POST", headers={"content-length": "9"}).header("connection") is None
    )


def test_a_body_that_stops_coming_is_given_up() -> None:
    answer = ask(LimitedBody(hello, render_error, pause=0.01), "POST", body=[b"abc", None, b""])
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

    asyncio.run(
        LimitedBody(reading, render_error)({"type": "http", "method": "POST", "path": "/", "headers": []}, gone, send)
    )
    assert sent == []
