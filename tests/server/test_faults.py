from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from server.faults import Fault, fault_of, naming
from tests.support.outages import locked, no_more_files


def fault(error: BaseException) -> Fault:
    found = fault_of(error)
    assert found is not None
    return found


def raised_by(path: Path, *statements: str) -> sqlite3.Error:
    """Return the error that SQLite raises for one of the statements."""
    db = sqlite3.connect(path, timeout=0.01)
    try:
        for statement in statements:
            db.execute(statement)
    except sqlite3.Error as error:
        return error
    finally:
        db.close()
    raise AssertionError("no statement failed")


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [
        (errno.ENOSPC, 507, "disk_full"),
        (errno.EDQUOT, 507, "disk_full"),
        (errno.EROFS, 503, "read_only"),
        (errno.EACCES, 503, "no_permission"),
        (errno.ENOENT, 503, "missing"),
        (errno.EEXIST, 503, "in_the_way"),
        (errno.EISDIR, 503, "in_the_way"),
        (errno.ELOOP, 503, "in_the_way"),
        (errno.EMFILE, 503, "too_many_files"),
        (errno.ENFILE, 503, "too_many_files"),
        (errno.EIO, 503, "disk_error"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_cause(number: int, status: int, code: str) -> None:
    found = fault(OSError(number, os.strerror(number), "/home/ada/anemone/images/a.png"))
    assert (found.status, found.code) == (status, code)
    assert "images/a.png" in found.message
    assert "ada" not in found.message


def test_a_full_database_is_a_full_disk(tmp_path: Path) -> None:
    statements = ("PRAGMA max_page_count = 2", "CREATE TABLE t (a)", "INSERT INTO t VALUES (zeroblob(100000))")
    found = fault(raised_by(tmp_path / "jobs.sqlite3", *statements))
    assert (found.status, found.code) == (507, "disk_full")
    assert "jobs.sqlite3" in found.message


def test_a_locked_database_is_told_from_a_broken_one(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    with locked(path):
        assert fault(raised_by(path, "CREATE TABLE t (a)")).code == "database_locked"
    path.write_bytes(b"not a database" * 100)
    assert fault(raised_by(path, "CREATE TABLE t (a)")).code == "database_damaged"


def test_a_database_that_forbids_writing_is_read_only(tmp_path: Path) -> None:
    assert (
        fault(raised_by(tmp_path / "jobs.sqlite3", "PRAGMA query_only = 1", "CREATE TABLE t (a)")).code == "read_only"
    )


def test_a_database_that_cannot_be_opened_is_missing_unless_the_files_are_used_up(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError) as absent:
        sqlite3.connect(tmp_path / "absent" / "jobs.sqlite3")
    assert fault(absent.value).code == "missing"
    with no_more_files():
        with pytest.raises(sqlite3.OperationalError) as used_up:
            sqlite3.connect(tmp_path / "jobs.sqlite3")
        found = fault(used_up.value)
    assert found.code == "too_many_files"


def test_what_neither_disk_nor_database_caused_is_no_fault() -> None:
    for error in (
        RuntimeError("a bug"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        sqlite3.ProgrammingError("closed"),
    ):
        assert fault_of(error) is None


def test_an_error_that_names_no_file_gets_the_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as unnamed, naming(tmp_path / "a.png"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert unnamed.value.filename == str(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError) as named, naming(tmp_path / "a.png"):
        (tmp_path / "b.png").open()
    assert named.value.filename == str(tmp_path / "b.png")
