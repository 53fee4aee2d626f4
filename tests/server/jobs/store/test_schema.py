from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from server.jobs.store import JobStore, StoreError, schema

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
    db = schema.connect(tmp_path / "jobs.sqlite3")
    schema._m001_jobs(db)
    db.execute("PRAGMA user_version = 1")
    for number, status in enumerate(("succeeded", "running", "queued"), 1):
        db.execute(
            "INSERT INTO jobs (id, number, status, request, created) VALUES (?, ?, ?, ?, 1.5)",
            (status, number, status, json.dumps({**OLD, "negative_prompt": "", "n": 1})),
        )
    db.execute("INSERT INTO images VALUES ('succeeded', 0, 7, 'a.png')")
    db.close()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"picture")
    store = JobStore(tmp_path)
    store.name_model("fake")
    store.interrupted("the server was killed", by_worker=False)
    assert sorted(w.job_id for w in store.queued()) == ["queued", "running"]
    assert store.start("queued").model == "fake"
    old = store.get("succeeded")
    assert old is not None
    assert store.image_path(old.images[0]).read_bytes() == b"picture"
    store.close()
