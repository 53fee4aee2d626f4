"""Every job, in SQLite, before its client hears of it; pictures as files under opaque names."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from converter.errors import AnemoneError
from server.jobs.job import Job, JobFailure, JobImage, Status
from server.jobs.request import GenerationRequest, as_json

#: A job that was running when its worker or the server died is tried again once.
MOST_ATTEMPTS = 2

_MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = []


def _migration(step: Callable[[sqlite3.Connection], None]) -> Callable[[sqlite3.Connection], None]:
    _MIGRATIONS.append(step)
    return step


@_migration
def _m001_jobs(db: sqlite3.Connection) -> None:
    db.execute(
        """CREATE TABLE jobs (
             id TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, status TEXT NOT NULL, request TEXT NOT NULL,
             upload BLOB, created REAL NOT NULL, started REAL, finished REAL, attempts INTEGER NOT NULL DEFAULT 0,
             error_code TEXT, error_message TEXT)"""
    )
    db.execute("CREATE INDEX jobs_by_status ON jobs (status, number)")
    db.execute(
        """CREATE TABLE images (
             job TEXT NOT NULL REFERENCES jobs (id), number INTEGER NOT NULL, seed INTEGER NOT NULL, file TEXT NOT NULL,
             PRIMARY KEY (job, number))"""
    )


class StoreError(AnemoneError):
    """The job database cannot be used."""


class JobStore:
    """Jobs and their pictures in a data folder. Safe to call from several threads."""

    def __init__(self, data_dir: Path) -> None:
        self._images = data_dir / "images"
        self._images.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(data_dir / "jobs.sqlite3", check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._migrate()

    def _migrate(self) -> None:
        done = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if done > len(_MIGRATIONS):
            raise StoreError(f"jobs.sqlite3 is of a newer Anemone (schema {done}; this one knows {len(_MIGRATIONS)})")
        for number, step in enumerate(_MIGRATIONS[done:], done + 1):
            self._db.execute("BEGIN IMMEDIATE")
            step(self._db)
            self._db.execute(f"PRAGMA user_version = {number}")
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def add(self, request: GenerationRequest) -> str:
        """Keep a new job, queued; it is on disk when this returns its id."""
        job_id = secrets.token_urlsafe(12)
        row = (job_id, "queued", json.dumps(as_json(request)), request.image, time.time())
        with self._lock:
            self._db.execute(
                """INSERT INTO jobs (id, number, status, request, upload, created)
                   VALUES (?, (SELECT coalesce(max(number), 0) + 1 FROM jobs), ?, ?, ?, ?)""",
                row,
            )
        return job_id

    def _job(self, row: tuple[Any, ...]) -> Job:
        job_id, status, request, created, started, finished, attempts, code, message, number = row
        images = self._db.execute("SELECT number, seed, file FROM images WHERE job = ? ORDER BY number", (job_id,))
        position = None
        if status == "queued":
            query = "SELECT count(*) FROM jobs WHERE status IN ('queued', 'running') AND number < ?"
            position = int(self._db.execute(query, (number,)).fetchone()[0])
        return Job(
            id=job_id,
            status=status,
            request=json.loads(request),
            created=created,
            started=started,
            finished=finished,
            attempts=attempts,
            images=tuple(JobImage(*i) for i in images),
            failure=JobFailure(code, message or "") if code else None,
            position=position,
        )

    _COLUMNS = "id, status, request, created, started, finished, attempts, error_code, error_message, number"

    def get(self, job_id: str) -> Job | None:
        """The job; None where there is none of this id."""
        with self._lock:
            row = self._db.execute(f"SELECT {self._COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchone()
            return self._job(row) if row else None

    def recent(self, count: int) -> list[Job]:
        """The newest jobs, newest first."""
        with self._lock:
            query = f"SELECT {self._COLUMNS} FROM jobs ORDER BY number DESC LIMIT ?"
            return [self._job(row) for row in self._db.execute(query, (count,)).fetchall()]

    def start_next(self) -> tuple[str, GenerationRequest] | None:
        """Mark the job that has waited longest as running and return it; None where none waits."""
        with self._lock:
            row = self._db.execute(
                """UPDATE jobs SET status = 'running', started = ?, attempts = attempts + 1
                   WHERE number = (SELECT min(number) FROM jobs WHERE status = 'queued') RETURNING id, request, upload""",
                (time.time(),),
            ).fetchall()
            if not row:
                return None
            job_id, request, upload = row[0]
            return job_id, GenerationRequest(**json.loads(request), image=upload)

    def add_image(self, job_id: str, index: int, seed: int, png: bytes) -> None:
        """Keep a finished picture: written whole, then named, then entered."""
        name = f"{secrets.token_hex(16)}.png"
        partial = self._images / f"{name}.partial"
        with partial.open("wb") as file:
            file.write(png)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self._images / name)
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)", (job_id, index, seed, name))

    def image_path(self, image: JobImage) -> Path:
        """Where a picture's file is."""
        return self._images / image.file

    def end(self, job_id: str, status: Status, failure: JobFailure | None = None) -> None:
        """Close an open job; one that is closed already stays as it is."""
        values = (status, time.time(), failure and failure.code, failure and failure.message, job_id)
        with self._lock:
            self._db.execute(
                """UPDATE jobs SET status = ?, finished = ?, error_code = ?, error_message = ?, upload = NULL
                   WHERE id = ? AND status IN ('queued', 'running')""",
                values,
            )

    def interrupted(self, reason: str) -> list[str]:
        """Queue jobs again that were running when their worker went, or fail those tried before; the failed ids."""
        failed = []
        with self._lock:
            for job_id, attempts in self._db.execute(
                "SELECT id, attempts FROM jobs WHERE status = 'running'"
            ).fetchall():
                if attempts < MOST_ATTEMPTS:
                    self._db.execute("UPDATE jobs SET status = 'queued', started = NULL WHERE id = ?", (job_id,))
                else:
                    self.end(job_id, "failed", JobFailure("worker_died", f"{reason}, {attempts} times during this job"))
                    failed.append(job_id)
        return failed

    def requeue(self, job_id: str) -> None:
        """Put a running job back as if it had not been tried: the server is stopping, the job is not to blame."""
        with self._lock:
            self._db.execute(
                "UPDATE jobs SET status = 'queued', started = NULL, attempts = attempts - 1 WHERE id = ? AND status = 'running'",
                (job_id,),
            )
