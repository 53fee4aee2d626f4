"""Opens the job database: looks at it first, and sets a damaged one aside."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeAlias

from server.jobs.store.files import StoredFiles
from server.jobs.store.mending import mend
from server.jobs.store.schema import (
    StoreError,
    columns,
    connect,
    expected_columns,
    make_shrinkable,
    migrate,
    plain_connection,
    version_of,
)

log = logging.getLogger("anemone.store")

#: What SQLite writes beside a database; a database is only whole together with them.
BESIDE = ("", "-wal", "-shm", "-journal")
#: How long the check may take, so that a start stays fast: a database of 10,000 jobs (10 MB) takes 0.03 s.
_CHECK_SECONDS = 2.0
#: SQLite's codes for content that is not as it was written. Others tell of permissions, locks, and the disk.
_DAMAGE = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
#: Findings about single values, which are mended by themselves, and about indexes, which can be made anew from the rows.
_OF_A_ROW = re.compile(r"(NULL|TEXT|NUMERIC|INT|REAL|BLOB|non-\w+) value in \w+\.\w+")
_OF_AN_INDEX = re.compile(r"row \d+ missing from index|wrong # of entries in index|row \d+ values differ from index")

_State: TypeAlias = Literal["new", "whole", "wrong indexes"]


class _Damaged(Exception):
    """The file is no database of ours, or not a whole one; the message says why."""


def open_database(path: Path, attachments: StoredFiles, patience: float) -> tuple[sqlite3.Connection, bool]:
    """Return a connection to the database with its tables up to date, and whether it is new.

    A damaged database is kept under another name, and a new one takes its place. Raises StoreError for one that cannot be
    read or written, and for a newer release's.
    """
    try:
        state = _examine(path, attachments, patience)
        return _opened(path, attachments, state, patience), state == "new"
    except _Damaged as damage:
        aside = set_aside(path, "damaged")
        log.warning(
            "%s is damaged (%s): it is kept as %s, and a new one begins without its jobs; their images are kept. To use a "
            "mended copy or a backup, stop the server and put it in place",
            path,
            damage,
            aside.name,
        )
        return _opened(path, attachments, "new", patience), True


def require_whole(path: Path, attachments: StoredFiles, patience: float) -> None:
    """Raise an error as SQLite's own for a damaged database unless the file, as it is now, can be used."""
    try:
        _examine(path, attachments, patience)
    except _Damaged as damage:
        error = sqlite3.DatabaseError(f"{path} was overwritten while the server ran: {damage}")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error from damage
    except StoreError as error:
        raise (error.__cause__ or error) from None  # the disk's or SQLite's own, which may pass


def set_aside(path: Path, word: str) -> Path:
    """Rename a database and the files that belong to it, to a name with this word and the date; return its new path."""
    aside = path.with_name(f"{path.name}.{word}-{time.strftime('%Y-%m-%d-%H%M%S')}")
    while any(os.path.lexists(f"{aside}{end}") for end in BESIDE):
        aside = path.with_name(f"{aside.name}+")
    for end in BESIDE:
        with suppress(FileNotFoundError):
            os.rename(f"{path}{end}", f"{aside}{end}")
    return aside


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raise SQLite's errors as _Damaged or StoreError."""
    try:
        yield
    except UnicodeDecodeError as error:  # of SQLite's own message, which quotes what it found
        raise _Damaged("its tables cannot be read") from error
    except OSError as error:
        raise StoreError(
            f"{path} cannot be used: {error.strerror}; this user must be able to read and write it"
        ) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code & 0xFF in _DAMAGE or code == sqlite3.SQLITE_IOERR_SHORT_READ:
            raise _Damaged(str(error)) from error
        raise StoreError(
            f"{path} cannot be used: {error}. This user must be able to read and write it, its -wal and -shm, and their "
            "folder, the disk must have room, and no other program may have locked it"
        ) from error


def _opened(path: Path, attachments: StoredFiles, state: _State, patience: float) -> sqlite3.Connection:
    with _explained(path):
        db = connect(path, patience)
        try:
            if state == "wrong indexes":
                db.execute("REINDEX")
                log.warning("%s had damaged indexes, which were made anew", path.name)
            if state != "new":
                mend(db, path.name)
            migrate(db, attachments)
            _try_to_shrink(db, path)
        except sqlite3.IntegrityError as error:  # two rows with the same unique value
            db.close()
            raise _Damaged(str(error)) from error
        except BaseException:
            db.close()
            raise
        return db


def _try_to_shrink(db: sqlite3.Connection, path: Path) -> None:
    try:
        make_shrinkable(db)
    except sqlite3.OperationalError as error:
        # It needs as much room again as the jobs take; the next start tries again.
        log.warning("%s cannot be made smaller now: %s", path, error)


def _examine(path: Path, attachments: StoredFiles, patience: float) -> _State:
    """Return what state the database is in; raise _Damaged or StoreError for one that cannot be used."""
    if not os.path.lexists(path):
        log_left = Path(f"{path}-wal")
        if log_left.is_file() and log_left.stat().st_size:
            raise _Damaged("it is gone, and its -wal file is still there")
        return "new"
    with _explained(path):
        if path.exists() and not path.is_file():
            raise _Damaged("it is a folder" if path.is_dir() else "it is no file")
        if path.exists() and path.stat().st_size == 0:
            raise _Damaged("it is empty")
        # Read-only, so that a damaged one stays as it is; but a transaction that was interrupted must be rolled back first.
        mode = "rw" if os.path.lexists(f"{path}-journal") else "ro"
        with closing(plain_connection(f"{path.absolute().as_uri()}?mode={mode}", patience)) as db:
            version, found = version_of(db), columns(db)
            if version == 0 and not found:
                return "new"  # the server was killed before it had any table
            _require_ours(path, version, found, attachments)
            return _check(db, path)


def _require_ours(path: Path, version: int, found: set[tuple[str, str]], attachments: StoredFiles) -> None:
    if version <= 0 or not {("jobs", "id"), ("images", "job")} <= found:
        raise _Damaged("it is another program's database")
    expected = expected_columns(version, attachments)
    if expected is None:
        raise StoreError(
            f"{path} was written by a newer Anemone (schema {version}); install that version again, or give this one its "
            "own --data-dir"
        )
    missing = sorted(expected - found)
    if missing:
        raise _Damaged(f"its table {missing[0][0]} has no column {missing[0][1]}")


def _check(db: sqlite3.Connection, path: Path) -> _State:
    """Check the database for two seconds at most; raise _Damaged if it is more than rows and indexes that are broken."""
    timer = threading.Timer(_CHECK_SECONDS, db.interrupt)
    timer.start()
    try:
        findings = [finding for (finding,) in db.execute("PRAGMA integrity_check") if finding != "ok"]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        log.info("%s is large: its check stopped after %.0f s", path, _CHECK_SECONDS)
        return "whole"
    finally:
        timer.cancel()
        timer.join()  # it must not interrupt what follows
    others = [finding for finding in findings if not _OF_A_ROW.match(finding)]
    for finding in others:
        if not _OF_AN_INDEX.match(finding):
            raise _Damaged(finding.splitlines()[-1])
    return "wrong indexes" if others else "whole"
