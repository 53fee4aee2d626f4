"""While the disk or the database cannot be used, jobs wait, clients read why, and the queue resumes by itself."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import httpx
import pytest

from server.jobs import dispatcher, ledger
from server.jobs.ledger import JobLedger
from server.jobs.store import JobStore, database
from server.jobs.store.files import StoredFiles
from server.models.installed import InstalledModels
from server.outage import Pauses
from server.supervisor import ChildProcess
from tests.support.live_server import Told, enqueue, job, live, over, running, until, watch
from tests.support.outages import locked

#: Short enough for a test; three failed attempts are 0.35 s.
PAUSES = Pauses(0.05, 0.2)


class Switch:
    """Has a method raise while it is on; ``calls`` counts how often it did."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch, self.calls = monkeypatch, 0

    @contextmanager
    def on(self, owner: type, method: str, error: Callable[[], Exception]) -> Iterator[None]:
        def fail(*_: object, **__: object) -> NoReturn:
            self.calls += 1
            raise error()

        with self._monkeypatch.context() as meanwhile:
            meanwhile.setattr(owner, method, fail)
            yield


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Switch:
    return Switch(monkeypatch)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outages") / "data"


@pytest.fixture(scope="module")
def client(data: Path) -> Iterator[httpx.Client]:
    """One server for all tests, which leave it ready; it waits only shortly for a locked database."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(database, "WRITE_SECONDS", 0.05)
        patched.setattr(ledger, "WRITE_SECONDS", 0.05)
        patched.setattr(dispatcher, "_CHECK_SECONDS", 0.05)
        with live(data, pauses=PAUSES) as client:
            yield client


def failing(number: int, path: str = "/data/anemone/images") -> Callable[[], OSError]:
    return lambda: OSError(number, os.strerror(number), path)


def paused(client: httpx.Client, words: str) -> None:
    """Wait until the server is paused for this reason."""
    reply = until(lambda: (r := client.get("/readyz")).status_code == 503 and r.json())
    assert (reply["ready"], reply["state"]) == (False, "paused")
    assert words in reply["message"]


def ready(client: httpx.Client) -> None:
    until(lambda: client.get("/readyz").status_code == 200)


@pytest.mark.parametrize(
    ("owner", "method", "number", "words"),
    [
        (JobStore, "start", errno.EMFILE, "ulimit -n"),
        (StoredFiles, "write", errno.ENOSPC, "disk is full: anemone/images"),
        (JobStore, "add_image", errno.EROFS, "read-only"),
        (JobStore, "end", errno.EACCES, "permission"),
        (InstalledModels, "content_hash", errno.EIO, "check the disk"),
    ],
)
def test_a_job_goes_on_by_itself_once_the_cause_is_gone(
    client: httpx.Client, switch: Switch, owner: type, method: str, number: int, words: str
) -> None:
    with switch.on(owner, method, failing(number)):
        made = enqueue(client, "a circle")
        until(lambda: switch.calls > 4)
        paused(client, words)
        assert words in job(client, made["id"])["paused"]
        assert client.get("/healthz").status_code == 200
    ended = over(client, made["id"])
    assert (ended["status"], ended["attempts"], ended["paused"]) == ("succeeded", 1, None)
    assert client.get(ended["images"][0]["url"]).status_code == 200
    ready(client)


def test_images_that_do_not_get_to_the_disk_are_reported(client: httpx.Client, switch: Switch) -> None:
    with switch.on(JobLedger, "settle", failing(errno.EIO)):
        over(client, enqueue(client, "a circle")["id"])
        paused(client, "check the disk")
    ready(client)


def test_a_worker_that_cannot_be_started_is_started_later(client: httpx.Client, switch: Switch) -> None:
    with switch.on(ChildProcess, "__init__", failing(errno.EMFILE, "")):
        made = enqueue(client, "die once")
        until(lambda: switch.calls > 2)
        paused(client, "ulimit -n")
    assert over(client, made["id"])["status"] == "succeeded"


@pytest.mark.slow
def test_a_worker_that_dies_while_the_database_is_locked_costs_its_job_nothing(
    client: httpx.Client, data: Path
) -> None:
    made = enqueue(client, "die late")
    until(lambda: job(client, made["id"])["status"] == "running")
    with locked(data / "jobs.sqlite3"):
        paused(client, "locked")
    ended = over(client, made["id"])
    assert (ended["attempts"], ended["error"]["code"]) == (2, "worker_died")


def test_a_locked_database_stops_jobs_only_while_it_is_locked(client: httpx.Client, data: Path) -> None:
    made = enqueue(client, "slow", steps=5)
    running(client, made["id"])
    with locked(data / "jobs.sqlite3"):
        paused(client, "another program has locked the job database (jobs.sqlite3)")
    assert over(client, made["id"])["status"] == "succeeded"


def test_a_removed_images_folder_is_made_again(client: httpx.Client, data: Path) -> None:
    made = enqueue(client, "slow", steps=3)
    shutil.rmtree(data / "images")
    ended = over(client, made["id"])
    assert client.get(ended["images"][0]["url"]).status_code == 200
    assert client.get("/readyz").status_code == 200


def test_a_data_folder_that_is_away_is_reported_until_it_is_back(client: httpx.Client, data: Path) -> None:
    made = enqueue(client, "slow", steps=10)
    running(client, made["id"])
    away = data.with_name("away")
    data.rename(away)
    try:
        answer = client.post("/api/v1/txt2img", json={"prompt": "a circle"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "missing")
        paused(client, "is missing; put its folder back")
        for request in ({"prompt": "a circle"}, {"prompt": "a circle", "model": "other"}):
            answer = client.post("/api/v1/txt2img", json=request)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "missing")
            assert int(answer.headers["retry-after"]) > 0
        assert not data.exists()
    finally:
        away.rename(data)
    assert over(client, made["id"])["status"] == "succeeded"


def test_a_client_waits_on_through_a_short_outage_and_is_answered_in_a_long_one(
    client: httpx.Client, switch: Switch
) -> None:
    with ThreadPoolExecutor(1) as elsewhere:
        with switch.on(StoredFiles, "write", failing(errno.ENOSPC)):
            waiting = elsewhere.submit(client.post, "/api/v1/txt2img", json={"prompt": "slow"})
            until(lambda: switch.calls)
        assert waiting.result().status_code == 200
        with switch.on(StoredFiles, "write", failing(errno.ENOSPC)):
            answer = client.post("/api/v1/txt2img", json={"prompt": "a circle"})
            assert answer.status_code == 507
            (open_job,) = client.get("/api/v1/jobs?status=running").json()["jobs"]
            assert open_job["paused"].startswith("the disk is full")
            error = answer.json()["error"]
            assert error["code"] == "disk_full"
            assert f"the server keeps job {open_job['id']} and runs it" in error["message"]
            assert int(answer.headers["retry-after"]) > 0
            # The disk may have room for a row yet: a client that comes now waits for nothing.
            assert client.post("/api/v1/txt2img", json={"prompt": "a circle"}).status_code == 507
            kept = client.get("/api/v1/jobs?status=running&status=queued").json()["jobs"]
        assert len(kept) == 2
        for made in kept:
            assert over(client, made["id"])["status"] == "succeeded"


def test_watchers_are_told_of_an_outage_and_of_its_end(client: httpx.Client, switch: Switch) -> None:
    made, told, is_told = enqueue(client, "slow", steps=5), list[Told](), threading.Event()

    def read() -> None:
        for event in watch(client, made["id"]):
            told.append(event)
            if event.data.get("paused"):
                is_told.set()

    watching = threading.Thread(target=read)
    with switch.on(StoredFiles, "write", failing(errno.ENOSPC)):
        watching.start()
        assert is_told.wait(60)
    watching.join()
    states = [(event.data["status"], event.data["paused"] is not None) for event in told if event.kind == "state"]
    assert ("running", True) in states
    assert states[-1] == ("succeeded", False)


def test_a_job_that_waits_for_room_can_be_cancelled(client: httpx.Client, switch: Switch) -> None:
    with switch.on(StoredFiles, "write", failing(errno.ENOSPC)):
        made = enqueue(client, "slow", n=2)
        paused(client, "disk is full")
        assert client.delete(f"/api/v1/jobs/{made['id']}").status_code == 200
        assert over(client, made["id"])["status"] == "cancelled"
        ready(client)


@pytest.mark.slow
def test_an_outage_does_not_hold_up_the_servers_stop_and_the_next_start_runs_the_job(
    tmp_path: Path, switch: Switch
) -> None:
    with switch.on(StoredFiles, "write", failing(errno.ENOSPC)), live(tmp_path, pauses=Pauses()) as client:
        made = enqueue(client, "a circle")
        paused(client, "disk is full")
    with live(tmp_path) as client:
        ended = over(client, made["id"])
        assert (ended["status"], ended["attempts"]) == ("succeeded", 1)


def bug() -> Exception:
    return RuntimeError("a bug")


def test_jobs_that_an_error_of_ours_stops_fail_and_the_next_one_runs(client: httpx.Client, switch: Switch) -> None:
    for method in ("start", "add_image"):
        with switch.on(JobStore, method, bug):
            failed = over(client, enqueue(client, "a circle")["id"])
            assert (failed["status"], failed["error"]["code"]) == ("failed", "internal")
            assert "RuntimeError" in failed["error"]["message"]
        assert over(client, enqueue(client, "a circle")["id"])["status"] == "succeeded"
        assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(("method", "third"), [("start", "queued"), ("add_image", "running")])
def test_an_error_of_ours_that_stays_pauses_the_queue_and_keeps_its_jobs(
    client: httpx.Client, switch: Switch, method: str, third: str
) -> None:
    with switch.on(JobStore, method, bug):
        made = [enqueue(client, "a circle")["id"] for _ in range(4)]
        paused(client, "an internal error stops the queue (RuntimeError)")
        assert [job(client, job_id)["status"] for job_id in made] == ["failed", "failed", third, "queued"]
    assert [over(client, job_id)["status"] for job_id in made[2:]] == ["succeeded", "succeeded"]
    ready(client)


def test_an_end_that_an_error_of_ours_stops_is_tried_again(client: httpx.Client, switch: Switch) -> None:
    with switch.on(JobStore, "end", bug):
        made = enqueue(client, "a circle")
        paused(client, "RuntimeError")
    assert over(client, made["id"])["status"] == "succeeded"


def test_a_step_time_that_cannot_be_stored_ends_no_job(client: httpx.Client, switch: Switch) -> None:
    with switch.on(JobStore, "keep_step_time", failing(errno.ENOSPC)):
        assert over(client, enqueue(client, "a circle")["id"])["status"] == "succeeded"
    assert switch.calls == 1


def test_an_idle_server_notices_that_its_data_folder_is_gone_and_is_there_again(
    client: httpx.Client, data: Path
) -> None:
    aside = data.rename(data.with_name("aside"))
    paused(client, "missing")
    aside.rename(data)
    ready(client)
