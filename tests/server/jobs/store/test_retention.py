from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.jobs.store import JobStore, Retention
from tests.support.generation_requests import request, submission

DAY = 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path)
    yield store
    store.close()


def over(store: JobStore, image: bytes = b"") -> str:
    job_id = store.add(submission()).job_id
    if image:
        store.add_image(job_id, 0, 7, image)
    store.end(job_id, "succeeded")
    return job_id


def test_what_is_over_goes_when_it_is_too_old_and_what_waits_never(store: JobStore) -> None:
    old = [over(store) for _ in range(120)]
    waiting = store.add(submission()).job_id
    assert Retention(days=30).apply(store, lambda: time.time() + 29 * DAY) == 0
    assert Retention(days=30).apply(store, lambda: time.time() + 31 * DAY) == 120
    assert all(store.is_expired(job_id) for job_id in old)
    assert store.get(waiting) is not None


def test_images_beyond_the_room_go_with_the_jobs_that_were_over_first(store: JobStore) -> None:
    made = [over(store, b"x" * 1000) for _ in range(5)]
    assert Retention(gigabytes=2.5e-6).apply(store) == 3
    assert [store.is_expired(job_id) for job_id in made] == [True] * 3 + [False] * 2
    assert store.images.bytes == 2000


def test_room_that_running_jobs_take_is_left_to_them(store: JobStore) -> None:
    job_id = store.add(submission(request(n=2))).job_id
    store.start(job_id)
    store.add_image(job_id, 0, 7, b"x" * 1000)
    assert Retention(gigabytes=1e-9).apply(store) == 0


def test_that_a_job_expired_is_known_for_a_year(store: JobStore) -> None:
    job_id = over(store)
    Retention(days=1).apply(store, lambda: time.time() + 2 * DAY)
    Retention(days=1).apply(store, lambda: time.time() + 364 * DAY)
    assert store.is_expired(job_id)
    Retention(days=1).apply(store, lambda: time.time() + 366 * DAY)
    assert not store.is_expired(job_id)
