"""Two workers behind one queue."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.events import OPEN
from server.jobs.job import Job
from server.jobs.messages import Trying
from server.jobs.queue import JobQueue
from server.jobs.store import JobStore
from server.models.installed import InstalledModels
from tests.support import fake_pipeline
from tests.support.generation_requests import request, submission
from tests.support.live_server import until
from tests.support.processes import copied


@contextmanager
def two_workers(data_dir: Path) -> Iterator[JobQueue]:
    folder = data_dir / "models" / "fake"
    folder.mkdir(parents=True)
    fake_pipeline.MANIFEST.write(folder)
    store, worker = JobStore(data_dir), copied(fake_pipeline.start, data_dir, name="fake-worker")
    queue = JobQueue(store, [worker, worker], InstalledModels(data_dir), lambda readiness: None)
    queue.start()
    queue.on_installed("fake")
    try:
        yield queue
    finally:
        queue.stop()
        store.close()


def submitted(queue: JobQueue, prompt: str, steps: int = 3) -> str:
    return queue.submit(submission(request(prompt, steps=steps))).job_id


def job_of(queue: JobQueue, job_id: str) -> Job:
    job = queue.job(job_id)
    assert job is not None
    return job


def over(queue: JobQueue, job_id: str) -> Job:
    until(lambda: job_of(queue, job_id).status not in OPEN)
    return job_of(queue, job_id)


def test_a_worker_that_dies_takes_only_its_own_job_with_it(tmp_path: Path) -> None:
    with two_workers(tmp_path) as queue:
        slow = submitted(queue, "slow", steps=60)
        until(lambda: job_of(queue, slow).step)
        deadly = submitted(queue, "die")
        assert over(queue, deadly).status == "failed"
        assert (job_of(queue, slow).status, job_of(queue, slow).attempts) == ("running", 1)
        queue.cancel(slow)
        assert over(queue, slow).status == "cancelled"


def test_both_make_images_at_once_and_their_model_is_listed_once(tmp_path: Path) -> None:
    with two_workers(tmp_path) as queue:
        jobs = [submitted(queue, "slow", steps=100) for _ in range(2)]
        until(lambda: all(job_of(queue, job_id).step for job_id in jobs))
        assert queue.loaded == ["fake"]
        assert queue.jobs_for("fake") == 2
        for job_id in jobs:
            queue.cancel(job_id)
        assert [over(queue, job_id).status for job_id in jobs] == ["cancelled", "cancelled"]


def test_workers_that_run_load_a_first_model_that_is_installed_once_more(tmp_path: Path) -> None:
    with two_workers(tmp_path) as queue:
        until(lambda: queue.readiness.state == "ready")
        queue.on_installed("fake")
        until(lambda: queue.readiness.state == "ready")
        assert over(queue, submitted(queue, "a circle")).status == "succeeded"


def test_a_merged_model_s_note_is_found_also_where_its_base_is_a_link(tmp_path: Path) -> None:
    merged, models = tmp_path / "merged" / "a" / "b", tmp_path / "models"
    for folder in (merged, models, tmp_path / "elsewhere" / "deep" / "tiny"):
        folder.mkdir(parents=True)
    (models / "tiny").symlink_to(tmp_path / "elsewhere" / "deep" / "tiny")
    note = os.path.relpath(merged / ".note", models / "tiny")
    assert Trying("tiny", note).file(models / "tiny") == merged / ".note"
    assert Trying("tiny", ".note").file(models / "tiny") == models / "tiny" / ".note"
