from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from server.jobs.store import MOST_ATTEMPTS
from tests.support.fake_pipeline import NOTE
from tests.support.live_server import PATIENCE, answers, enqueue, job, live, over, running, until

pytestmark = pytest.mark.slow


def test_a_job_whose_worker_died_runs_again_once(tmp_path: Path) -> None:
    with live(tmp_path) as client:
        ended = over(client, enqueue(client, "die once")["id"])
        assert (ended["status"], ended["attempts"]) == ("succeeded", 2)
        assert len(ended["images"]) == 1


def test_jobs_that_kill_their_worker_fail_with_the_reason_and_others_go_on(tmp_path: Path) -> None:
    with live(tmp_path) as client:
        deadly = [enqueue(client, f"die {i}") for i in range(2)]
        good = enqueue(client, "a circle")
        for made in deadly:
            ended = over(client, made["id"])
            assert (ended["status"], ended["attempts"]) == ("failed", 2)
            assert "died" in ended["error"]["message"]
        assert over(client, good["id"])["status"] == "succeeded"


def test_a_worker_that_is_killed_while_it_waits_is_started_again_however_often(tmp_path: Path) -> None:
    before = set(multiprocessing.active_children())
    with live(tmp_path) as client:
        for _ in range(4):
            (worker,) = set(multiprocessing.active_children()) - before
            worker.kill()
            until(lambda dead=worker: set(multiprocessing.active_children()) - before - {dead})
            until(lambda: client.get("/readyz").status_code == 200)
        assert over(client, enqueue(client, "a circle")["id"])["status"] == "succeeded"


def test_a_worker_that_hangs_as_it_ends_is_killed_and_others_go_on(tmp_path: Path) -> None:
    with live(tmp_path) as client:
        hanging, good = enqueue(client, "hang"), enqueue(client, "a circle")
        assert over(client, hanging["id"])["error"]["code"] == "worker_died"
        assert over(client, good["id"])["status"] == "succeeded"


def test_a_job_that_was_cancelled_does_not_come_back_when_its_worker_dies(tmp_path: Path) -> None:
    with live(tmp_path) as client:
        made = enqueue(client, "die late")
        until(lambda: job(client, made["id"])["status"] == "running")
        client.delete(f"/api/v1/jobs/{made['id']}")
        ended = over(client, made["id"])
        assert (ended["status"], ended["attempts"]) == ("cancelled", 1)


def test_deaths_of_a_compute_unit_are_not_counted_against_the_job(tmp_path: Path) -> None:
    with live(tmp_path) as client:
        ended = over(client, enqueue(client, "trying, die")["id"])
        assert (ended["status"], ended["attempts"]) == ("failed", MOST_ATTEMPTS)
        assert over(client, enqueue(client, "a circle")["id"])["status"] == "succeeded"


def test_a_worker_that_is_stopped_while_it_tries_a_compute_unit_has_not_died_of_it(tmp_path: Path) -> None:
    note = tmp_path / "models" / "fake" / NOTE
    with live(tmp_path) as client:
        running(client, enqueue(client, "trying, slow", steps=100)["id"])
        assert note.exists()
    assert not note.exists()


def test_a_client_that_waits_gets_its_jobs_failure(tmp_path: Path) -> None:
    with live(tmp_path) as client:
        answer = client.post("/api/v1/txt2img", json={"prompt": "die"})
        assert answer.status_code == 500
        assert "died" in answer.json()["error"]["message"]


def test_stopping_in_good_order_queues_the_running_job_for_the_next_start(tmp_path: Path) -> None:
    with live(tmp_path) as client:
        first, second = enqueue(client, "slow", steps=100), enqueue(client, "a circle")
        running(client, first["id"])
    with live(tmp_path, ready=False) as client:
        assert job(client, first["id"])["attempts"] <= 1
        assert client.delete(f"/api/v1/jobs/{first['id']}").status_code == 200
        assert over(client, second["id"])["status"] == "succeeded"
        assert over(client, first["id"])["status"] == "cancelled"


@contextmanager
def killable(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    command = [sys.executable, "-m", "tests.support.live_server", str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            base = f"http://127.0.0.1:{int(process.stdout.readline())}"
            with httpx.Client(base_url=base, timeout=PATIENCE, trust_env=False) as client:
                until(lambda: answers(client))
                yield process, client
        finally:
            process.kill()


def test_a_server_that_is_killed_loses_no_job(tmp_path: Path) -> None:
    with killable(tmp_path) as (process, client):
        until(lambda: client.get("/readyz").status_code == 200)
        made = [enqueue(client, f"slow {i}", steps=steps, seed=i) for i, steps in enumerate((10, 1, 1))]
        running(client, made[0]["id"])
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with live(tmp_path) as client:
        done = [over(client, m["id"]) for m in made]
        assert [(d["status"], d["attempts"]) for d in done] == [("succeeded", 2), ("succeeded", 1), ("succeeded", 1)]
        for ended in done:
            assert client.get(ended["images"][0]["url"]).status_code == 200
