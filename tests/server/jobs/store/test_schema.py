from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest

from server.api.submission import fingerprint_of
from server.jobs.store import JobStore, StoreError, schema
from server.jobs.store.files import StoredFiles
from server.pipeline.request.edits import Source
from tests.support.generation_requests import request

#: A data folder of the version before requests were nested, killed with jobs queued and one running.
SCHEMA_2 = Path(__file__).parents[3] / "data" / "jobs-schema-2"

#: A request as version 1 wrote it, when there was one model.
OLD = {
    "prompt": "a circle",
    "width": 64,
    "height": 64,
    "steps": 3,
    "guidance_scale": 4.5,
    "seed": 7,
    "scheduler": "euler",
}


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    JobStore(tmp_path).close()
    db = sqlite3.connect(tmp_path / "jobs.sqlite3")
    db.execute("PRAGMA user_version = 999")
    db.close()
    with pytest.raises(StoreError, match="newer"):
        JobStore(tmp_path)


def test_jobs_of_the_first_schema_are_taken_over(tmp_path: Path) -> None:
    db = schema.connect(tmp_path / "jobs.sqlite3", 5.0)
    schema._m001_jobs(db, StoredFiles(tmp_path / "attachments", ".bin"))
    db.execute("PRAGMA user_version = 1")
    for number, status in enumerate(("succeeded", "running", "queued"), 1):
        db.execute(
            "INSERT INTO jobs (id, number, status, request, created) VALUES (?, ?, ?, ?, 1.5)",
            (status, number, status, json.dumps({**OLD, "negative_prompt": "", "n": 1})),
        )
    db.execute("INSERT INTO images VALUES ('succeeded', 0, 7, 'a.png')")
    db.close()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"image")
    store = JobStore(tmp_path)
    store.name_model("fake")
    store.interrupted("the server was killed", by_worker=False)
    assert sorted(w.job_id for w in store.queued()) == ["queued", "running"]
    taken, _ = store.start("queued")
    assert (taken.model, taken.prompts.prompt_syntax) == ("fake", "plain")
    old = store.get("succeeded")
    assert old is not None
    assert store.image_path(old.images[0]).read_bytes() == b"image"
    store.close()


def test_a_scheduler_whose_name_held_its_sigmas_is_still_read(tmp_path: Path) -> None:
    db = schema.connect(tmp_path / "jobs.sqlite3", 5.0)
    schema._m001_jobs(db, StoredFiles(tmp_path / "attachments", ".bin"))
    db.execute("PRAGMA user_version = 1")
    for number, scheduler in enumerate(("dpm++_2m_karras", "heun"), 1):
        text = json.dumps({**OLD, "scheduler": scheduler, "negative_prompt": "a dpm++_2m_karras", "n": 1})
        db.execute(
            "INSERT INTO jobs (id, number, status, request, created) VALUES (?, ?, 'queued', ?, 1.5)",
            (f"job-{number}", number, text),
        )
    db.close()
    store = JobStore(tmp_path)
    store.name_model("fake")
    for name, expected in (("job-1", ("dpm++_2m", "karras")), ("job-2", ("heun", "automatic"))):
        job = store.get(name)
        assert job is not None
        assert (job.request.sampling.scheduler, job.request.sampling.sigmas) == expected
    store.close()


def test_images_keep_their_seeds_and_flags_when_images_without_seeds_come(tmp_path: Path) -> None:
    db = schema.connect(tmp_path / "jobs.sqlite3", 5.0)
    for step in schema._MIGRATIONS[:8]:
        step(db, StoredFiles(tmp_path / "attachments", ".bin"))
    db.execute("PRAGMA user_version = 8")
    db.execute(
        "INSERT INTO jobs (id, number, status, request, created) VALUES ('old', 1, 'succeeded', ?, 1.5)",
        (json.dumps(request().model_dump(mode="json", exclude={"task"})),),
    )
    db.execute(
        "INSERT INTO images (job, number, seed, file, flagged) VALUES ('old', 0, 7, 'a.png', 0), ('old', 1, 8, 'b.png', 1)"
    )
    db.close()
    store = JobStore(tmp_path)
    old = store.get("old")
    assert old is not None
    assert [(image.index, image.seed, image.file, image.flagged) for image in old.images] == [
        (0, 7, "a.png", False),
        (1, 8, "b.png", True),
    ]
    assert old.request is not None
    assert old.request.task == "txt2img"
    store.close()


@pytest.fixture
def schema_2(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SCHEMA_2, tmp_path / "data"))


def upload(data_dir: Path) -> bytes:
    db = sqlite3.connect(data_dir / "jobs.sqlite3")
    ((content,),) = db.execute("SELECT upload FROM jobs WHERE upload IS NOT NULL").fetchall()
    db.close()
    return bytes(content)


def test_jobs_of_the_second_schema_are_taken_over_with_their_images_and_uploads(schema_2: Path) -> None:
    source = upload(schema_2)
    store = JobStore(schema_2)
    jobs = {job.request.prompts.prompt: job for job in store.page(100)}
    assert {prompt: job.status for prompt, job in jobs.items()} == {
        "a finished circle": "succeeded",
        "finished seeds": "succeeded",
        "a finished start": "succeeded",
        "it will fail": "failed",
        "a slow running circle": "running",
        "a queued start": "queued",
        "a queued heun": "queued",
        "a queued pndm": "queued",
        "a cancelled start": "cancelled",
    }
    varied = jobs["a finished circle"]
    assert [image.seed for image in varied.images] == [7, 7]
    assert store.image_path(varied.images[1]).read_bytes().startswith(b"\x89PNG")
    assert varied.request.seeds.of_images == ((7, 3), (7, 4))
    seeded = jobs["finished seeds"].request
    assert (seeded.seeds.seeds, seeded.seeds.rng, str(seeded.size)) == ((5, 9), "numpy", "96x64")
    store.interrupted("the server was killed", by_worker=False)
    costs = {queued.job_id: (queued.cost.calls, queued.cost.shape.batch) for queued in store.queued()}
    assert [
        costs[jobs[p].id] for p in ("a slow running circle", "a queued start", "a queued heun", "a queued pndm")
    ] == [
        (150, 2),
        (2, 2),
        (19, 2),
        (11, 1),
    ]
    taken, attachments = store.start(jobs["a queued start"].id)
    assert taken.source == Source(image="image", strength=0.5)
    assert attachments == {"image": source}
    store.end(jobs["a queued start"].id, "succeeded")
    assert list((schema_2 / "attachments").iterdir()) == []
    store.close()


def test_a_database_that_held_uploads_shrinks_once_they_are_moved(schema_2: Path) -> None:
    database = schema_2 / "jobs.sqlite3"
    db = sqlite3.connect(database)
    db.execute("UPDATE jobs SET upload = zeroblob(1000000) WHERE status IN ('queued', 'running')")
    db.commit()
    db.close()
    assert database.stat().st_size > 4_000_000
    store = JobStore(schema_2)
    assert store.attachments.bytes == 4_000_000
    store.close()
    assert database.stat().st_size < 200_000
    assert not Path(f"{database}-wal").exists()


def test_a_request_sent_again_after_an_upgrade_is_still_the_same(schema_2: Path) -> None:
    source = upload(schema_2)
    left_out = dict.fromkeys(
        ("negative_prompt", "width", "height", "guidance_scale", "scheduler", "n", "seeds", "rng", "variation_seed",
         "variation_strength", "model")
    )  # fmt: skip
    fields = left_out | {"prompt": "a queued start", "steps": 4, "seed": 11, "strength": 0.5, "priority": "normal"}
    store = JobStore(schema_2)
    known = store.with_key("127.0.0.1", "a queued start")
    assert known is not None
    assert known[1] == fingerprint_of("/api/v1/img2img", fields, {"image": source})
    store.close()


def _migrate_and_die(data_dir: Path, moment: str) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(StoredFiles, moment, die)
    JobStore(data_dir)


@pytest.mark.parametrize("moment", ["write", "settle"])
def test_a_kill_while_uploads_are_moved_loses_none(schema_2: Path, moment: str) -> None:
    source = upload(schema_2)
    process = multiprocessing.get_context("fork").Process(target=_migrate_and_die, args=(schema_2, moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = JobStore(schema_2)
    (job,) = [job for job in store.page(100) if job.request.prompts.prompt == "a queued start"]
    assert store.start(job.id)[1] == {"image": source}
    assert len(list((schema_2 / "attachments").glob("*.bin"))) == 1
    store.close()


@pytest.mark.parametrize("moment", ["write", "settle"])
def test_a_disk_that_is_full_while_uploads_are_moved_loses_no_job_and_leaves_no_copies(
    schema_2: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, write = upload(schema_2), StoredFiles.write

    def full(files: StoredFiles, *data: bytes) -> None:
        write(files, b"the upload before")
        raise OSError(errno.ENOSPC, "No space left on device", str(schema_2 / "attachments"))

    for _ in range(2):
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(StoredFiles, moment, full)
            with pytest.raises(StoreError, match="No space left on device"):
                JobStore(schema_2)
        assert list((schema_2 / "attachments").iterdir()) == []
    store = JobStore(schema_2)
    (job,) = [job for job in store.page(100) if job.request.prompts.prompt == "a queued start"]
    assert store.start(job.id)[1] == {"image": source}
    assert list(schema_2.glob("*damaged*")) == []
    store.close()
