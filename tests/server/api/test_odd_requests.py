"""Requests as no browser and no library sends them, byte by byte, to a server with a key."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest

from server.security.gate import Access
from server.security.key import ApiKey, Authenticator
from tests.support.live_server import live

KEY = b"a-key-for-tests-0123456789"
_HOST = b"Host: localhost\r\n"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    access = Access(authenticator=Authenticator(ApiKey(KEY.decode())))
    with live(tmp_path_factory.mktemp("odd"), ready=False, access=access) as client:
        yield address_of(client)


def address_of(client: httpx.Client) -> tuple[str, int]:
    return client.base_url.host, client.base_url.port or 80


def answer_to(address: tuple[str, int], line: bytes, *headers: bytes, host: bytes = _HOST) -> tuple[int, bytes]:
    """Send a request and return the answer's status and all its bytes."""
    received = b""
    with socket.create_connection(address, 30) as raw:
        raw.sendall(line + b"\r\n" + host + b"".join(h + b"\r\n" for h in headers) + b"Connection: close\r\n\r\n")
        while part := raw.recv(65536):
            received += part
    return int(received.split()[1]), received


@pytest.mark.parametrize(
    "target",
    [b"//api/v1/jobs", b"/healthz/../api/v1/jobs", b"/api/v1/../v1/jobs", b"/%2e%2e/api/v1/jobs", b"/healthz;/api/v1/jobs",
     b"/;/api/v1/jobs", b"/..;/api/v1/jobs", b"/api/v1/jobs;healthz", b"/%2fapi/v1/jobs", b"/api%2fv1%2fjobs", b"/api/v1/jobs%0a",
     b"/api/v1/jobs%00/healthz", b"/api/v1/jobs?/healthz", b"/api/v1/jobs#/healthz", b"/api/v1/jobs/", b"/API/V1/JOBS",
     b"/api/v1/session/../jobs", b"/page.js/../api/v1/jobs", b"/readyz%0a", b"/readyz%00", b"/healthz/", b"/openapi.json/",
     b"http://localhost/api/v1/jobs", b"http://localhost/healthz", b"*"],
)  # fmt: skip
def test_no_way_to_write_a_path_goes_around_the_key(address: tuple[str, int], target: bytes) -> None:
    status, answer = answer_to(address, b"GET " + target + b" HTTP/1.1")
    assert status in (400, 401), answer


@pytest.mark.parametrize("method", [b"TRACE", b"CONNECT", b"PROPFIND", b"get", b"HEAD", b"OPTIONS", b"PUT"])
@pytest.mark.parametrize("path", [b"/api/v1/jobs", b"/metrics", b"/api/v1/session"])
def test_no_method_goes_around_the_key(address: tuple[str, int], method: bytes, path: bytes) -> None:
    status, _ = answer_to(address, method + b" " + path + b" HTTP/1.1", b"Content-Length: 0")
    assert status == 401


def test_the_method_is_that_of_the_request_whatever_headers_say(address: tuple[str, int]) -> None:
    status, _ = answer_to(
        address, b"DELETE /healthz HTTP/1.1", b"X-HTTP-Method-Override: GET", b"X-Original-URL: /healthz"
    )
    assert status == 401


@pytest.mark.parametrize(
    ("line", "host", "status"),
    [
        (b"GET /healthz HTTP/1.1", b"", 400),
        (b"GET /healthz HTTP/1.0", b"", 403),
        (b"GET /healthz HTTP/1.1", _HOST + b"Host: evil.example\r\n", 400),
        (b"GET /healthz HTTP/1.0", b"Host: evil.example\r\n" + _HOST, 400),
        (b"GET /healthz HTTP/1.1", b"Host: evil.example@localhost\r\n", 403),
        (b"GET /healthz HTTP/1.1", b"Host: \xe9vil\r\n", 403),
        (b"GET http://localhost/healthz HTTP/1.1", b"Host: evil.example\r\n", 403),
        (b"GET /healthz HTTP/1.1", b"Host: [::1]:7860\r\n", 200),
    ],
)
def test_only_one_host_that_is_this_machines_is_answered(
    address: tuple[str, int], line: bytes, host: bytes, status: int
) -> None:
    assert answer_to(address, line, host=host)[0] == status


_RIGHT, _WRONG = b"Authorization: Bearer " + KEY, b"Authorization: Bearer wrong"


@pytest.mark.parametrize(
    "headers",
    [
        (_RIGHT, _WRONG),
        (_WRONG, _RIGHT),
        (_RIGHT, _RIGHT),
        (_RIGHT, b"Origin: http://localhost", b"Origin: https://evil.example"),
        (_RIGHT, b"Sec-Fetch-Site: same-origin", b"sec-fetch-site: cross-site"),
    ],
)
def test_a_header_that_decides_who_asks_is_there_once(address: tuple[str, int], headers: tuple[bytes, ...]) -> None:
    status, answer = answer_to(address, b"GET /api/v1/jobs HTTP/1.1", *headers)
    assert status == 400
    assert b"repeated_header" in answer


@pytest.mark.parametrize(
    "credentials", [b"Bearer " + b"x" * 15_000, b"Bearer \xff\xfe", b"Basic " + b"A" * 15_000, b"\xe9 x", b"Bearer"]
)
def test_odd_keys_are_wrong_or_missing(address: tuple[str, int], credentials: bytes) -> None:
    status, answer = answer_to(address, b"GET /api/v1/jobs HTTP/1.1", b"Authorization: " + credentials)
    assert status == 401, answer
