from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest

LIMIT = 48 * 2**20


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:7860", "127.0.0.1:1", "[::1]:7860", "[::1]", "my.localhost", "127.0.0.2"]
)
def test_this_machines_names_are_answered(client: httpx.Client, host: str) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "[::2]",
        "[::1",
        "::1",
        "0.0.0.0",
    ],
)
def test_another_name_pointed_here_gets_nothing(client: httpx.Client, host: str) -> None:
    answer = client.get("/api/v1/jobs", headers={"Host": host})
    assert answer.status_code == 403, answer.text
    assert answer.json()["error"]["message"]


def test_the_page_of_this_server_may_change_things(client: httpx.Client) -> None:
    own = {"Origin": str(client.base_url), "Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/v1/txt2img", json={"prompt": "a"}, headers=own).status_code == 200
    del own["Sec-Fetch-Site"]
    assert client.post("/api/v1/txt2img", json={"prompt": "a"}, headers=own).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
    ],
)
def test_another_sites_page_may_change_nothing(client: httpx.Client, headers: dict[str, str]) -> None:
    for send in (
        lambda: client.post("/api/v1/txt2img", json={"prompt": "a"}, headers=headers),
        lambda: client.delete("/api/v1/jobs/x", headers=headers),
    ):
        answer = send()
        assert answer.status_code == 403, answer.text
        assert answer.json()["error"]["code"]


def test_no_other_site_is_let_read(client: httpx.Client) -> None:
    answer = client.get("/api/v1/jobs", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_a_body_announced_too_large_is_refused_unread(client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), 10) as raw:
        raw.sendall(
            f"POST /api/v1/txt2img HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {LIMIT + 1}\r\n\r\n".encode()
        )
        assert raw.recv(4096).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("path", "size", "named"),
    [
        ("session", 2**12, "4 KB"),
        ("models", 2**18, "256 KB"),
        ("nothing", 2**18, "256 KB"),
        ("img2img", LIMIT, "48 MB"),
    ],
)
@pytest.mark.parametrize("announced", [True, False])
def test_a_body_is_as_large_as_its_route_allows(
    client: httpx.Client, path: str, size: int, named: str, announced: bool
) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'"'
        for _ in range(max(4, size // 2**18)):
            yield b"A" * 2**18

    def send(content: bytes | Iterator[bytes]) -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        return client.post(f"/api/v1/{path}", content=content, headers=headers)

    assert send(b" " * min(size, 2**18)).status_code in (400, 404, 422)
    answer = send(b" " * (size + 1) if announced else chunks())
    if path == "nothing":
        assert answer.status_code == (413 if announced else 404), answer.text
    else:
        assert answer.status_code == 413, answer.text
        assert answer.json()["error"]["code"] == "too_large"
        assert named in answer.json()["error"]["message"]


def test_a_large_body_that_a_route_does_not_read_does_not_hide_its_answer(client: httpx.Client) -> None:
    answer = client.post("/api/v1/img2img", content=b"x" * 2**24, headers={"Content-Type": "image/png"})
    assert (answer.status_code, answer.headers["connection"]) == (415, "close")


@pytest.mark.parametrize("path", ["/", "/healthz", "/api/v1/jobs", "/nothing"])
def test_every_answer_keeps_browsers_from_guessing(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
