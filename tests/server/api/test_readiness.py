from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from converter.progress import Progress
from server.security.gate import Access
from server.security.key import ApiKey, Authenticator
from tests.support import fake_pipeline
from tests.support.asgi_client import HERE, LAN, ask
from tests.support.live_server import enqueue, live, over, running, server, until


def test_readyz_tells_the_progress_until_it_is_ready(tmp_path: Path) -> None:
    with live(tmp_path, checkpoint="steady", ready=False) as client:
        seen = []
        while (answer := client.get("/readyz")).status_code == 503:
            seen.append(answer.json())
            time.sleep(0.02)
        assert answer.json()["ready"] is True
    converting = [s for s in seen if s["state"] == "converting"]
    assert {(s["network"], s["total"], s["ready"]) for s in converting} == {("unet", 100, False)}
    assert all(s["fraction"] == s["done"] / 100 for s in converting)


def test_readyz_tells_how_far_the_loading_is(tmp_path: Path) -> None:
    with live(tmp_path, fake_pipeline.LINGERING, ready=False) as client:
        now = until(lambda: (r := client.get("/readyz").json())["state"] == "loading" and r)
    assert now["network"] == f"network {now['done']}"
    assert now["fraction"] == now["done"] / now["total"]


def test_before_the_model_is_known_requests_are_told_to_come_back(tmp_path: Path) -> None:
    with live(tmp_path, checkpoint="slow", ready=False) as client:
        answer = client.post("/api/v1/txt2img", json={"prompt": "a"})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert client.get("/api/v1/capabilities").json()["loaded"] == []


def test_a_model_that_cannot_be_converted_says_why(tmp_path: Path) -> None:
    with live(tmp_path, checkpoint="bad", ready=False) as client:
        refused_because(client, "unknown architecture")


def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with live(tmp_path, fake_pipeline.BROKEN, ready=False) as client:
        refused_because(client, "broken/unet uses operators")


KEY = "a-key-for-tests-0123456789"
HAS_KEY = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, str]]:
    """A server with a key, whose model failed with a message that names a path, and that path."""
    data = tmp_path_factory.mktemp("private")
    app = server(data, access=Access(authenticator=Authenticator(ApiKey(KEY)))).config.app
    with TestClient(app, "http://localhost", client=(HERE, 50000), raise_server_exceptions=False) as client:
        until(lambda: client.get("/readyz").json()["ready"])
        app.state.queue.on_failure(f"{data}/model.safetensors cannot be read")
        yield client, str(data)


def test_why_the_model_failed_is_for_those_with_the_key(failed: tuple[TestClient, str]) -> None:
    client, path = failed
    without, has_key = client.get("/readyz"), client.get("/readyz", headers=HAS_KEY)
    assert (without.status_code, has_key.status_code) == (503, 503)
    assert "server's log" in without.json()["message"]
    assert path in has_key.json()["message"]


def test_what_is_being_loaded_is_for_those_with_the_key(failed: tuple[TestClient, str]) -> None:
    client, path = failed
    client.app.state.queue.on_progress(Progress("downloading", "secret.safetensors", 1, 2))
    without, has_key = client.get("/readyz").json(), client.get("/readyz", headers=HAS_KEY).json()
    client.app.state.queue.on_failure(f"{path}/model.safetensors cannot be read")
    assert (without["state"], without["fraction"], without["network"]) == ("downloading", 0.5, None)
    assert has_key["network"] == "secret.safetensors"


def test_wrong_keys_for_readyz_are_counted_as_everywhere(failed: tuple[TestClient, str]) -> None:
    client, path = failed
    guess = {"Authorization": "Bearer guess"}
    answers = [ask(client.app, path="/readyz", headers=guess, client=LAN) for _ in range(11)]
    assert [answer.status for answer in answers] == [503] * 10 + [429]
    assert path.encode() not in b"".join(answer.body for answer in answers)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "TRACE", "FOO"])
def test_nobody_learns_a_path_or_a_setting_without_the_key(failed: tuple[TestClient, str], method: str) -> None:
    client, path = failed
    hidden = [path, str(Path.home()), str(Path(__file__).parents[3]), sys.prefix, "site-packages", KEY]
    paths = ["/", "/page.js", "/healthz", "/readyz", "/metrics", "/openapi.json", "/nothing", "/readyz/", "/%2e%2e/"]
    for target in [*paths, "/api/v1/session", "/api/v1/jobs", "/api/v1/models", "/api/v1/txt2img"]:
        for body in (b"", b"{", b'{"key": 1}', b"\xff"):
            answer = client.request(method, target, content=body, headers={"Content-Type": "application/json"})
            told = f"{answer.headers} {answer.text}"
            assert answer.status_code < 500 or target == "/readyz", (target, told)
            assert not [secret for secret in hidden if secret in told], (target, told)


def refused_because(client: httpx.Client, reason: str) -> None:
    reply = until(lambda: (r := client.get("/readyz").json())["state"] == "failed" and r)
    assert reason in reply["message"]
    answer = client.post("/api/v1/txt2img", json={"prompt": "a"})
    assert answer.status_code == 503
    assert reason in answer.json()["error"]["message"]
    assert client.get("/healthz").status_code == 200


def test_a_worker_that_only_dies_is_not_started_for_ever(tmp_path: Path) -> None:
    with live(tmp_path, fake_pipeline.DEADLY, ready=False) as client:
        reply = until(lambda: (r := client.get("/readyz").json())["state"] == "failed" and r)
        assert "died 3 times" in reply["message"]


def test_healthz_answers_within_50_ms_while_an_image_is_made(client: httpx.Client) -> None:
    made = enqueue(client, "busy", steps=40)
    running(client, made["id"])
    times = []
    for _ in range(30):
        began = time.perf_counter()
        client.get("/healthz")
        times.append(time.perf_counter() - began)
    assert client.get(f"/api/v1/jobs/{made['id']}").json()["status"] == "running"
    client.delete(f"/api/v1/jobs/{made['id']}")
    over(client, made["id"])
    assert statistics.median(times) < 0.05
