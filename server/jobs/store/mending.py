"""Mends single damaged rows of the job database, so that the others can be used."""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from dataclasses import dataclass
from typing import get_args

from server.events import OPEN, Status
from server.jobs.job import PRIORITIES
from server.jobs.store.schema import typed_columns

log = logging.getLogger("anemone.store")

#: SQLite's types of a column's values, the range of its numbers, and what takes the place of a wrong value. Larger numbers
#: are not exact in JSON.
_VALUES = {
    "TEXT": ("'text'", "", ""),
    "INTEGER": ("'integer'", "BETWEEN 0 AND 9007199254740992", 0),
    "REAL": ("'real', 'integer'", "BETWEEN 0 AND 1e15", 0.0),
    "BLOB": ("'blob'", "", b""),
}
_FILE_NAME = "file NOT LIKE '%/%' AND length(file) < 256 AND instr(file, char(0)) = 0"
_FURTHER = {
    ("jobs", "id"): "id NOT GLOB '*[^0-9A-Za-z_-]*'",
    ("jobs", "status"): f"status IN {get_args(Status)}",
    ("jobs", "priority"): f"priority < {len(PRIORITIES)}",
    ("jobs", "number"): "number > 0",
    # A name that leaves the folder would be another file; one that is too long or has a NUL cannot be looked for.
    ("images", "file"): _FILE_NAME,
    ("attachments", "file"): _FILE_NAME,
}


@dataclass(frozen=True)
class _Column:
    """A column, the SQL condition of an acceptable value, and what takes the place of another."""

    name: str
    accepted: str
    instead: object


def _columns(db: sqlite3.Connection, table: str) -> list[_Column]:
    found = []
    for name, kind, is_nullable in typed_columns(db, table):
        if kind not in _VALUES:
            continue  # a newer release's, or somebody's own
        types, numbers, instead = _VALUES[kind]
        conditions = [
            f"typeof({name}) IN ({types})",
            f"{name} {numbers}" if numbers else "",
            _FURTHER.get((table, name), ""),
        ]
        accepted = " AND ".join(filter(None, conditions))
        found.append(
            _Column(
                name, f"({name} IS NULL OR {accepted})" if is_nullable else accepted, None if is_nullable else instead
            )
        )
    return found


def mend(db: sqlite3.Connection, name: str) -> None:
    """Give damaged rows of jobs acceptable values, and delete those of the other tables; log how many there were.

    A job that was open fails, because it is not what its client submitted; one that had ended stays as it is.
    """
    db.execute("PRAGMA foreign_keys = OFF")
    db.execute("BEGIN IMMEDIATE")
    mended = {"jobs": _mend_jobs(db)}
    tables = [table for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in sorted({"images", "attachments", "notes", "tombstones", "paces", "calendar"}.intersection(tables)):
        wrong = " OR ".join(f"({column.accepted}) IS NOT TRUE" for column in _columns(db, table))
        if table in ("images", "attachments", "notes"):
            wrong += f" OR NOT EXISTS (SELECT 1 FROM jobs WHERE id = {table}.job)"
        mended[table] = db.execute(f"DELETE FROM {table} WHERE {wrong}").rowcount
    db.execute("COMMIT")
    db.execute("PRAGMA foreign_keys = ON")
    if any(mended.values()):
        found = ", ".join(f"{count} in {table}" for table, count in mended.items() if count)
        log.warning("%s has damaged rows, which are set aside: %s", name, found)


def _mend_jobs(db: sqlite3.Connection) -> int:
    columns = _columns(db, "jobs")
    checks = ", ".join(f"({column.accepted}) IS TRUE" for column in columns)
    wrong = " OR ".join(f"({column.accepted}) IS NOT TRUE" for column in columns)
    rows = db.execute(f"SELECT rowid, {checks} FROM jobs WHERE {wrong}").fetchall()
    for rowid, *accepted in rows:
        damaged = [column for column, is_accepted in zip(columns, accepted, strict=True) if not is_accepted]
        values = {column.name: column.instead for column in damaged}
        if "id" in values:
            values["id"] = f"damaged-{secrets.token_urlsafe(12)}"
        if "number" in values:
            query = (
                "SELECT 1 + coalesce(max(number), 0) FROM jobs WHERE typeof(number) = 'integer' AND number < 1 << 53"
            )
            ((values["number"],),) = db.execute(query).fetchall()
        ((status,),) = db.execute("SELECT status FROM jobs WHERE rowid = ?", (rowid,)).fetchall()
        if "status" in values or status in OPEN:
            names = ", ".join(column.name for column in damaged)
            values |= {
                "status": "failed",
                "finished": time.time(),
                "error_code": "damaged",
                "error_message": f"its stored {names} cannot be read; submit it again",
            }
        assignments = ", ".join(f"{column} = ?" for column in values)
        db.execute(f"UPDATE jobs SET {assignments} WHERE rowid = ?", (*values.values(), rowid))
    return len(rows)
