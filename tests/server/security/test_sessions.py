from __future__ import annotations

import logging
import stat
from pathlib import Path

import pytest

from server.security import sessions
from server.security.sessions import SESSION_SECONDS, Sessions

KEY = b"a-key-for-tests-0123456789"


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


def test_a_login_outlives_a_restart_and_ends_at_its_logout_for_good(tmp_path: Path) -> None:
    file = tmp_path / sessions.FILE
    before = Sessions(KEY, file)
    one, other = before.begin(), before.begin()
    restarted = Sessions(KEY, file)
    assert restarted.is_open(one)
    restarted.end(one)
    for now in (restarted, Sessions(KEY, file)):
        assert not now.is_open(one)
        assert now.is_open(other)


def test_a_login_ends_by_its_age(tmp_path: Path) -> None:
    clock = Clock()
    kept = Sessions(KEY, tmp_path / sessions.FILE, clock)
    session = kept.begin()
    clock.now += SESSION_SECONDS - 1
    assert kept.is_open(session)
    clock.now += 2
    assert not kept.is_open(session)


def test_another_key_ends_every_login(tmp_path: Path) -> None:
    session = Sessions(KEY, tmp_path / sessions.FILE).begin()
    assert not Sessions(b"another-key-of-tests", tmp_path / sessions.FILE).is_open(session)


def test_the_file_opens_nothing_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    file = tmp_path / sessions.FILE
    session = Sessions(KEY, file).begin()
    content = file.read_text()
    assert session not in content
    assert KEY.decode() not in content
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_oldest_login_ends_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST_SESSIONS", 3)
    kept = Sessions(KEY)
    made = [kept.begin() for _ in range(4)]
    assert [kept.is_open(session) for session in made] == [False, True, True, True]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": "b"}', b"\xff{"])
def test_a_damaged_file_ends_all_logins_and_says_so(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / sessions.FILE
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        session = Sessions(KEY, file).begin()
    assert str(file) in caplog.text
    assert Sessions(KEY, file).is_open(session)


def test_on_a_full_disk_logging_in_works_until_the_server_stops_and_logging_out_says_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sessions, "write_private", full)
    kept = Sessions(KEY, tmp_path / sessions.FILE)
    session = kept.begin()
    assert kept.is_open(session)
    assert "No space left" in caplog.text
    with pytest.raises(OSError, match="No space left"):
        kept.end(session)
    assert not kept.is_open(session)


def test_a_folder_in_the_files_place_ends_all_logins_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / sessions.FILE
    file.mkdir()
    kept = Sessions(KEY, file)
    assert f"{file} cannot be read (Is a directory): browsers must log in again" in caplog.text
    assert kept.is_open(kept.begin())
