from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.live_server import enqueue, live, over, running

pytestmark = pytest.mark.slow


def _left_while_running(data_dir: Path, steps: int, grace: float) -> tuple[str, str, list[httpx.Response]]:
    """Stop a server while it makes a slow image; return the job, the next one, and the waiting client's answer."""
    answers: list[httpx.Response] = []
    with live(data_dir, grace=grace) as client:
        base = client.base_url

        def wait_for(prompt: str, **fields: Any) -> None:
            with httpx.Client(base_url=base, timeout=60, trust_env=False) as own:
                answers.append(own.post("/api/v1/txt2img", json={"prompt": prompt, **fields}))

        waiting = threading.Thread(target=wait_for, args=("slow first",), kwargs={"steps": steps})
        waiting.start()
        first = None
        while first is None:
            first = next((j["id"] for j in client.get("/api/v1/jobs").json()["jobs"]), None)
        running(client, first)
        second = enqueue(client, "a circle")["id"]
    waiting.join()
    return first, second, answers


def test_the_running_job_ends_within_the_grace_and_its_client_is_answered(tmp_path: Path) -> None:
    first, second, answers = _left_while_running(tmp_path, steps=10, grace=30)
    assert [(a.status_code, a.headers["content-type"]) for a in answers] == [(200, "image/png")]
    with live(tmp_path) as client:
        job = over(client, first)
        assert (job["status"], job["attempts"]) == ("succeeded", 1)
        assert over(client, second)["status"] == "succeeded"


def test_a_job_that_takes_longer_goes_back_to_the_queue_and_its_client_is_told(tmp_path: Path) -> None:
    first, second, answers = _left_while_running(tmp_path, steps=40, grace=0)
    assert [a.status_code for a in answers] == [503]
    assert first in answers[0].json()["error"]["message"]
    with live(tmp_path) as client:
        assert over(client, first)["status"] == "succeeded"
        assert over(client, second)["status"] == "succeeded"
