"""How a client cancels a call, and with it the job: by a notification, or since 2026 by closing the connection."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp import Client

from server.api.mcp.calls import Calls
from server.jobs.store import JobStore
from tests.support.live_server import answers, over, until
from tests.support.mcp_client import NEW, OLD, VERSION, calling, with_client

#: A version from before 2026.


def newest(client: httpx.Client) -> dict[str, Any]:
    return dict(client.get("/api/v1/jobs", params={"limit": 1}).json()["jobs"][0])


def first_step(messages: Iterator[dict[str, Any]]) -> None:
    """Read until the job has made a step."""
    assert any(message.get("params", {}).get("progress", 0) > 0 for message in messages)


@pytest.mark.parametrize("mode", [OLD, NEW])
def test_a_client_that_gives_up_a_call_cancels_its_job(client: httpx.Client, mode: str) -> None:
    async def ask(connected: Client) -> None:
        async def give_up(done: float, total: float | None, sentence: str | None) -> None:
            if done:
                scope.cancel()

        with anyio.CancelScope() as scope:
            arguments = {"prompt": f"slow {mode}", "steps": 100}
            await connected.call_tool("generate_image", arguments, progress_callback=give_up)
        await anyio.to_thread.run_sync(until, lambda: newest(client)["status"] == "cancelled")

    with_client(client, ask, mode)
    assert newest(client)["request"]["prompt"] == f"slow {mode}"


def test_a_connection_that_is_cut_leaves_the_job_before_2026(client: httpx.Client) -> None:
    with calling(client, VERSION, "generate_image", prompt="slow", steps=6) as messages:
        first_step(messages)
    assert over(client, newest(client)["id"])["status"] == "succeeded"


def test_a_connection_that_is_closed_cancels_the_job_since_2026(client: httpx.Client) -> None:
    with calling(client, NEW, "generate_image", prompt="slow", steps=100) as messages:
        first_step(messages)
    assert over(client, newest(client)["id"])["status"] == "cancelled"


def test_following_a_job_no_longer_leaves_the_job(client: httpx.Client) -> None:
    body = {"prompt": "slow", "steps": 6}
    job_id = client.post("/api/v1/txt2img", json=body, headers={"Prefer": "respond-async"}).json()["id"]
    with calling(client, NEW, "job_status", job_id=job_id, wait=True) as messages:
        first_step(messages)
    assert over(client, job_id)["status"] == "succeeded"


@pytest.mark.slow
def test_a_server_that_is_told_to_stop_keeps_the_jobs_and_says_so(tmp_path: Path) -> None:
    last: dict[str, dict[str, Any]] = {}
    # A process of its own: libraries look at the signal's handler.
    command = [sys.executable, "-m", "tests.support.live_server", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = f"http://127.0.0.1:{process.stdout.readline().strip()}"

        def read(version: str) -> None:
            arguments = {"prompt": f"slow {version}", "steps": 150}
            with (
                httpx.Client(base_url=address, timeout=60, trust_env=False) as reader,
                calling(reader, version, "generate_image", **arguments) as messages,
            ):
                *_, last[version] = messages

        with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
            until(lambda: answers(client) and client.get("/readyz").status_code == 200)
            reading = [threading.Thread(target=read, args=(version,)) for version in (VERSION, NEW)]
            for thread in reading:
                thread.start()
            jobs = until(lambda: (found := client.get("/api/v1/jobs").json()["jobs"])[1:] and found)
            process.terminate()
            for thread in reading:
                thread.join()
    store = JobStore(tmp_path)
    for each in jobs:
        result = last[each["request"]["prompt"].removeprefix("slow ")]["result"]
        assert result["isError"] is True
        assert f"the server keeps job {each['id']}" in result["content"][0]["text"]
        assert (stored := store.get(each["id"])) is not None
        assert stored.status == "queued"
    store.close()


def test_another_sessions_call_is_not_cancelled() -> None:
    calls = Calls()
    with calls.begun("one", 1) as call:
        call.job_id = "j"
        assert calls.cancel("two", 1) is None
        assert calls.cancel("one", "1") is None
        assert not call.is_cancelled
        assert calls.cancel("one", 1) == "j"
    assert calls.cancel("one", 1) is None


def test_a_call_that_is_cancelled_before_it_has_a_job_is_marked() -> None:
    calls = Calls()
    with calls.begun("one", 1) as call:
        assert calls.cancel("one", 1) is None
        assert call.is_cancelled
