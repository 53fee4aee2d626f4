"""Stores jobs in SQLite. A job is on disk before its client is answered."""

from __future__ import annotations

import logging
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from server.events import Status
from server.jobs.estimates import Shape, StepTime, shape_cost
from server.jobs.fair_queue import QueuedJob, QueueKey
from server.jobs.job import PRIORITIES, Job, JobFailure, JobImage, Submission
from server.jobs.store.calendar import Calendar
from server.jobs.store.database import Database
from server.jobs.store.files import UNKNOWN, StoredFiles
from server.pipeline.cost import Cost
from server.pipeline.request import JobRequest, read_request

log = logging.getLogger("anemone.store")

#: A job whose worker dies while running it is tried once more; a second death shows that the job is the cause.
MOST_DEATHS_IN_JOB = 2
#: A job seldom causes a server's death, but one that takes the whole machine down must not be tried for ever.
MOST_ATTEMPTS = 5
_COLUMNS = (
    "id", "number", "status", "model", "priority", "request", "created", "started", "finished", "attempts", "steps_done",
    "step_seconds", "error_code", "error_message",
)  # fmt: skip


class JobStore:
    """Jobs with their images and attachments in a data folder. Safe to call from several threads."""

    def __init__(self, data_dir: Path) -> None:
        self.images = StoredFiles(data_dir / "images", ".png")
        self.attachments = StoredFiles(data_dir / "attachments", ".bin")
        self._database = Database(data_dir / "jobs.sqlite3", self.attachments)
        self.calendar = Calendar(self._database)
        self._fail_unreadable()
        # What a lost database referred to stays in place, because that database may be put back.
        if not self._database.is_new:
            self._sweep()

    def _sweep(self) -> None:
        for name, files in (("images", self.images), ("attachments", self.attachments)):
            moved = files.sweep({file for (file,) in self._database.rows(f"SELECT file FROM {name}")})
            if moved:
                log.warning("files in %s to which no job refers, now in %s/%s: %d", name, name, UNKNOWN, moved)

    def _fail_unreadable(self) -> None:
        """Fail the open jobs whose requests cannot be read, so that the others run."""
        for job_id, text in self._database.rows("SELECT id, request FROM jobs WHERE status IN ('queued', 'running')"):
            if read_request(text) is None:
                self.end(job_id, "failed", JobFailure("damaged", "its stored request cannot be read; submit it again"))

    @property
    def stored_bytes(self) -> int:
        """The bytes of all images, attachments and rows."""
        return self.images.bytes + self.attachments.bytes + self._database.row_bytes

    def check(self) -> None:
        """Put the database back if somebody removed it; raise what a write would raise."""
        self._database.check()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    # --- insert ------------------------------------------------------------------------------------------------

    def add(self, submission: Submission, start_tag: float = 0.0) -> QueuedJob:
        """Store a new queued job; it is on disk when this returns."""
        request = submission.request
        row = {
            "id": secrets.token_urlsafe(12),
            "request": request.model_dump_json(),
            "created": self.calendar.now(),
            "model": request.model,
            "priority": PRIORITIES.index(submission.priority),
            "turn": start_tag,
            "client": submission.client,
            "key": submission.key,
            "fingerprint": submission.fingerprint,
            **asdict(submission.cost),
        }
        with (
            self._database.lock,
            self._written(submission.attachments) as files,
            self._database.transaction(durable=True) as db,
        ):
            # Numbers of expired jobs are not used again: they mark where a page of jobs begins.
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
        """Write attachments to files, on disk before their rows are; delete them again if the block raises."""
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
        """Return the id and the fingerprint of the job that a client submitted with this key; None if there is none."""
        rows = self._database.rows("SELECT id, fingerprint FROM jobs WHERE client = ? AND key = ?", (client, key))
        return rows[0] if rows else None

    def newest_like(self, client: str, fingerprint: str, since: float) -> str | None:
        """Return the id of a client's newest job with this fingerprint that was submitted after ``since`` (seconds since 1970)."""
        query = """SELECT id FROM jobs WHERE client = ? AND fingerprint = ? AND created > ?
                   ORDER BY number DESC LIMIT 1"""
        rows = self._database.rows(query, (client, fingerprint, since))
        return str(rows[0][0]) if rows else None

    def queued(self) -> list[QueuedJob]:
        """Return all queued jobs."""
        query = """SELECT id, turn, number, priority, client, request, calls, rows, decodes
                   FROM jobs WHERE status = 'queued'"""
        jobs = []
        for job_id, start_tag, number, priority, client, text, *counts in self._database.rows(query):
            request = read_request(text)
            assert request is not None  # those that cannot be read failed at the start
            cost = shape_cost(request, Cost(*counts))
            jobs.append(QueuedJob(job_id, QueueKey(start_tag, number), PRIORITIES[priority], client, cost))
        return jobs

    def name_model(self, model: str) -> None:
        """Bind open jobs to this model that a version with only one model stored."""
        with self._database.transaction() as db:
            db.execute(
                """UPDATE jobs SET model = :model, request = json_set(request, '$.model', :model)
                   WHERE status IN ('queued', 'running') AND model = ''""",
                {"model": model},
            )

    # --- query ---------------------------------------------------------------------------------------

    def _jobs(self, rest: str, values: Sequence[Any]) -> list[Job]:
        rows = self._database.rows(f"SELECT {', '.join(_COLUMNS)} FROM jobs {rest}", values)
        marks = ", ".join("?" * len(rows))
        images: dict[str, list[JobImage]] = {row[0]: [] for row in rows}
        query = f"SELECT job, number, seed, file, flagged FROM images WHERE job IN ({marks}) ORDER BY number"
        for job_id, index, seed, file, flagged in self._database.rows(query, list(images)):
            images[job_id].append(JobImage(index, seed, file, bool(flagged)))
        notes: dict[str, list[str]] = {row[0]: [] for row in rows}
        query = f"SELECT job, text FROM notes WHERE job IN ({marks}) ORDER BY number"
        for job_id, text in self._database.rows(query, list(notes)):
            notes[job_id].append(text)
        return [_job(row, images[row[0]], notes[row[0]]) for row in rows]

    def get(self, job_id: str) -> Job | None:
        """Return the job; None if no job has this id."""
        jobs = self._jobs("WHERE id = ?", (job_id,))
        return jobs[0] if jobs else None

    def page(
        self, limit: int, before: int | None = None, statuses: Sequence[Status] = (), model: str | None = None
    ) -> list[Job]:
        """Return the newest ``limit`` jobs with these statuses (all if empty), this model, and numbers below ``before``."""
        conditions = ["number < ?"]
        values: list[int | str] = [before if before is not None else 2**62]
        if model is not None:
            conditions.append("model = ?")
            values.append(model)
        if not statuses:
            return self._jobs(f"WHERE {' AND '.join(conditions)} ORDER BY number DESC LIMIT ?", [*values, limit])
        # One query for each status, which uses the index; a scan would read all jobs to find those of a rare status.
        jobs: list[Job] = []
        for status in set(statuses):
            rest = f"WHERE status = ? AND {' AND '.join(conditions)} ORDER BY number DESC LIMIT ?"
            jobs += self._jobs(rest, [status, *values, limit])
        return sorted(jobs, key=lambda job: -job.number)[:limit]

    def is_expired(self, job_id: str) -> bool:
        """Return whether there was a job with this id that has expired."""
        return bool(self._database.rows("SELECT 1 FROM tombstones WHERE id = ?", (job_id,)))

    def image_path(self, image: JobImage) -> Path:
        """Return the path of an image."""
        return self.images.path(image.file)

    # --- run -------------------------------------------------------------------------------------------------

    def start(self, job_id: str) -> tuple[JobRequest, dict[str, bytes]]:
        """Mark a queued job as running, count the attempt, and return its request and attachments.

        An attachment whose file is gone, or is no file any more, is left out. Raises KeyError if the job is not queued.
        Whatever it raises, the job is still queued, and the attempt is not counted.
        """
        attachments = {}
        for name, file in self._database.rows("SELECT name, file FROM attachments WHERE job = ?", (job_id,)):
            path = self.attachments.path(file)
            if path.is_file():
                attachments[name] = path.read_bytes()
        with self._database.transaction() as db:
            db.execute("DELETE FROM notes WHERE job = ?", (job_id,))  # of an earlier attempt
            rows = db.execute(
                """UPDATE jobs SET status = 'running', started = ?, attempts = attempts + 1, steps_done = 0,
                     step_seconds = 0 WHERE id = ? AND status = 'queued' RETURNING request""",
                (self.calendar.now(), job_id),
            ).fetchall()
        if not rows:
            raise KeyError(job_id)
        request = read_request(rows[0][0])
        assert request is not None  # those that cannot be read failed at the start
        return request, attachments

    def add_image(self, job_id: str, index: int, seed: int | None, png: bytes, *, flagged: bool = False) -> None:
        """Store a finished image, in place of an earlier attempt's; its row is written after its file is complete."""
        name = self.images.write(png)
        try:
            with self._database.transaction() as db:
                former = db.execute("SELECT file FROM images WHERE job = ? AND number = ?", (job_id, index)).fetchall()
                db.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?)", (job_id, index, seed, name, flagged))
        except BaseException:
            self.images.remove([name])  # no job refers to it
            raise
        self.images.remove(file for (file,) in former)

    def add_note(self, job_id: str, text: str) -> None:
        """Store a note on a job after its earlier ones."""
        with self._database.transaction() as db:
            db.execute("INSERT INTO notes SELECT ?1, count(*), ?2 FROM notes WHERE job = ?1", (job_id, text))

    def cancelling(self, job_id: str) -> None:
        """Note that a running job is to be cancelled, so that it is not run again even if a process dies now."""
        with self._database.transaction(durable=True) as db:
            db.execute("UPDATE jobs SET cancelling = 1 WHERE id = ? AND status = 'running'", (job_id,))

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
        with self._database.lock:
            attached = self._database.rows("SELECT 1 FROM attachments WHERE job = ? LIMIT 1", (job_id,))
            with self._ending() if attached else self._database.transaction() as db:
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
            (status, self.calendar.now(), code, message, steps_done, step_seconds, job_id),
        )

    @contextmanager
    def _ending(self) -> Iterator[sqlite3.Connection]:
        """Run a transaction that closes jobs, then delete the attachments of closed jobs.

        The transaction is on disk before the files are deleted: otherwise a power cut could reopen a job that then lacks
        its attachments.
        """
        with self._database.transaction(durable=True) as db:
            yield db
            rows = db.execute(
                """DELETE FROM attachments WHERE job IN (SELECT job FROM attachments JOIN jobs ON jobs.id = job
                     WHERE status NOT IN ('queued', 'running')) RETURNING file"""
            ).fetchall()
        self.attachments.remove(file for (file,) in rows)

    def interrupted(
        self, reason: str, *, by_worker: bool, job_ids: Sequence[str] | None = None
    ) -> tuple[list[str], list[str]]:
        """Queue running jobs (all if ``job_ids`` is None) again after their worker (``by_worker``) or the server died.

        Returns the ids of those that are queued again, and of those that have ended.

        A job that was being cancelled is cancelled. A job during which the worker died too often, or that was started too
        often in all, fails with the reason.
        """
        queued, ended = [], []
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
                    queued.append(job_id)
                    continue
                ended.append(job_id)
        return queued, ended

    def requeue(self, job_id: str) -> None:
        """Queue a running job again without counting the attempt: the server is stopping, the job is not the cause.

        A job that is being cancelled is cancelled.
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
        """Return the stored step times by shape."""
        rows = self._database.rows("SELECT model, width, height, batch, step, picture FROM paces")
        return {Shape(*row[:4]): StepTime(*row[4:]) for row in rows}

    def keep_step_time(self, shape: Shape, step_time: StepTime) -> None:
        """Store the step time of a shape."""
        row = (shape.model, shape.width, shape.height, shape.batch, step_time.step, step_time.image)
        with self._database.transaction() as db:
            db.execute("INSERT OR REPLACE INTO paces VALUES (?, ?, ?, ?, ?, ?)", row)

    def finished_before(self, moment: float | None, limit: int) -> list[str]:
        """Return the ids of the ``limit`` jobs that ended first, before ``moment`` (seconds since 1970; None: at any time)."""
        query = "SELECT id FROM jobs WHERE finished < ? ORDER BY finished LIMIT ?"
        return [str(job_id) for (job_id,) in self._database.rows(query, (2.0**62 if moment is None else moment, limit))]

    def expire(self, job_ids: Sequence[str]) -> int:
        """Delete ended jobs and their images, and return how many jobs; their ids are kept as tombstones."""
        names: list[str] = []
        deleted = 0
        with self._database.transaction() as db:
            for job_id in job_ids:
                names += [file for (file,) in db.execute("DELETE FROM images WHERE job = ? RETURNING file", (job_id,))]
                db.execute("DELETE FROM notes WHERE job = ?", (job_id,))
                db.execute(
                    "INSERT OR REPLACE INTO tombstones SELECT id, number, ? FROM jobs WHERE id = ?",
                    (self.calendar.now(), job_id),
                )
                deleted += db.execute("DELETE FROM jobs WHERE id = ?", (job_id,)).rowcount
        self.images.remove(names)
        return deleted

    def shrink(self) -> None:
        """Give the room of deleted jobs in the database back to the file system."""
        self._database.shrink()

    def forget_expired(self, before: float, most: int) -> None:
        """Delete the tombstones of jobs that expired before this moment (seconds since 1970), and all but the newest ``most``."""
        with self._database.transaction() as db:
            db.execute(
                """DELETE FROM tombstones WHERE expired < ?
                   OR number <= (SELECT number FROM tombstones ORDER BY number DESC LIMIT 1 OFFSET ?)""",
                (before, most),
            )


def _job(row: tuple[Any, ...], images: list[JobImage], notes: list[str]) -> Job:
    fields = dict(zip(_COLUMNS, row, strict=True))
    code, message = fields.pop("error_code"), fields.pop("error_message")
    return Job(
        **{
            **fields,
            "priority": PRIORITIES[fields["priority"]],
            "request": read_request(fields["request"]),
        },
        images=tuple(images),
        notes=tuple(notes),
        failure=JobFailure(code, message or "") if code else None,
    )
