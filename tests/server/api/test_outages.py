"""Requests while the disk or the job database cannot be used: what is said, and what still works."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import httpx
import pytest

from server.jobs import ledger
from server.jobs.store import JobStore, database
from server.models.conversion import ConversionFiles
from server.models.installed import InstalledModels
from tests.support.live_server import enqueue, live, over
from tests.support.outages import locked


def failing(number: int, path: str = "/data/anemone/images") -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number), path)

    return fail


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have servers that start now wait only shortly for a locked database."""
    monkeypatch.setattr(database, "WRITE_SECONDS", 0.1)
    monkeypatch.setattr(ledger, "WRITE_SECONDS", 0.1)


@pytest.fixture
def own(impatient: None, tmp_path: Path) -> Iterator[httpx.Client]:
    with live(tmp_path) as client:
        yield client


def refused(answer: httpx.Response, status: int, code: str, words: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert words in error["message"]
    assert int(answer.headers["retry-after"]) > 0


def test_a_request_on_a_full_disk_is_told_so_and_jobs_can_still_be_read(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = over(client, enqueue(client, "a circle")["id"])
    monkeypatch.setattr(JobStore, "add", failing(errno.ENOSPC))
    refused(client.post("/api/v1/txt2img", json={"prompt": "a"}), 507, "disk_full", "anemone/images cannot be written")
    assert client.get(f"/api/v1/jobs/{done['id']}").json() == done
    assert client.get(done["images"][0]["url"]).status_code == 200
    assert client.get("/api/v1/jobs").status_code == 200


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.EROFS, "read_only", "read-only"),
        (errno.EMFILE, "too_many_files", "ulimit -n"),
        (errno.EACCES, "no_permission", "permission"),
        (errno.EIO, "disk_error", "check the disk"),
    ],
)
def test_a_conversion_that_cannot_be_stored_says_why_and_is_none(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, number: int, code: str, words: str
) -> None:
    before = client.get("/api/v1/models/conversions").json()["conversions"]
    monkeypatch.setattr(ConversionFiles, "write", failing(number))
    refused(client.post("/api/v1/models", json={"source": "owner/name"}), 503, code, words)
    assert client.get("/api/v1/models/conversions").json()["conversions"] == before


@pytest.mark.parametrize("path", ["/api/v1/models", "/api/v1/capabilities", "/api/v1/models/fake"])
def test_models_that_cannot_be_read_now_are_no_internal_error(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(InstalledModels, "_listing", failing(errno.EMFILE, "/data/anemone/models"))
    refused(client.get(path), 503, "too_many_files", "anemone/models")


def test_a_locked_database_refuses_writes_only_and_keeps_what_it_refused(own: httpx.Client, tmp_path: Path) -> None:
    done, slow = over(own, enqueue(own, "a circle")["id"]), enqueue(own, "slow", steps=100)
    waiting = enqueue(own, "a circle")
    with locked(tmp_path / "jobs.sqlite3"):
        refused(own.post("/api/v1/txt2img", json={"prompt": "a"}), 503, "database_locked", "jobs.sqlite3")
        refused(own.delete(f"/api/v1/jobs/{waiting['id']}"), 503, "database_locked", "jobs.sqlite3")
        assert own.get(f"/api/v1/jobs/{done['id']}").json() == done
        assert own.get(f"/api/v1/jobs/{waiting['id']}").json()["position"] == 1
        assert own.get("/healthz").status_code == 200
    for made in (waiting, slow):
        assert own.delete(f"/api/v1/jobs/{made['id']}").status_code == 200
        assert over(own, made["id"])["status"] == "cancelled"


def test_many_requests_that_wait_for_the_database_are_all_refused_at_once(
    own: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_free = threading.Event()

    def waits(*_: object) -> NoReturn:
        is_free.wait()
        raise OSError(errno.ENOSPC, "No space left on device", "/data/anemone/jobs.sqlite3")

    monkeypatch.setattr(JobStore, "add", waits)
    with ThreadPoolExecutor(8) as elsewhere:
        answers = [elsewhere.submit(own.post, "/api/v1/txt2img", json={"prompt": "a"}) for _ in range(8)]
        statuses = []
        while len(statuses) < 7:
            statuses = [answer.result().status_code for answer in answers if answer.done()]
        is_free.set()
        assert statuses == [503] * 7
        assert sorted(answer.result().status_code for answer in answers) == [503] * 7 + [507]
