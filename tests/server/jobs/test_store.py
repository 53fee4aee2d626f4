from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.jobs.request import GenerationRequest
from server.jobs.store import JobStore, StoreError


def request(prompt: str = "a circle", image: bytes | None = None) -> GenerationRequest:
    return GenerationRequest(prompt, 64, 64, 3, 4.5, 7, "euler", image=image, strength=0.5 if image else None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    found = JobStore(tmp_path)
    yield found
    found.close()


def test_a_job_is_there_for_the_next_server(tmp_path: Path) -> None:
    first = JobStore(tmp_path)
    job_id = first.add(request(image=b"picture"))
    first.close()
    second = JobStore(tmp_path)
    assert second.start_next() == (job_id, request(image=b"picture"))
    second.close()


def test_jobs_start_in_the_order_they_came(store: JobStore) -> None:
    made = [store.add(request(str(i))) for i in range(3)]
    started = [store.start_next() for _ in range(4)]
    assert [s and s[0] for s in started] == [*made, None]


def test_a_job_that_is_over_stays_as_it_ended(store: JobStore) -> None:
    job_id = store.add(request())
    store.end(job_id, "cancelled")
    store.end(job_id, "succeeded")
    found = store.get(job_id)
    assert found is not None
    assert found.status == "cancelled"
    assert store.start_next() is None


def test_an_interrupted_job_is_tried_once_more_in_its_old_place(store: JobStore) -> None:
    first, second = store.add(request("first")), store.add(request("second"))
    for _ in range(2):
        started = store.start_next()
        assert started is not None
        assert started[0] == first
        failed = store.interrupted("the worker died")
    assert failed == [first]
    found = store.get(first)
    assert found is not None
    assert found.failure is not None
    assert (found.status, found.failure.code) == ("failed", "worker_died")
    following = store.start_next()
    assert following is not None
    assert following[0] == second


def test_a_job_put_back_has_its_attempt_forgiven(store: JobStore) -> None:
    job_id = store.add(request())
    store.start_next()
    store.requeue(job_id)
    found = store.get(job_id)
    assert found is not None
    assert (found.status, found.attempts) == ("queued", 0)


def test_pictures_are_kept_whole_under_names_that_say_nothing(store: JobStore, tmp_path: Path) -> None:
    job_id = store.add(request())
    store.add_image(job_id, 0, 7, b"first attempt")
    store.add_image(job_id, 0, 7, b"second attempt")
    found = store.get(job_id)
    assert found is not None
    (image,) = found.images
    assert store.image_path(image).read_bytes() == b"second attempt"
    assert job_id not in image.file
    assert not list(tmp_path.rglob("*.partial"))


def test_ids_cannot_be_guessed_from_each_other(store: JobStore) -> None:
    made = {store.add(request()) for _ in range(50)}
    assert len(made) == 50
    assert min(len(m) for m in made) >= 16


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    JobStore(tmp_path).close()
    db = sqlite3.connect(tmp_path / "jobs.sqlite3")
    db.execute("PRAGMA user_version = 999")
    db.close()
    with pytest.raises(StoreError, match="newer"):
        JobStore(tmp_path)
