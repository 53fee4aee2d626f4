from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from webuiapi import WebUIApi

from tests.support.image_files import of_b64
from tests.support.live_server import until

IDLE = {"progress": 0.0, "eta_relative": 0.0, "current_image": None, "textinfo": None}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as actual:
        yield actual


def begin(pool: ThreadPoolExecutor, client: httpx.Client, task: str, **body: Any) -> Future[httpx.Response]:
    """Send a slow request, and return once it is a job."""
    sent = {"prompt": "slow", "steps": 100, "width": 64, "height": 64, "force_task_id": task, **body}
    future = pool.submit(client.post, "/sdapi/v1/txt2img", json=sent)
    until(lambda: told(client, task)["active"] or told(client, task)["queued"])
    return future


def told(client: httpx.Client, task: str, **body: Any) -> dict[str, Any]:
    return dict(client.post("/internal/progress", json={"id_task": task, **body}).json())


def test_an_idle_server_has_no_progress_at_all(api: WebUIApi) -> None:
    progress = api.get_progress()
    assert {key: progress[key] for key in IDLE} == IDLE
    assert progress["state"]["job_count"] == 0


def test_a_running_job_tells_its_progress_and_is_interrupted(
    api: WebUIApi, client: httpx.Client, pool: ThreadPoolExecutor
) -> None:
    sent = begin(pool, client, "mine")
    progress = until(lambda: (p := api.get_progress())["current_image"] and p)
    assert 0 < progress["progress"] < 1
    assert progress["state"]["job_count"] == 1
    assert progress["state"]["sampling_steps"] == 100
    with of_b64(progress["current_image"]) as image:
        assert image.format == "PNG"
    without = client.get("/sdapi/v1/progress", params={"skip_current_image": True}).json()
    assert without["current_image"] is None
    assert without["progress"] > 0
    task = told(client, "mine")
    assert (task["active"], task["queued"], task["completed"]) == (True, False, False)
    assert task["live_preview"].startswith("data:image/jpeg;base64,")
    assert told(client, "mine", live_preview=False)["live_preview"] is None
    assert api.interrupt() is None
    answer = sent.result()
    assert answer.status_code == 409
    assert "was cancelled" in answer.json()["detail"]
    assert until(lambda: api.get_progress()["progress"] == 0.0)
    assert told(client, "mine")["completed"]


def test_queued_tasks_know_their_places(api: WebUIApi, client: httpx.Client, pool: ThreadPoolExecutor) -> None:
    first = begin(pool, client, "first")
    until(lambda: told(client, "first")["active"])
    rest = [begin(pool, client, name) for name in ("second", "third", "third")]
    pending = until(lambda: (told := client.get("/internal/pending-tasks").json())["size"] == 3 and told)
    assert pending["tasks"] == ["second", "third", "third"]
    assert api.get_progress()["state"]["job_count"] == 1
    task = told(client, "third")
    assert (task["active"], task["queued"], task["textinfo"]) == (False, True, "In queue: 3/3")
    for sent in (first, *rest):
        until(lambda: client.get("/sdapi/v1/progress").json()["state"]["sampling_step"])
        client.post("/sdapi/v1/interrupt")
        assert sent.result().status_code == 409
    assert told(client, "nobody's") == {
        "active": False, "queued": False, "completed": False, "progress": None, "eta": None, "live_preview": None,
        "id_live_preview": -1, "textinfo": "Waiting...",
    }  # fmt: skip


def test_images_that_were_finished_before_an_interruption_are_delivered(
    client: httpx.Client, pool: ThreadPoolExecutor
) -> None:
    sent = begin(pool, client, "batch", steps=3, batch_size=10)
    until(lambda: client.get("/sdapi/v1/progress").json()["state"]["job_no"] >= 1)
    client.post("/sdapi/v1/skip")
    answer = sent.result()
    assert answer.status_code == 200
    info = json.loads(answer.json()["info"])
    assert 1 <= len(answer.json()["images"]) == len(info["all_seeds"]) < 10
    assert "was interrupted" in info["comments"]


def test_a_closed_connection_does_not_cancel_its_job(client: httpx.Client) -> None:
    body = {"prompt": "slow", "steps": 4, "width": 64, "height": 64, "force_task_id": "left"}
    with pytest.raises(httpx.ReadTimeout):
        client.post("/sdapi/v1/txt2img", json=body, timeout=0.15)
    until(lambda: told(client, "left")["completed"])
    (job,) = client.get("/api/v1/jobs", params={"limit": 1}).json()["jobs"]
    assert (job["status"], job["request"]["prompt"]) == ("succeeded", "slow")


def test_jobs_of_the_servers_own_calls_are_no_progress_here(client: httpx.Client, api: WebUIApi) -> None:
    native = client.post(
        "/api/v1/txt2img", json={"prompt": "slow", "steps": 100}, headers={"Prefer": "respond-async"}
    ).json()
    until(lambda: client.get(native["url"]).json()["progress"])
    assert api.get_progress()["state"]["job_count"] == 0
    api.interrupt()
    assert client.get(native["url"]).json()["status"] == "running"
    client.delete(native["url"])
