"""The database's tables, as numbered migrations. A released migration is never edited; a change is a new migration."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from converter.errors import AnemoneError
from server.jobs.store.files import StoredFiles

_Step: TypeAlias = Callable[[sqlite3.Connection, StoredFiles], None]
_MIGRATIONS: list[_Step] = []
#: SQLite's number of this kind of auto_vacuum.
_INCREMENTAL = 2
#: What every request before the fourth migration has, all in one level.
_FLAT = {"prompt", "width", "height", "steps", "guidance_scale", "seed", "scheduler"}


class StoreError(AnemoneError):
    """The job database cannot be used."""


def _migration(step: _Step) -> _Step:
    _MIGRATIONS.append(step)
    return step


@_migration
def _m001_jobs(db: sqlite3.Connection, _: StoredFiles) -> None:
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


@_migration
def _m002_scheduling_and_expiry(db: sqlite3.Connection, _: StoredFiles) -> None:
    for column in (
        "model TEXT NOT NULL DEFAULT ''",
        "priority INTEGER NOT NULL DEFAULT 1",
        "turn REAL NOT NULL DEFAULT 0",
        "client TEXT NOT NULL DEFAULT ''",
        "key TEXT",
        "fingerprint TEXT",
        "cancelling INTEGER NOT NULL DEFAULT 0",
        "deaths INTEGER NOT NULL DEFAULT 0",
        "steps_done INTEGER NOT NULL DEFAULT 0",
        "step_seconds REAL NOT NULL DEFAULT 0",
    ):
        db.execute(f"ALTER TABLE jobs ADD COLUMN {column}")
    db.execute("CREATE INDEX jobs_by_model ON jobs (model, number)")
    db.execute("CREATE INDEX jobs_by_finish ON jobs (finished) WHERE finished IS NOT NULL")
    db.execute("CREATE UNIQUE INDEX jobs_by_key ON jobs (client, key) WHERE key IS NOT NULL")
    db.execute("CREATE INDEX jobs_by_fingerprint ON jobs (client, fingerprint, number) WHERE fingerprint IS NOT NULL")
    # Of an expired job only the id is kept, so that clients get 410; its request is deleted.
    db.execute("CREATE TABLE tombstones (id TEXT PRIMARY KEY, number INTEGER NOT NULL, expired REAL NOT NULL)")
    db.execute("CREATE INDEX tombstones_by_number ON tombstones (number)")
    db.execute("CREATE INDEX tombstones_by_expiry ON tombstones (expired)")
    db.execute(
        """CREATE TABLE paces (
             model TEXT NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL, batch INTEGER NOT NULL,
             step REAL NOT NULL, picture REAL NOT NULL, PRIMARY KEY (model, width, height, batch))"""
    )


def _requests(db: sqlite3.Connection) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the id, model and request of every job whose request is a flat one; a damaged one stays as it is."""
    for job_id, model, text in db.execute("SELECT id, model, request FROM jobs").fetchall():
        try:
            request = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(request, dict) and _FLAT.issubset(request):
            yield job_id, model, request


@_migration
def _m003_costs(db: sqlite3.Connection, _: StoredFiles) -> None:
    for column in ("calls", "rows", "decodes"):
        db.execute(f"ALTER TABLE jobs ADD COLUMN {column} INTEGER NOT NULL DEFAULT 1")
    for job_id, _model, request in _requests(db):
        steps, images = request["steps"], request.get("n", 1)
        calls = steps if request.get("strength") is None else max(1, int(steps * request["strength"]))
        if request["scheduler"] == "heun":
            calls = 2 * calls - 1
        elif request["scheduler"] == "pndm" and steps > 1:
            calls += 1
        db.execute(
            "UPDATE jobs SET calls = ?, rows = ?, decodes = ? WHERE id = ?",
            (calls * images, 2 if request["guidance_scale"] > 1 else 1, images, job_id),
        )


@_migration
def _m004_nested_requests(db: sqlite3.Connection, _: StoredFiles) -> None:
    for job_id, model, flat in _requests(db):
        size = {"width": flat["width"], "height": flat["height"]}
        seeds = ("seed", "n", "seeds", "variation_seed", "variation_strength", "rng")
        nested = {
            "model": flat.get("model", model),
            "prompts": {"prompt": flat["prompt"], "negative_prompt": flat.get("negative_prompt", "")},
            "size": size,
            "computed": size,
            "sampling": {name: flat[name] for name in ("steps", "guidance_scale", "scheduler")},
            "seeds": {name: flat[name] for name in seeds if name in flat},
        }
        if flat.get("strength") is not None:
            nested["source"] = {"image": "image", "strength": flat["strength"]}
        db.execute("UPDATE jobs SET request = ? WHERE id = ?", (json.dumps(nested), job_id))


@_migration
def _m005_attachments(db: sqlite3.Connection, files: StoredFiles) -> None:
    db.execute(
        """CREATE TABLE attachments (
             job TEXT NOT NULL REFERENCES jobs (id), name TEXT NOT NULL, file TEXT NOT NULL, PRIMARY KEY (job, name))"""
    )
    for (job_id,) in db.execute("SELECT id FROM jobs WHERE upload IS NOT NULL").fetchall():
        ((upload,),) = db.execute("SELECT upload FROM jobs WHERE id = ?", (job_id,)).fetchall()
        db.execute("INSERT INTO attachments VALUES (?, 'image', ?)", (job_id, files.write(upload)))
    # On disk before the only other copy is deleted; a kill from here on leaves files that the next start moves aside.
    files.settle()
    db.execute("ALTER TABLE jobs DROP COLUMN upload")


@_migration
def _m006_calendar(db: sqlite3.Connection, _: StoredFiles) -> None:
    db.execute("CREATE TABLE calendar (date REAL NOT NULL)")


@_migration
def _m007_notes(db: sqlite3.Connection, _: StoredFiles) -> None:
    db.execute(
        """CREATE TABLE notes (
             job TEXT NOT NULL REFERENCES jobs (id), number INTEGER NOT NULL, text TEXT NOT NULL, PRIMARY KEY (job, number))"""
    )


@_migration
def _m008_flagged_images(db: sqlite3.Connection, _: StoredFiles) -> None:
    db.execute("ALTER TABLE images ADD COLUMN flagged INTEGER NOT NULL DEFAULT 0")


@_migration
def _m009_images_without_seeds(db: sqlite3.Connection, _: StoredFiles) -> None:
    db.execute("ALTER TABLE images RENAME TO seeded")
    db.execute(
        """CREATE TABLE images (
             job TEXT NOT NULL REFERENCES jobs (id), number INTEGER NOT NULL, seed INTEGER, file TEXT NOT NULL,
             flagged INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (job, number))"""
    )
    db.execute("INSERT INTO images SELECT job, number, seed, file, flagged FROM seeded")
    db.execute("DROP TABLE seeded")


@_migration
def _m010_plain_prompts(db: sqlite3.Connection, _: StoredFiles) -> None:
    # Until then every character of a prompt was text.
    db.execute(
        """UPDATE jobs SET request = json_set(request, '$.prompts.prompt_syntax', 'plain')
           WHERE CASE WHEN json_valid(request) THEN json_type(request, '$.prompts') = 'object' ELSE 0 END"""
    )


@_migration
def _m011_sigmas(db: sqlite3.Connection, _: StoredFiles) -> None:
    for job_id, text in db.execute("SELECT id, request FROM jobs WHERE request LIKE '%dpm++_2m_karras%'").fetchall():
        try:
            request = json.loads(text)
        except (ValueError, RecursionError):
            continue
        sampling = request.get("sampling") if isinstance(request, dict) else None
        if isinstance(sampling, dict) and sampling.get("scheduler") == "dpm++_2m_karras":
            sampling |= {"scheduler": "dpm++_2m", "sigmas": "karras"}
            db.execute("UPDATE jobs SET request = ? WHERE id = ?", (json.dumps(request), job_id))


def plain_connection(uri: str, patience: float) -> sqlite3.Connection:
    """Return a connection to the database of this URI in autocommit mode, without any settings of its file.

    ``patience``: seconds that it waits while another program has the database locked.
    """
    db = sqlite3.connect(uri, patience, uri=True, check_same_thread=False, isolation_level=None)
    # A damaged byte in a text must not keep a whole page of jobs from being read.
    db.text_factory = lambda text: text.decode("utf-8", "replace")
    return db


def connect(path: Path, patience: float) -> sqlite3.Connection:
    """Return a connection in autocommit mode, which several threads may use, one at a time; see `plain_connection`."""
    db = plain_connection(path.absolute().as_uri(), patience)
    # Before the first page is written: only then can the file shrink later.
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA journal_mode = WAL")
    # SQLite begins the -wal file anew at 4 MB, but leaves it as long as its longest transaction was.
    db.execute(f"PRAGMA journal_size_limit = {4 << 20}")
    # Commits survive a killed process. A power cut can lose commits made since the last `durably` block; the worst case is
    # that one finished job runs again. Waiting for the disk at every step of a job would cost more than all the rest.
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA foreign_keys = ON")
    return db


@contextmanager
def durably(db: sqlite3.Connection) -> Iterator[None]:
    """Put the commits of the block on the disk before it ends, so that they survive a power cut once a client is answered."""
    db.execute("PRAGMA synchronous = FULL")
    try:
        yield
    finally:
        db.execute("PRAGMA synchronous = NORMAL")


def version_of(db: sqlite3.Connection) -> int:
    """Return the number of the last migration that was run."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def typed_columns(db: sqlite3.Connection, table: str) -> list[tuple[str, str, bool]]:
    """Return the name and type of each column of a table, and whether it may be NULL."""
    rows = db.execute('SELECT name, type, NOT ("notnull" OR pk) FROM pragma_table_info(?)', (table,))
    return [(name, kind, bool(is_nullable)) for name, kind, is_nullable in rows]


def columns(db: sqlite3.Connection) -> set[tuple[str, str]]:
    """Return the table and name of every column."""
    tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return {(table, name) for (table,) in tables for name, _, _ in typed_columns(db, table)}


def expected_columns(version: int, attachments: StoredFiles) -> set[tuple[str, str]] | None:
    """Return the columns of a database after this many migrations; None if a newer release has made more."""
    if version > len(_MIGRATIONS):
        return None
    with closing(sqlite3.connect(":memory:")) as db:
        for step in _MIGRATIONS[:version]:
            step(db, attachments)
        return columns(db)


def migrate(db: sqlite3.Connection, attachments: StoredFiles) -> None:
    """Bring the tables up to date, and move uploads into ``attachments``. A migration that raises has changed nothing."""
    done = version_of(db)
    for number, step in enumerate(_MIGRATIONS[done:], done + 1):
        with durably(db), attachments.removed_if_raised():
            db.execute("BEGIN IMMEDIATE")
            try:
                step(db, attachments)
                db.execute(f"PRAGMA user_version = {number}")
                db.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back after some errors of its own, but not after a file's, which tells of a full disk too.
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise


def make_shrinkable(db: sqlite3.Connection) -> None:
    """Write a database of an earlier version anew without its free pages, so that from now on it shrinks with its content.

    Uploads were in the database once: their pages are still there after they were moved.
    """
    if db.execute("PRAGMA auto_vacuum").fetchone()[0] != _INCREMENTAL:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("VACUUM")


def shrink(db: sqlite3.Connection) -> None:
    """Give free pages back to the file system."""
    # Not by `execute`, which takes one step of it: that frees a single page.
    db.executescript("PRAGMA incremental_vacuum")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
