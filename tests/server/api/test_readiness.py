from __future__ import annotations

import statistics
import time
from pathlib import Path

import httpx

from tests.support import fake_pipeline
from tests.support.live_server import enqueue, live, over, running, until


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
        refused_because(client, "its unet uses operators")


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
