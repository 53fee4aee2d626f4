"""Stores jobs in SQLite, each on disk before its client is answered."""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from server.events import Status
from server.jobs.estimates import Shape, StepTime, shape_cost
from server.jobs.fair_queue import QueuedJob, QueueKey
from server.jobs.job import PRIORITIES, Job, JobFailure, JobImage, Submission
from server.jobs.store.files import StoredFiles
from server.jobs.store.schema import connect, durably, migrate
from server.pipeline.cost import Cost
from server.pipeline.request import GenerationRequest

#: A job whose worker dies in it is tried again once; whether it is to blame shows in the second death.
MOST_DEATHS_IN_JOB = 2
#: A killed server is seldom the job's doing, but a job that takes the whole machine down must not run for ever either.
MOST_ATTEMPTS = 5

_COLUMNS = (
    "id", "number", "status", "model", "priority", "request", "created", "started", "finished", "attempts", "steps_done",
    "step_seconds", "error_code", "error_message",
)  # fmt: skip


class JobStore:
    """Jobs with their images and attachments in a data folder. Safe to call from several threads.

    Reading has a connection of its own: it does not wait for a write that is on its way to the disk.
    """

    def __init__(self, data_dir: Path) -> None:
        self.images = StoredFiles(data_dir / "images", ".png")
        self.attachments = StoredFiles(data_dir / "attachments", ".bin")
        self._writing, self._reading = threading.RLock(), threading.Lock()
        self._db = connect(data_dir / "jobs.sqlite3")
        try:
            migrate(self._db, self.attachments)
        except Exception:
            self._db.close()
            raise
        self._read = connect(data_dir / "jobs.sqlite3")
        self.images.sweep({file for (file,) in self._db.execute("SELECT file FROM images")})
        self.attachments.sweep({file for (file,) in self._db.execute("SELECT file FROM attachments")})

    def close(self) -> None:
        """Close the database."""
        with self._writing, self._reading:
            self._read.close()
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._reading:
            return self._read.execute(query, values).fetchall()

    # --- insert ------------------------------------------------------------------------------------------------

    def add(self, submission: Submission, start_tag: float = 0.0) -> QueuedJob:
        """Store a new job as queued; it is on disk when this returns."""
        request = submission.request
        row = {
            "id": secrets.token_urlsafe(12),
            "request": request.model_dump_json(),
            "created": time.time(),
            "model": request.model,
            "priority": PRIORITIES.index(submission.priority),
            "turn": start_tag,
            "client": submission.client,
            "key": submission.key,
            "fingerprint": submission.fingerprint,
            **asdict(submission.cost),
        }
        with (
            self._writing,
            self._written(submission.attachments) as files,
            durably(self._db),
            self._transaction() as db,
        ):
            # Numbers of expired jobs are not given again: a page of jobs begins after one.
            ((number,),) = db.execute(
                f"""INSERT INTO jobs (status, number, {", ".join(row)})
                    VALUES ('queued', 1 + max((SELECT coalesce(max(number), 0) FROM jobs),
                                              (SELECT coalesce(max(number), 0) FROM tombstones)),
                            {", ".join(f":{name}" for name in row)}) RETURNING number""",
                row,
            ).fetchall()
            attached = [(row["id"], name, file) for name, file in files.items()]
            db.executemany("INSERT INTO attachments VALUES (?, ?, ?)", attached)
        cost = shape_cost(request, submission.cost)
        return QueuedJob(str(row["id"]), QueueKey(start_tag, number), submission.priority, submission.client, cost)

    @contextmanager
    def _written(self, attachments: Mapping[str, bytes]) -> Iterator[dict[str, str]]:
        """Write attachments to files, on disk before their rows are; an error inside deletes them again."""
        files: dict[str, str] = {}
        try:
            for name, data in attachments.items():
                files[name] = self.attachments.write(data)
            self.attachments.settle()
            yield files
        except BaseException:
            self.attachments.remove(files.values())
            raise

    def with_key(self, client: str, key: str) -> tuple[str, str | None] | None:
        """Return the job that a client submitted with this key, and its fingerprint; None if there is none."""
        found = self._rows("SELECT id, fingerprint FROM jobs WHERE client = ? AND key = ?", (client, key))
        return found[0] if found else None

    def newest_like(self, client: str, fingerprint: str, since: float) -> str | None:
        """Return the newest job of a client with this fingerprint, submitted after ``since`` (seconds since 1970)."""
        query = """SELECT id FROM jobs WHERE client = ? AND fingerprint = ? AND created > ?
                   ORDER BY number DESC LIMIT 1"""
        found = self._rows(query, (client, fingerprint, since))
        return str(found[0][0]) if found else None

    def queued(self) -> list[QueuedJob]:
        """Return every queued job."""
        query = """SELECT id, turn, number, priority, client, request, calls, rows, decodes
                   FROM jobs WHERE status = 'queued'"""
        found = []
        for job_id, start_tag, number, priority, client, text, *counts in self._rows(query):
            cost = shape_cost(GenerationRequest.model_validate_json(text), Cost(*counts))
            found.append(QueuedJob(job_id, QueueKey(start_tag, number), PRIORITIES[priority], client, cost))
        return found

    def name_model(self, model: str) -> None:
        """Bind open jobs of a version that had only one model to this one."""
        with self._writing:
            self._db.execute(
                """UPDATE jobs SET model = :model, request = json_set(request, '$.model', :model)
                   WHERE status IN ('queued', 'running') AND model = ''""",
                {"model": model},
            )

    # --- query ---------------------------------------------------------------------------------------

    def _jobs(self, rest: str, values: Sequence[Any]) -> list[Job]:
        rows = self._rows(f"SELECT {', '.join(_COLUMNS)} FROM jobs {rest}", values)
        marks = ", ".join("?" * len(rows))
        images: dict[str, list[JobImage]] = {row[0]: [] for row in rows}
        query = f"SELECT job, number, seed, file FROM images WHERE job IN ({marks}) ORDER BY number"
        for job_id, *image in self._rows(query, list(images)):
            images[job_id].append(JobImage(*image))
        return [_job(row, images[row[0]]) for row in rows]

    def get(self, job_id: str) -> Job | None:
        """Return the job; None if there is none of this id."""
        found = self._jobs("WHERE id = ?", (job_id,))
        return found[0] if found else None

    def page(
        self, limit: int, before: int | None = None, statuses: Sequence[Status] = (), model: str | None = None
    ) -> list[Job]:
        """Return the newest ``limit`` jobs of these statuses (of any if empty) and this model, with numbers under ``before``."""
        conditions = ["number < ?"]
        values: list[int | str] = [before if before is not None else 2**62]
        if model is not None:
            conditions.append("model = ?")
            values.append(model)
        if not statuses:
            return self._jobs(f"WHERE {' AND '.join(conditions)} ORDER BY number DESC LIMIT ?", [*values, limit])
        # Each status from its index, rather than all jobs looked through for the rare ones.
        found: list[Job] = []
        for status in set(statuses):
            rest = f"WHERE status = ? AND {' AND '.join(conditions)} ORDER BY number DESC LIMIT ?"
            found += self._jobs(rest, [status, *values, limit])
        return sorted(found, key=lambda job: -job.number)[:limit]

    def is_expired(self, job_id: str) -> bool:
        """Return whether there was such a job and it has expired."""
        return bool(self._rows("SELECT 1 FROM tombstones WHERE id = ?", (job_id,)))

    def image_path(self, image: JobImage) -> Path:
        """Return the path of an image."""
        return self.images.path(image.file)

    # --- run -------------------------------------------------------------------------------------------------

    def start(self, job_id: str) -> tuple[GenerationRequest, dict[str, bytes]]:
        """Mark a queued job as running, count the attempt, and return its request and attachments.

        An attachment whose file somebody deleted is left out. Raises KeyError if the job is not queued.
        """
        with self._writing:
            rows = self._db.execute(
                """UPDATE jobs SET status = 'running', started = ?, attempts = attempts + 1, steps_done = 0,
                     step_seconds = 0 WHERE id = ? AND status = 'queued' RETURNING request""",
                (time.time(), job_id),
            ).fetchall()
        if not rows:
            raise KeyError(job_id)
        attachments = {}
        for name, file in self._rows("SELECT name, file FROM attachments WHERE job = ?", (job_id,)):
            with suppress(FileNotFoundError):
                attachments[name] = self.attachments.path(file).read_bytes()
        return GenerationRequest.model_validate_json(rows[0][0]), attachments

    def add_image(self, job_id: str, index: int, seed: int, png: bytes) -> None:
        """Store a finished image, in place of an earlier attempt's: the file first, then its row."""
        name = self.images.write(png)
        with self._transaction() as db:
            former = db.execute("SELECT file FROM images WHERE job = ? AND number = ?", (job_id, index)).fetchall()
            db.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)", (job_id, index, seed, name))
        self.images.remove(file for (file,) in former)

    def cancelling(self, job_id: str) -> None:
        """Note that a running job is to be cancelled, so that it does not come back whatever happens now."""
        with self._writing, durably(self._db):
            self._db.execute("UPDATE jobs SET cancelling = 1 WHERE id = ? AND status = 'running'", (job_id,))

    def end(
        self,
        job_id: str,
        status: Status,
        failure: JobFailure | None = None,
        *,
        steps_done: int = 0,
        step_seconds: float = 0.0,
    ) -> None:
        """Close an open job and delete its attachments; a closed one stays as it is."""
        with self._writing:
            attached = self._db.execute("SELECT 1 FROM attachments WHERE job = ? LIMIT 1", (job_id,)).fetchall()
            with self._ending() if attached else self._transaction() as db:
                self._close(db, job_id, status, failure, steps_done, step_seconds)

    def _close(
        self,
        db: sqlite3.Connection,
        job_id: str,
        status: Status,
        failure: JobFailure | None = None,
        steps_done: int = 0,
        step_seconds: float = 0.0,
    ) -> None:
        code, message = (failure.code, failure.message) if failure else (None, None)
        db.execute(
            """UPDATE jobs SET status = ?, finished = ?, error_code = ?, error_message = ?, steps_done = ?,
                 step_seconds = ? WHERE id = ? AND status IN ('queued', 'running')""",
            (status, time.time(), code, message, steps_done, step_seconds, job_id),
        )

    @contextmanager
    def _ending(self) -> Iterator[sqlite3.Connection]:
        """Run a transaction that closes jobs; then delete the attachments of closed jobs.

        It is on disk before the files go: a power cut could bring a job back that then lacked its attachments.
        """
        with self._writing, durably(self._db), self._transaction() as db:
            yield db
            gone = db.execute(
                """DELETE FROM attachments WHERE job IN (SELECT job FROM attachments JOIN jobs ON jobs.id = job
                     WHERE status NOT IN ('queued', 'running')) RETURNING file"""
            ).fetchall()
        self.attachments.remove(file for (file,) in gone)

    def interrupted(
        self, reason: str, *, by_worker: bool, job_ids: Sequence[str] | None = None
    ) -> tuple[list[str], list[str]]:
        """Queue running jobs again after their worker (``by_worker``) or the server died: these, or all for None.

        Returns the ids of those that are queued again, and of those that have ended.

        A job that was being cancelled is cancelled; one in which the worker died twice, or that was started too often in
        all, has failed with the reason.
        """
        back, over = [], []
        with self._ending() as db:
            running = db.execute(
                "SELECT id, attempts, deaths, cancelling FROM jobs WHERE status = 'running'"
            ).fetchall()
            rows = running if job_ids is None else [row for row in running if row[0] in job_ids]
            for job_id, attempts, deaths, cancelling in rows:
                deaths += by_worker
                if cancelling:
                    self._close(db, job_id, "cancelled")
                elif deaths >= MOST_DEATHS_IN_JOB or attempts >= MOST_ATTEMPTS:
                    times = f"{deaths} times" if by_worker else f"the {attempts}th time"
                    self._close(db, job_id, "failed", JobFailure("worker_died", f"{reason}, {times} during this job"))
                else:
                    db.execute(
                        "UPDATE jobs SET status = 'queued', started = NULL, deaths = ? WHERE id = ?", (deaths, job_id)
                    )
                    back.append(job_id)
                    continue
                over.append(job_id)
        return back, over

    def requeue(self, job_id: str) -> None:
        """Put a running job back as if it had not been tried: the server is stopping, the job is not to blame.

        One that is being cancelled is cancelled.
        """
        with self._ending() as db:
            db.execute(
                """UPDATE jobs SET status = 'queued', started = NULL, attempts = attempts - 1
                   WHERE id = ? AND status = 'running' AND NOT cancelling""",
                (job_id,),
            )
            if db.execute("SELECT 1 FROM jobs WHERE id = ? AND status = 'running'", (job_id,)).fetchall():
                self._close(db, job_id, "cancelled")

    # --- step times and expiry ---------------------------------------------------------------------------

    def step_times(self) -> dict[Shape, StepTime]:
        """Return the step times, by shape."""
        rows = self._rows("SELECT model, width, height, batch, step, picture FROM paces")
        return {Shape(*row[:4]): StepTime(*row[4:]) for row in rows}

    def keep_step_time(self, shape: Shape, step_time: StepTime) -> None:
        """Store the step time of a shape."""
        row = (shape.model, shape.width, shape.height, shape.batch, step_time.step, step_time.image)
        with self._writing:
            self._db.execute("INSERT OR REPLACE INTO paces VALUES (?, ?, ?, ?, ?, ?)", row)

    def finished_before(self, moment: float | None, limit: int) -> list[str]:
        """Return the jobs that ended first, before ``moment`` (seconds since 1970; None for any)."""
        query = "SELECT id FROM jobs WHERE finished < ? ORDER BY finished LIMIT ?"
        return [str(job_id) for (job_id,) in self._rows(query, (2.0**62 if moment is None else moment, limit))]

    def expire(self, job_ids: Sequence[str]) -> None:
        """Delete ended jobs with their images; a tombstone of each is kept."""
        names: list[str] = []
        with self._transaction() as db:
            for job_id in job_ids:
                names += [file for (file,) in db.execute("DELETE FROM images WHERE job = ? RETURNING file", (job_id,))]
                db.execute("INSERT INTO tombstones SELECT id, number, ? FROM jobs WHERE id = ?", (time.time(), job_id))
                db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
        self.images.remove(names)

    def forget_expired(self, before: float) -> None:
        """Delete the tombstones of jobs that expired before this moment (seconds since 1970)."""
        with self._writing:
            self._db.execute("DELETE FROM tombstones WHERE expired < ?", (before,))


def _job(row: tuple[Any, ...], images: list[JobImage]) -> Job:
    fields = dict(zip(_COLUMNS, row, strict=True))
    code, message = fields.pop("error_code"), fields.pop("error_message")
    return Job(
        **{
            **fields,
            "priority": PRIORITIES[fields["priority"]],
            "request": GenerationRequest.model_validate_json(fields["request"]),
        },
        images=tuple(images),
        failure=JobFailure(code, message or "") if code else None,
    )
