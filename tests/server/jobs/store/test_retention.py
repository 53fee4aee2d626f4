from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.jobs.store import JobStore, Retention, database
from tests.support.generation_requests import request, submission
from tests.support.outages import locked

DAY = 86_400.0


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobStore]:
    monkeypatch.setattr(database, "WRITE_SECONDS", 0.01)
    store = JobStore(tmp_path)
    yield store
    store.close()


def over(store: JobStore, image: bytes = b"") -> str:
    job_id = store.add(submission()).job_id
    if image:
        store.add_image(job_id, 0, 7, image)
    store.end(job_id, "succeeded")
    return job_id


def room(store: JobStore, for_files: int) -> Retention:
    """Return the retention that leaves so many bytes to images and uploads."""
    return Retention(gigabytes=(store.stored_bytes - store.images.bytes - store.attachments.bytes + for_files) / 1e9)


def after(store: JobStore, days: int, kept: float) -> int:
    """Return how many jobs expire in a server that runs for some days."""
    begun = time.time()
    return sum(Retention(days=kept).apply(store, lambda day=day: begun + day * DAY) for day in range(1, days + 1))  # type: ignore[misc]


def test_what_is_over_goes_when_it_is_too_old_and_what_waits_never(store: JobStore) -> None:
    old = [over(store) for _ in range(120)]
    waiting = store.add(submission()).job_id
    assert after(store, 29, kept=30) == 0
    assert after(store, 31, kept=30) == 120
    assert all(store.is_expired(job_id) for job_id in old)
    assert store.get(waiting) is not None


def test_a_clock_that_is_ahead_at_a_start_costs_no_job(
    store: JobStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = [over(store) for _ in range(3)]
    for ahead in (40 * DAY, 40 * DAY, 80 * 365 * DAY):
        again = JobStore(tmp_path)
        assert Retention(days=30).apply(again, lambda ahead=ahead: time.time() + ahead) == 0  # type: ignore[misc]
        assert "days ahead of the last time that jobs expired" in caplog.messages[-1]
        again.close()
    assert all(store.get(job_id) is not None for job_id in made)
    assert Retention(days=30).apply(store) == 0


def test_after_a_long_pause_jobs_expire_a_day_at_a_time_and_the_log_says_how_many_and_why(
    store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    over(store)
    assert [Retention(days=30).apply(store, lambda: time.time() + 40 * DAY) for _ in range(32)] == [0] * 30 + [1, 0]
    assert caplog.messages[1:] == [
        "jobs have expired: 1 ended more than 30 days ago, 0 to keep everything within 10 GB"
    ]


def test_a_full_store_that_makes_room_does_not_move_the_date(store: JobStore) -> None:
    made = [over(store, b"x" * 100_000) for _ in range(40)]
    for _ in range(40):
        assert room(store, 500_000).make_room(store) in (35, 0)
    assert [store.get(job_id) is not None for job_id in made] == [False] * 35 + [True] * 5
    assert Retention(days=30).apply(store, lambda: time.time() + 40 * DAY) == 0


def test_attempts_that_a_locked_database_stops_do_not_move_the_date(store: JobStore, tmp_path: Path) -> None:
    over(store)
    with locked(tmp_path / "jobs.sqlite3"):
        for _ in range(40):
            with pytest.raises(sqlite3.OperationalError):
                Retention(days=30).apply(store, lambda: time.time() + 40 * DAY)
    assert Retention(days=30).apply(store, lambda: time.time() + 40 * DAY) == 0


def test_jobs_that_end_while_the_clock_has_lost_its_time_are_kept_as_long(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    Retention(days=30).apply(store)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(time, "time", lambda: 12.0)
        job_id = over(store)
        assert Retention(days=30).apply(store) == 0
    assert Retention(days=30).apply(store) == 0
    job = store.get(job_id)
    assert job is not None
    assert job.finished is not None
    assert abs(job.finished - time.time()) < DAY


def test_a_database_of_an_earlier_version_starts_at_its_newest_job(tmp_path: Path) -> None:
    first = JobStore(tmp_path)
    job_id = over(first)
    first.close()
    db = sqlite3.connect(tmp_path / "jobs.sqlite3")
    db.execute("UPDATE jobs SET finished = finished - ?", (40 * DAY,))
    db.execute("DELETE FROM calendar")
    db.commit()
    db.close()
    second = JobStore(tmp_path)
    assert Retention(days=30).apply(second) == 0
    assert second.get(job_id) is not None
    second.close()


def test_requests_take_room_too(store: JobStore) -> None:
    made = [store.add(submission(request(prompt="🐚" * 10_000))).job_id for _ in range(20)]
    for job_id in made:
        store.end(job_id, "cancelled")
    assert store.images.bytes == 0
    most = store.stored_bytes // 2
    assert 0 < Retention(gigabytes=most / 1e9).apply(store) < 20
    assert store.stored_bytes <= most
    assert store.get(made[-1]) is not None


def test_only_the_newest_expired_jobs_are_remembered(store: JobStore) -> None:
    made = [over(store) for _ in range(5)]
    store.expire(made)
    store.forget_expired(0.0, most=2)
    assert [store.is_expired(job_id) for job_id in made] == [False] * 3 + [True] * 2


def test_images_beyond_the_room_go_with_the_jobs_that_were_over_first(store: JobStore) -> None:
    made = [over(store, b"x" * 100_000) for _ in range(5)]
    assert room(store, 250_000).apply(store) == 3
    assert [store.is_expired(job_id) for job_id in made] == [True] * 3 + [False] * 2
    assert store.images.bytes == 200_000


def test_room_that_running_jobs_take_is_left_to_them(store: JobStore) -> None:
    job_id = store.add(submission(request(n=2))).job_id
    store.start(job_id)
    store.add_image(job_id, 0, 7, b"x" * 100_000)
    assert Retention(gigabytes=1e-9).apply(store) == 0


def test_uploads_count_until_their_job_has_ended_in_whatever_way(store: JobStore) -> None:
    made = [over(store, b"x" * 100_000) for _ in range(3)]
    waiting = store.add(submission(request(image="image"), attachments={"image": b"x" * 200_000})).job_id
    assert store.images.bytes + store.attachments.bytes == 500_000
    assert room(store, 450_000).apply(store) == 1
    assert [store.is_expired(job_id) for job_id in made] == [True, False, False]
    store.end(waiting, "cancelled")
    assert store.images.bytes + store.attachments.bytes == 200_000


def test_a_database_shrinks_with_its_jobs(store: JobStore, tmp_path: Path) -> None:
    def bytes_on_disk() -> int:
        return sum(file.stat().st_size for file in tmp_path.glob("jobs.sqlite3*") if file.suffix != ".sqlite3-shm")

    text = "a " * 4000
    over(store)
    before = bytes_on_disk()
    with store._database.transaction() as db:
        db.execute(
            """WITH RECURSIVE numbers (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM numbers WHERE n < 500)
               INSERT INTO jobs (id, number, status, request, created, finished, error_message)
               SELECT 'job' || n, n, 'failed', request, created, finished, ? FROM jobs, numbers""",
            (text,),
        )
    assert bytes_on_disk() > 4_000_000
    assert Retention(days=0).apply(store) == 500
    assert bytes_on_disk() < before + 150_000  # the ids of expired jobs stay


def test_that_a_job_expired_is_known_for_a_year(store: JobStore) -> None:
    job_id = over(store)
    assert after(store, 3, kept=1) == 1
    after(store, 364, kept=1)
    assert store.is_expired(job_id)
    after(store, 369, kept=1)
    assert not store.is_expired(job_id)
