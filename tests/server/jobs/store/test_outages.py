"""A store whose disk or database cannot be used for a while: what was being done fails whole, and is done afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.faults import FAULTS
from server.jobs.job import Job
from server.jobs.store import JobStore
from tests.support.generation_requests import request, submission
from tests.support.outages import no_more_files, no_room


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path)
    yield store
    store.close()


def add(store: JobStore) -> str:
    return store.add(submission(request(image="image"), attachments={"image": b"image"})).job_id


def got(store: JobStore, job_id: str) -> Job:
    job = store.get(job_id)
    assert job is not None
    return job


def stopped(*attempts: Callable[[], object]) -> None:
    """Check that a full disk stops each of the attempts."""
    with no_room():
        for attempt in attempts:
            with pytest.raises(FAULTS):
                attempt()


def test_what_a_full_disk_stopped_can_be_done_once_there_is_room(store: JobStore, tmp_path: Path) -> None:
    job_id = add(store)
    stopped(lambda: add(store), lambda: store.start(job_id), lambda: store.end(job_id, "cancelled"))
    assert [queued.job_id for queued in store.queued()] == [job_id]
    store.start(job_id)
    stopped(
        lambda: store.add_image(job_id, 0, 7, b"png"),
        lambda: store.cancelling(job_id),
        lambda: store.interrupted("the worker died", by_worker=True),
        lambda: store.requeue(job_id),
        lambda: store.end(job_id, "succeeded"),
    )
    assert (got(store, job_id).status, got(store, job_id).images) == ("running", ())
    store.add_image(job_id, 0, 7, b"png")
    store.end(job_id, "succeeded")
    assert (got(store, job_id).status, got(store, job_id).attempts) == ("succeeded", 1)
    assert len(os.listdir(tmp_path / "images")) == 1
    assert os.listdir(tmp_path / "attachments") == []


def test_an_image_that_the_database_does_not_take_leaves_no_file(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = add(store)
    store.start(job_id)
    write = store.images.write

    def last_room(png: bytes) -> str:
        name = write(png)
        full.__enter__()
        return name

    full = no_room()
    monkeypatch.setattr(store.images, "write", last_room)
    with pytest.raises(FAULTS):
        store.add_image(job_id, 0, 7, b"png")
    full.__exit__(None, None, None)
    assert os.listdir(tmp_path / "images") == []


def test_an_attempt_that_could_not_read_its_attachments_is_not_counted(store: JobStore) -> None:
    job_id = add(store)
    with no_more_files(), pytest.raises(FAULTS):
        store.start(job_id)
    assert (got(store, job_id).status, got(store, job_id).attempts) == ("queued", 0)
    store.start(job_id)
    assert got(store, job_id).attempts == 1
