from __future__ import annotations

import httpx
import pytest

from tests.support.live_server import enqueue, over

#: Headers of the moment.
CHANGING = ("date",)


def compared(answer: httpx.Response) -> tuple[int, dict[str, str]]:
    return answer.status_code, {name: value for name, value in answer.headers.items() if name not in CHANGING}


@pytest.mark.parametrize(
    "path",
    ["/", "/page.css", "/healthz", "/readyz", "/openapi.json", "/api/v1/capabilities", "/api/v1/models", "/nothing"],
)
def test_head_is_get_without_the_body(client: httpx.Client, path: str) -> None:
    head = client.head(path)
    assert compared(head) == compared(client.get(path))
    assert head.content == b""


def test_head_of_an_image_says_how_large_it_is(client: httpx.Client) -> None:
    job = over(client, enqueue(client, "a circle")["id"])
    path = f"/api/v1/jobs/{job['id']}/images/0"
    assert compared(client.head(path)) == compared(client.get(path))


def test_head_opens_no_event_stream(client: httpx.Client) -> None:
    job = enqueue(client, "slow", steps=10)
    path = f"/api/v1/jobs/{job['id']}"
    head = client.head(f"{path}/events", timeout=5)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")
    assert client.get(path).json()["status"] in ("queued", "running")
    client.delete(path)
    assert client.head("/api/v1/jobs/none/events").status_code == 404


def test_head_is_accepted_only_where_get_is(client: httpx.Client) -> None:
    answer = client.head("/api/v1/txt2img")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert client.put("/healthz").headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("target", ["/healthz", "/api/v1/txt2img", "*"])
def test_options_names_the_methods(client: httpx.Client, target: str) -> None:
    answer = client.send(client.build_request("OPTIONS", "/healthz", extensions={"target": target.encode()}))
    if target == "*":
        assert 400 <= answer.status_code < 500
    else:
        assert answer.status_code == 405
        assert answer.headers["allow"] == ("POST" if "txt2img" in target else "GET, HEAD")
