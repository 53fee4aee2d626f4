from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.jobs.ledger import Limits
from server.jobs.store import Retention
from server.jobs.store.calendar import Calendar
from tests.support.live_server import enqueue, job, live, over, running, until


def send(client: httpx.Client, key: str | None = None, prompt: str = "a circle", **fields: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key is not None else {}
    return client.post("/api/v1/txt2img", json={"prompt": prompt, **fields}, headers=headers)


def count(client: httpx.Client) -> int:
    return len(client.get("/api/v1/jobs?limit=100").json()["jobs"])


@pytest.mark.slow
def test_the_same_request_with_the_same_key_is_the_same_job(tmp_path: Path) -> None:
    with live(tmp_path) as client:
        first, again = send(client, "k1"), send(client, "k1")
        assert (first.status_code, again.status_code) == (200, 200)
        assert again.headers["x-job-id"] == first.headers["x-job-id"]
        assert again.content == first.content
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        assert count(client) == 1
    with live(tmp_path) as client:
        assert send(client, "k1").headers["x-job-id"] == first.headers["x-job-id"]
        assert send(client, "k2").headers["x-job-id"] != first.headers["x-job-id"]


def test_a_repeat_waits_for_the_image_with_the_first(client: httpx.Client) -> None:
    answers: list[httpx.Response] = []
    threads = [
        threading.Thread(target=lambda: answers.append(send(client, "together", "slow together", steps=5)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [a.status_code for a in answers] == [200] * 3
    assert len({a.headers["x-job-id"] for a in answers}) == 1
    assert len({a.content for a in answers}) == 1


def test_another_request_with_a_key_that_was_used_is_refused(client: httpx.Client) -> None:
    assert send(client, "used").status_code == 200
    for changed in ({"steps": 2}, {"priority": "low"}, {"prompt": "a square"}):
        answer = send(client, "used", **changed)
        assert answer.status_code == 422, answer.text
        error = answer.json()["error"]
        assert (error["code"], error["field"], error["value"]) == ("key_reused", "Idempotency-Key", "used")


def test_a_key_stands_for_the_uploaded_image_too(client: httpx.Client, encoded: Any) -> None:
    def upload(colour: str) -> httpx.Response:
        files = {"image": ("a.png", encoded(colour=colour))}
        headers = {"Idempotency-Key": "upload"}
        return client.post("/api/v1/img2img", data={"prompt": "a"}, files=files, headers=headers)

    first, again, other = upload("red"), upload("red"), upload("blue")
    assert (first.status_code, again.status_code, other.status_code) == (200, 200, 422)
    assert first.headers["x-job-id"] == again.headers["x-job-id"]


@pytest.mark.parametrize("key", ["", "x" * 201, "a\tb", "caf\xe9"])
def test_a_key_that_is_none_is_named(client: httpx.Client, key: str) -> None:
    answer = client.post("/api/v1/txt2img", json={"prompt": "a"}, headers=[(b"Idempotency-Key", key.encode("latin-1"))])
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "Idempotency-Key"


def test_two_keys_are_refused_since_one_would_be_dropped(client: httpx.Client) -> None:
    headers = [("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
    answer = client.post("/api/v1/txt2img", json={"prompt": "a"}, headers=headers)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["field"], error["accepted"]) == ("repeated_field", "Idempotency-Key", "once")


def test_a_retry_of_an_sdk_is_the_job_it_was(client: httpx.Client) -> None:
    def again(retries: str) -> str:
        headers = {"X-Stainless-Retry-Count": retries}
        answer = client.post("/api/v1/txt2img", json={"prompt": "an sdk's"}, headers=headers)
        assert answer.status_code == 200
        return str(answer.headers["x-job-id"])

    first = again("0")
    assert again("1") == again("2") == first
    assert again("0") != first
    assert again("nonsense") != first


def test_higher_priorities_go_first(client: httpx.Client) -> None:
    blocking = enqueue(client, "slow", steps=8)
    made = {p: enqueue(client, "a circle", priority=p)["id"] for p in ("low", "normal", "high")}
    assert job(client, made["low"])["position"] == 3
    done = [over(client, made[p]) for p in ("high", "normal", "low")]
    assert sorted(done, key=lambda d: d["started"]) == done
    assert [d["priority"] for d in done] == ["high", "normal", "low"]
    over(client, blocking["id"])


def test_an_unknown_priority_is_named_with_what_there_is(client: httpx.Client) -> None:
    error = send(client, priority="urgent").json()["error"]
    assert error["field"] == "priority"
    for name in ("high", "normal", "low"):
        assert name in error["accepted"]


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[httpx.Client]:
    with live(tmp_path, limits=Limits(max_queue=2)) as client:
        yield client


@pytest.mark.slow
def test_a_full_queue_says_when_to_come_back_and_loses_nothing(narrow: httpx.Client) -> None:
    first = enqueue(narrow, "slow", steps=20)
    running(narrow, first["id"])
    waiting = [enqueue(narrow, "a circle")["id"] for _ in range(2)]
    answer = send(narrow)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert count(narrow) == 3
    narrow.delete(f"/api/v1/jobs/{waiting[0]}")
    assert send(narrow).status_code == 200
    assert over(narrow, waiting[1])["status"] == "succeeded"


def test_a_repeat_is_answered_even_by_a_full_queue(narrow: httpx.Client) -> None:
    first = enqueue(narrow, "slow", steps=20)
    running(narrow, first["id"])
    headers = {"Idempotency-Key": "k", "Prefer": "respond-async"}
    made = [narrow.post("/api/v1/txt2img", json={"prompt": "a"}, headers=headers).json()["id"] for _ in range(2)]
    enqueue(narrow, "another")
    assert send(narrow).status_code == 429
    assert narrow.post("/api/v1/txt2img", json={"prompt": "a"}, headers=headers).json()["id"] == made[0] == made[1]


@pytest.mark.slow
def test_jobs_that_have_expired_answer_410(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hourly = list[float]()
    monkeypatch.setattr(Calendar, "follow", lambda calendar, clock: hourly.append(clock) or clock)
    with live(tmp_path, limits=Limits(retention=Retention(gigabytes=1e-9))) as client:
        headers = {"Idempotency-Key": "k", "Prefer": "respond-async"}
        job_id = client.post("/api/v1/txt2img", json={"prompt": "a circle"}, headers=headers).json()["id"]
        until(lambda: client.get(f"/api/v1/jobs/{job_id}").status_code == 410)
        for path in (f"/api/v1/jobs/{job_id}", f"/api/v1/jobs/{job_id}/images/0", f"/api/v1/jobs/{job_id}/events"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (410, "expired")
        assert client.delete(f"/api/v1/jobs/{job_id}").status_code == 410
        # Its key is forgotten with it: a client that still waits would otherwise never get an image.
        again = client.post("/api/v1/txt2img", json={"prompt": "a circle"}, headers=headers).json()["id"]
        assert again != job_id
        until(lambda: client.get(f"/api/v1/jobs/{again}").status_code == 410)
        assert client.get("/api/v1/jobs").json()["jobs"] == []
    assert len(hourly) == 1  # making room is no reason to move the date by which jobs expire
    with live(tmp_path, ready=False) as client:
        assert client.get(f"/api/v1/jobs/{job_id}").status_code == 410
    assert not list((tmp_path / "images").iterdir())
