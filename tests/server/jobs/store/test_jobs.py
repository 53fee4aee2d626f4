from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.jobs.estimates import Shape, StepTime
from server.jobs.job import Job, JobFailure
from server.jobs.store import MOST_ATTEMPTS, JobStore
from tests.support.generation_requests import request, submission


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path)
    yield store
    store.close()


def add(store: JobStore, prompt: str = "a circle", **fields: object) -> str:
    return store.add(submission(request(prompt), **fields)).job_id


def got(store: JobStore, job_id: str) -> Job:
    job = store.get(job_id)
    assert job is not None
    return job


def test_a_job_is_there_for_the_next_server_as_it_was_asked_for(tmp_path: Path) -> None:
    first = JobStore(tmp_path)
    asked, attachments = request(image="image", seeds=(3, 4), n=2), {"image": b"image", "mask": b"mask"}
    kept = first.add(submission(asked, attachments=attachments, client="10.0.0.1", priority="high"), 5.0)
    first.close()
    second = JobStore(tmp_path)
    assert second.queued() == [kept]
    assert second.start(kept.job_id) == (asked, attachments)
    second.close()


def test_only_a_queued_job_can_be_started(store: JobStore) -> None:
    job_id = add(store)
    store.start(job_id)
    with pytest.raises(KeyError):
        store.start(job_id)
    with pytest.raises(KeyError):
        store.start("nothing")


def test_a_job_that_is_over_stays_as_it_ended(store: JobStore) -> None:
    job_id = add(store)
    store.end(job_id, "cancelled")
    store.end(job_id, "succeeded")
    assert got(store, job_id).status == "cancelled"
    assert store.queued() == []


def test_a_job_whose_worker_died_is_tried_once_more_and_then_failed_with_the_reason(store: JobStore) -> None:
    job_id = add(store)
    store.start(job_id)
    assert store.interrupted("it died", by_worker=True) == ([job_id], [])
    store.start(job_id)
    assert store.interrupted("it died", by_worker=True) == ([], [job_id])
    job = got(store, job_id)
    assert (job.status, job.attempts) == ("failed", 2)
    assert job.failure == JobFailure("worker_died", "it died, 2 times during this job")


def test_a_server_killed_while_a_job_runs_fails_it_only_after_so_many_times(store: JobStore) -> None:
    job_id = add(store)
    for attempt in range(1, MOST_ATTEMPTS + 1):
        assert got(store, job_id).status == "queued"
        store.start(job_id)
        assert got(store, job_id).attempts == attempt
        store.interrupted("the server was killed", by_worker=False)
    job = got(store, job_id)
    assert job.failure is not None
    assert (job.status, job.failure.code) == ("failed", "worker_died")


@pytest.mark.parametrize("by_worker", [True, False])
def test_a_job_that_was_being_cancelled_does_not_come_back(store: JobStore, by_worker: bool) -> None:
    job_id = add(store)
    store.start(job_id)
    store.cancelling(job_id)
    assert store.interrupted("it died", by_worker=by_worker) == ([], [job_id])
    assert got(store, job_id).status == "cancelled"


def test_a_job_put_back_has_its_attempt_forgiven_unless_it_was_being_cancelled(store: JobStore) -> None:
    kept, given_up = add(store), add(store)
    for job_id in (kept, given_up):
        store.start(job_id)
    store.cancelling(given_up)
    for job_id in (kept, given_up):
        store.requeue(job_id)
    assert (got(store, kept).status, got(store, kept).attempts) == ("queued", 0)
    assert got(store, given_up).status == "cancelled"


def test_a_later_attempts_image_takes_the_place_of_the_earlier_ones(store: JobStore, tmp_path: Path) -> None:
    job_id = add(store)
    store.add_image(job_id, 0, 7, b"first attempt")
    store.add_image(job_id, 0, 7, b"second attempt")
    (image,) = got(store, job_id).images
    assert store.image_path(image).read_bytes() == b"second attempt"
    assert job_id not in image.file
    assert len(list((tmp_path / "images").iterdir())) == 1


def test_ids_cannot_be_guessed_from_each_other(store: JobStore) -> None:
    made = {add(store) for _ in range(50)}
    assert len(made) == 50
    assert min(len(m) for m in made) >= 16


def test_pages_are_of_the_newest_first_and_of_what_was_asked_for(store: JobStore) -> None:
    made = [store.add(submission(request(model="odd" if i % 2 else "even"))).job_id for i in range(6)]
    for job_id in made[:3]:
        store.end(job_id, "cancelled")
    store.end(made[3], "failed", JobFailure("internal", "a bug"))
    assert [j.id for j in store.page(2)] == [made[5], made[4]]
    before = store.page(2)[-1].number
    assert [j.id for j in store.page(2, before)] == [made[3], made[2]]
    assert [j.id for j in store.page(9, statuses=("cancelled",))] == made[2::-1]
    assert [j.id for j in store.page(2, statuses=("cancelled", "failed"))] == [made[3], made[2]]
    assert [j.id for j in store.page(9, model="odd")] == [made[5], made[3], made[1]]
    assert [j.id for j in store.page(9, before, ("cancelled",), "odd")] == [made[1]]


def test_a_key_is_found_only_for_its_client(store: JobStore) -> None:
    job_id = add(store, client="a", key="k", fingerprint="f")
    add(store, client="b", key="k", fingerprint="g")
    assert store.with_key("a", "k") == (job_id, "f")
    assert store.with_key("c", "k") is None


def test_the_newest_like_a_request_is_found_if_it_is_new_enough(store: JobStore) -> None:
    add(store, client="a", fingerprint="f")
    newest = add(store, client="a", fingerprint="f")
    assert store.newest_like("a", "f", 0) == newest
    assert store.newest_like("b", "f", 0) is None
    assert store.newest_like("a", "f", time.time() + 1) is None


def test_what_has_expired_is_gone_but_for_its_id(store: JobStore, tmp_path: Path) -> None:
    job_id, other = add(store, key="k", fingerprint="f"), add(store)
    store.add_image(job_id, 0, 7, b"image")
    store.end(job_id, "succeeded")
    store.expire([job_id])
    assert store.get(job_id) is None
    assert store.is_expired(job_id)
    assert not store.is_expired(other)
    assert store.with_key("", "k") is None
    assert list((tmp_path / "images").iterdir()) == []
    kept = sqlite3.connect(tmp_path / "jobs.sqlite3")
    dump = list(kept.iterdump())
    kept.close()
    assert "a circle" not in "".join(line for line in dump if job_id in line)
    store.forget_expired(time.time() + 1, most=10)
    assert not store.is_expired(job_id)


def test_numbers_of_expired_jobs_are_not_given_again(store: JobStore) -> None:
    job_id = add(store)
    number = got(store, job_id).number
    store.end(job_id, "cancelled")
    store.expire([job_id])
    assert got(store, add(store)).number > number


def test_step_times_are_kept(tmp_path: Path) -> None:
    first = JobStore(tmp_path)
    shape = Shape("fake", 64, 96, 2)
    first.keep_step_time(shape, StepTime(9.0, 9.0))
    first.keep_step_time(shape, StepTime(0.5, 1.5))
    first.close()
    second = JobStore(tmp_path)
    assert second.step_times() == {shape: StepTime(0.5, 1.5)}
    second.close()


def test_reading_does_not_wait_for_a_write(store: JobStore, tmp_path: Path) -> None:
    job_id = add(store)
    writer = sqlite3.connect(tmp_path / "jobs.sqlite3", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE jobs SET status = 'failed'")
    assert got(store, job_id).status == "queued"
    writer.execute("ROLLBACK")
    writer.close()


def attached(store: JobStore) -> str:
    return store.add(submission(request(image="image"), attachments={"image": b"image", "mask": b"mask"})).job_id


def files(tmp_path: Path) -> set[bytes]:
    return {file.read_bytes() for file in (tmp_path / "attachments").glob("*.*")}


def test_attachments_are_files_under_names_that_say_nothing_until_their_job_is_over(
    store: JobStore, tmp_path: Path
) -> None:
    job_id = attached(store)
    assert files(tmp_path) == {b"image", b"mask"}
    assert not [file for file in (tmp_path / "attachments").iterdir() if job_id in file.name or "image" in file.name]
    store.start(job_id)
    store.requeue(job_id)
    assert store.start(job_id)[1] == {"image": b"image", "mask": b"mask"}
    store.end(job_id, "succeeded")
    assert files(tmp_path) == set()


@pytest.mark.parametrize("in_place", ["nothing", "a folder", "a link to itself"])
def test_an_attachment_that_is_no_file_any_more_is_left_out(store: JobStore, tmp_path: Path, in_place: str) -> None:
    job_id = attached(store)
    for file in list((tmp_path / "attachments").iterdir()):
        file.unlink()
        if in_place == "a folder":
            file.mkdir()
        elif in_place == "a link to itself":
            file.symlink_to(file)
    assert store.start(job_id)[1] == {}


def test_attachments_go_with_a_job_that_is_cancelled_or_failed_in_any_way(store: JobStore, tmp_path: Path) -> None:
    store.end(attached(store), "cancelled")
    stopping, died = attached(store), attached(store)
    for job_id in (stopping, died):
        store.start(job_id)
        store.cancelling(job_id)
    store.requeue(stopping)
    store.interrupted("it died", by_worker=True)
    assert files(tmp_path) == set()


def test_files_without_a_job_are_moved_aside_at_the_next_start_which_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = JobStore(tmp_path)
    job_id = attached(first)
    first.attachments.write(b"killed before its job was kept")
    first.close()
    second = JobStore(tmp_path)
    assert files(tmp_path) == {b"image", b"mask"}
    assert [file.read_bytes() for file in (tmp_path / "attachments" / "unknown").iterdir()] == [
        b"killed before its job was kept"
    ]
    assert caplog.messages == ["files in attachments to which no job refers, now in attachments/unknown: 1"]
    assert second.start(job_id)[1]["mask"] == b"mask"
    second.close()


def test_a_job_that_cannot_be_kept_leaves_no_attachments(store: JobStore, tmp_path: Path) -> None:
    add(store, key="k")
    with pytest.raises(sqlite3.IntegrityError):
        store.add(submission(request(image="image"), attachments={"image": b"image"}, key="k"))
    assert files(tmp_path) == set()
    add(store)


def test_a_lost_database_costs_no_image(tmp_path: Path) -> None:
    first = JobStore(tmp_path)
    job_id = add(first)
    first.add_image(job_id, 0, 7, b"image")
    first.close()
    database = tmp_path / "jobs.sqlite3"
    database.rename(tmp_path / "elsewhere")
    for _ in range(2):
        JobStore(tmp_path).close()
    database.unlink()
    (tmp_path / "elsewhere").rename(database)
    third = JobStore(tmp_path)
    assert third.image_path(got(third, job_id).images[0]).read_bytes() == b"image"
    third.close()


def test_notes_are_those_of_the_last_attempt_in_their_order(store: JobStore) -> None:
    job_id, other = add(store), add(store)
    store.start(job_id)
    store.add_note(job_id, "the mask was scaled")
    store.interrupted("the worker died", by_worker=True)
    store.start(job_id)
    for note in ("the mask was scaled", "the prompt was shortened"):
        store.add_note(job_id, note)
    store.end(job_id, "succeeded")
    assert got(store, job_id).notes == ("the mask was scaled", "the prompt was shortened")
    assert got(store, other).notes == ()
    assert store.expire([job_id]) == 1
