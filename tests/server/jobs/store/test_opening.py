from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from server.api.native.jobs import job_out
from server.jobs.store import JobStore, Retention, StoreError, opening
from server.jobs.store import database as database_module
from tests.support.generation_requests import request, submission


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The database of a server that has stopped, with one ended job that has an image, and one queued job."""
    store = JobStore(tmp_path)
    ended = store.add(submission(request("ended"))).job_id
    store.start(ended)
    store.add_image(ended, 0, 7, b"image")
    store.end(ended, "succeeded")
    store.add(submission(request("queued"), key="k", client="c"))
    store.close()
    return tmp_path / "jobs.sqlite3"


def change(database: Path, *statements: str) -> None:
    db = sqlite3.connect(database)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


def truncate(database: Path) -> None:
    database.write_bytes(database.read_bytes()[:5000])


def empty(database: Path) -> None:
    database.write_bytes(b"")


def junk(database: Path) -> None:
    database.write_bytes(random.Random(1).randbytes(20_000))


def folder(database: Path) -> None:
    database.unlink()
    database.mkdir()


def pipe(database: Path) -> None:
    database.unlink()
    os.mkfifo(database)


def only_the_log(database: Path) -> None:
    database.rename(f"{database}-wal")


def broken_page(database: Path) -> None:
    content = bytearray(database.read_bytes())
    content[4096:8192] = random.Random(1).randbytes(4096)
    database.write_bytes(content)


def of_another_program(database: Path) -> None:
    database.unlink()
    change(database, "CREATE TABLE moz_places (id)", "PRAGMA user_version = 77")


def without_version(database: Path) -> None:
    change(database, "PRAGMA user_version = 0")


def negative_version(database: Path) -> None:
    change(database, "PRAGMA user_version = -1")


def without_a_table(database: Path) -> None:
    change(database, "DROP TABLE attachments")


def without_a_column(database: Path) -> None:
    change(database, "ALTER TABLE jobs DROP COLUMN deaths")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "malformed"),
        (empty, "it is empty"),
        (junk, "not a database"),
        (folder, "it is a folder"),
        (pipe, "it is no file"),
        (only_the_log, "it is gone"),
        (broken_page, ""),
        (of_another_program, "another program's database"),
        (without_version, "another program's database"),
        (negative_version, "another program's database"),
        (without_a_table, "its table attachments has no column"),
        (without_a_column, "its table jobs has no column deaths"),
    ],
)
def test_a_damaged_database_is_kept_aside_and_a_new_one_begins_which_is_said_in_a_line(
    database: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], reason: str
) -> None:
    damage(database)
    before = database.read_bytes() if database.is_file() else None
    for _ in range(2):
        store = JobStore(database.parent)
        assert store.page(9) == []
        store.close()
    (aside, *_) = sorted(database.parent.glob("jobs.sqlite3.damaged-*"))
    assert before is None or aside.read_bytes() == before
    assert list(database.parent.glob("images/*.png")) or list(database.parent.glob("images/unknown/*.png"))
    damaged, *_ = [message for message in caplog.messages if "is damaged" in message]
    assert reason in damaged
    assert aside.name.removesuffix("-wal") in damaged
    assert "\n" not in damaged


def test_the_log_of_a_damaged_database_is_kept_with_it(database: Path) -> None:
    junk(database)
    Path(f"{database}-wal").write_bytes(b"log")
    JobStore(database.parent).close()
    kept = sorted(path.name for path in database.parent.glob("*.damaged-*"))
    assert f"{kept[0]}-wal" in kept


def test_a_database_of_a_newer_release_is_refused_and_left_as_it_is(database: Path) -> None:
    change(database, "PRAGMA user_version = 999")
    before = database.read_bytes()
    with pytest.raises(StoreError, match="newer Anemone"):
        JobStore(database.parent)
    assert database.read_bytes() == before


def test_a_database_that_another_program_has_locked_is_refused_and_left_as_it_is(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(database_module, "WRITE_SECONDS", 0.01)
    with pytest.raises(StoreError, match="database is locked"):
        JobStore(database.parent)
    other.close()
    assert not list(database.parent.glob("*.damaged-*"))


def test_a_database_whose_first_start_was_killed_is_new(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(tmp_path / "jobs.sqlite3", "PRAGMA journal_mode = WAL")
    JobStore(tmp_path).close()
    assert caplog.messages == []


def test_damaged_indexes_are_made_anew(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    db = sqlite3.connect(database)
    ((page,),) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'jobs_by_status'").fetchall()
    db.close()
    content = bytearray(database.read_bytes())
    start = 4096 * (page - 1)
    content[start : start + 4096] = content[start : start + 4096].replace(b"queued", b"broken")
    database.write_bytes(content)
    store = JobStore(database.parent)
    assert [job.request and job.request.prompts.prompt for job in store.page(9, statuses=("queued",))] == ["queued"]
    assert caplog.messages == ["jobs.sqlite3 had damaged indexes, which were made anew"]
    store.close()


def test_a_check_that_takes_too_long_stops(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_CHECK_SECONDS", 0.0)
    for _ in range(10):  # with so few jobs the check may be the faster one
        JobStore(database.parent).close()
    assert not list(database.parent.glob("*.damaged-*"))


@pytest.mark.parametrize(
    "wrong",
    [
        "id = CAST(x'61ff62' AS TEXT)",
        "id = NULL",
        "status = 'lost'",
        "status = x'00ff'",
        "priority = 7",
        "priority = 'soon'",
        "number = 'first'",
        "number = 9223372036854775807",
        "created = 'yesterday'",
        "created = 9e999",
        "turn = 'mine'",
        "calls = 'many'",
        "rows = -2",
        "attempts = x'01'",
        "client = x'ff'",
        "request = '{}'",
        "request = '[]'",
        "request = 'junk'",
        "request = x'00'",
        'request = replace(request, \'"steps":3\', \'"steps":"three"\')',
    ],
)
def test_a_damaged_job_fails_by_itself(database: Path, wrong: str) -> None:
    change(database, f"UPDATE jobs SET {wrong} WHERE status = 'queued'")
    store = JobStore(database.parent)
    other = store.add(submission(request("other"))).job_id
    assert [queued.job_id for queued in store.queued()] == [other]
    (damaged,) = store.page(9, statuses=("failed",))
    assert damaged.failure is not None
    assert damaged.failure.code == "damaged"
    assert "cannot be read" in damaged.failure.message
    assert {job.status for job in store.page(9)} == {"queued", "failed", "succeeded"}
    for job in store.page(9):
        assert job_out(job).model_dump_json()
    store.close()


@pytest.mark.parametrize("wrong", ["request = '{}'", "request = x'00'", "priority = 7", "started = 'early'"])
def test_an_ended_job_that_is_damaged_keeps_its_end_and_its_image(database: Path, wrong: str) -> None:
    change(database, f"UPDATE jobs SET {wrong} WHERE status = 'succeeded'")
    store = JobStore(database.parent)
    (job,) = store.page(9, statuses=("succeeded",))
    assert store.image_path(job.images[0]).read_bytes() == b"image"
    assert job_out(job).model_dump_json()
    store.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE images SET seed = 'red'",
        "UPDATE images SET file = '../jobs.sqlite3'",
        "UPDATE images SET file = x'00'",
        "UPDATE images SET file = 'a' || char(0) || 'b'",
        f"UPDATE images SET file = '{'x' * 256}'",
        "INSERT INTO tombstones VALUES ('t', 'last', 1.0)",
        "INSERT INTO paces VALUES ('m', 64, 64, 2, 'fast', 1.0)",
        "INSERT INTO attachments VALUES ('nobody', 'image', 'file')",
    ],
)
def test_damaged_rows_beside_the_jobs_are_left_out(
    database: Path, caplog: pytest.LogCaptureFixture, statement: str
) -> None:
    change(database, statement)
    store = JobStore(database.parent)
    assert len(store.page(9)) == 2
    assert store.step_times() == {}
    assert not any("/" in image.file for job in store.page(9) for image in job.images)
    store.add(submission())
    assert "jobs.sqlite3 has damaged rows, which are set aside: 1 in " in caplog.text
    store.close()


def test_a_stored_request_is_read_whatever_todays_limits_are(database: Path) -> None:
    change(
        database,
        """UPDATE jobs SET request = json_set(request, '$.sampling.steps', 1000, '$.sampling.scheduler', 'former',
             '$.seeds.n', 64, '$.prompts.prompt', 'a' || char(7) || 'b', '$.later', 'field')""",
    )
    store = JobStore(database.parent)
    for job in store.page(9):
        assert job.request is not None
        assert (job.request.sampling.steps, job.request.sampling.scheduler, job.request.seeds.n) == (1000, "former", 64)
        assert job.request.prompts.prompt == "a\ab"
        assert job_out(job).request["steps"] == 1000
    assert len(store.queued()) == 1
    store.close()


def test_a_damaged_byte_in_a_text_is_shown_as_such(database: Path) -> None:
    change(database, "UPDATE jobs SET error_message = CAST(x'61ff62' AS TEXT), error_code = 'c'")
    store = JobStore(database.parent)
    assert {job.failure and job.failure.message for job in store.page(9)} == {"a\ufffdb"}
    store.close()


@pytest.mark.slow
def test_no_damage_stops_a_start_or_the_other_jobs(tmp_path: Path) -> None:
    whole = JobStore(tmp_path / "whole")
    for number in range(40):
        job_id = whole.add(submission(request(f"circle {number}"), key=f"k{number}")).job_id
        if number < 20:
            whole.start(job_id)
            whole.add_image(job_id, 0, 7, b"image")
            whole.end(job_id, "succeeded")
    whole.close()
    content = (tmp_path / "whole" / "jobs.sqlite3").read_bytes()
    choose = random.Random(7)
    for number in range(60):
        damaged = bytearray(content)
        for _ in range(choose.choice((1, 1, 10, 100))):
            damaged[choose.randrange(len(damaged))] = choose.randrange(256)
        data_dir = tmp_path / str(number)
        data_dir.mkdir()
        (data_dir / "jobs.sqlite3").write_bytes(damaged)
        try:
            store = JobStore(data_dir)
        except StoreError as error:
            assert "newer Anemone" in str(error)  # noqa: PT017 - the version itself was hit
            continue
        store.interrupted("the server was killed", by_worker=False)
        for queued in store.queued():
            store.start(queued.job_id)
            store.end(queued.job_id, "succeeded")
        for job in store.page(100):
            assert job_out(job).model_dump_json()
        store.add(submission())
        Retention(days=0).apply(store)
        store.close()
