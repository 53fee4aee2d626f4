"""A database whose file is removed or replaced while the server runs."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.faults import fault_of
from server.jobs.store import JobStore
from tests.support.generation_requests import request, submission


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "data")
    yield store
    store.close()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "data" / "jobs.sqlite3"


def add(store: JobStore, prompt: str) -> None:
    store.add(submission(request(prompt)))


def prompts(store: JobStore) -> list[str]:
    return [job.request.prompts.prompt for job in reversed(store.page(100)) if job.request is not None]


def stored(database: Path) -> list[str]:
    """The prompts that another connection finds in the file."""
    db = sqlite3.connect(database)
    rows = db.execute("SELECT json_extract(request, '$.prompts.prompt') FROM jobs ORDER BY number").fetchall()
    db.close()
    return [prompt for (prompt,) in rows]


def remove(database: Path) -> None:
    database.unlink()


def remove_all(database: Path) -> None:
    for file in database.parent.glob("jobs.sqlite3*"):
        file.unlink()


def remove_log(database: Path) -> None:
    Path(f"{database}-wal").unlink()


def replace_by_junk(database: Path) -> None:
    database.unlink()
    database.write_text("junk")


def replace_by_a_folder(database: Path) -> None:
    database.unlink()
    database.mkdir()


def replace_by_another(database: Path) -> None:
    other = JobStore(database.parent.parent / "other")
    add(other, "of a backup")
    other.close()
    (database.parent.parent / "other" / "jobs.sqlite3").replace(database)


REMOVALS = [remove, remove_all, remove_log, replace_by_junk, replace_by_a_folder, replace_by_another]


@pytest.mark.parametrize("change", REMOVALS)
def test_the_next_write_puts_it_back_with_all_jobs(
    store: JobStore, database: Path, caplog: pytest.LogCaptureFixture, change: Callable[[Path], None]
) -> None:
    add(store, "before")
    change(database)
    add(store, "after")
    assert prompts(store) == stored(database) == ["before", "after"]
    add(store, "later")
    assert stored(database) == ["before", "after", "later"]
    (message,) = caplog.messages
    assert f"{database} was removed or replaced while the server ran" in message
    assert ("is kept as jobs.sqlite3.replaced-" in message) == bool(list(database.parent.glob("*.replaced-*")))


@pytest.mark.parametrize("change", REMOVALS)
def test_a_server_that_stops_puts_it_back(tmp_path: Path, database: Path, change: Callable[[Path], None]) -> None:
    first = JobStore(database.parent)
    add(first, "before")
    change(database)
    first.close()
    second = JobStore(database.parent)
    assert prompts(second) == ["before"]
    second.close()


def test_a_backup_that_was_put_in_place_while_the_server_ran_is_kept(store: JobStore, database: Path) -> None:
    add(store, "before")
    replace_by_another(database)
    add(store, "after")
    (backup,) = database.parent.glob("*.replaced-*[0-9]")
    assert stored(backup) == ["of a backup"]


def test_without_its_folder_writes_fail_until_the_folder_is_back(
    store: JobStore, database: Path, tmp_path: Path
) -> None:
    add(store, "before")
    shutil.move(database.parent, tmp_path / "elsewhere")
    with pytest.raises(sqlite3.OperationalError) as raised:
        add(store, "meanwhile")
    fault = fault_of(raised.value)
    assert fault is not None
    assert fault.code == "missing"
    assert prompts(store) == ["before"]
    shutil.move(tmp_path / "elsewhere", database.parent)
    add(store, "after")
    assert prompts(store) == stored(database) == ["before", "after"]


def truncate(database: Path) -> None:
    os.truncate(database, 0)


def overwrite(database: Path) -> None:
    with database.open("r+b") as file:
        file.write(b"junk" * 8000)


def copy_another_over_it(database: Path) -> None:
    other = JobStore(database.parent.parent / "other")
    add(other, "of a backup")
    other.close()
    shutil.copyfile(database.parent.parent / "other" / "jobs.sqlite3", database)


@pytest.mark.parametrize("change", [truncate, overwrite, copy_another_over_it])
def test_nothing_is_accepted_into_a_database_that_was_overwritten(
    tmp_path: Path, database: Path, change: Callable[[Path], None]
) -> None:
    first = JobStore(database.parent)
    for number in range(30):
        add(first, f"{number} {'a' * 1000}")
    first.close()
    second = JobStore(database.parent)
    add(second, "before")
    change(database)
    for _ in range(2):
        with pytest.raises(sqlite3.DatabaseError, match="was overwritten while the server ran") as raised:
            add(second, "after")
        fault = fault_of(raised.value)
        assert fault is not None
        assert fault.code == "database_damaged"
    second.close()


def test_a_database_that_was_only_touched_is_written_on(store: JobStore, database: Path) -> None:
    add(store, "before")
    os.utime(database)
    add(store, "after")
    assert prompts(store) == ["before", "after"]


def test_nothing_is_put_back_where_nothing_was_touched(
    store: JobStore, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(20):
        add(store, f"{number}")
        stored(database)
    assert caplog.messages == []
