from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from server.security.private import make_private

_ID = "0123456789abcdef0123"
IMAGE = f"images/{_ID}456789abcdef.png"
KEPT = ["jobs.sqlite3", "jobs.sqlite3-wal", "jobs.sqlite3-shm", "api-key", "lock", "sessions.json", ".sessions.json.new", IMAGE,
        f"{IMAGE}.partial", f"images/unknown/{_ID}456789abcdef.png", f"attachments/{_ID}456789abcdef.bin",
        f"conversions/{_ID}.json", "tls/key.pem", "tls/.key.pem.new", "tls/cert.pem"]  # fmt: skip
SHARED = ["models/sd15/unet.bin", "checkpoints/a.safetensors", ".DS_Store"]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder as earlier versions left it, that everybody can read."""
    data = tmp_path / "data"
    for name in (*KEPT, *SHARED):
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        path.chmod(0o644)
    for folder in (data, *(path for path in data.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    return data


def open_to_others(data: Path) -> set[str]:
    return {str(path.relative_to(data)) for path in data.rglob("*") if mode(path) & 0o077}


def test_an_existing_folder_becomes_its_owners_alone(data: Path) -> None:
    assert make_private(data) is None
    assert mode(data) == 0o700
    assert open_to_others(data) == {"models", "models/sd15", "checkpoints", *SHARED}
    assert {mode(data / name) for name in KEPT} == {0o600}


def test_a_folder_with_other_files_keeps_its_rights_and_what_is_ours_is_private(data: Path) -> None:
    (data / "Documents").mkdir(mode=0o755)
    (data / "images" / "holiday.png").write_text("")
    (data / "images" / "holiday.png").chmod(0o644)
    (data / "letter.txt").write_text("")
    (data / "letter.txt").chmod(0o644)
    said = make_private(data)
    assert said is not None
    assert str(data) in said
    assert "Documents" in said
    assert mode(data) == 0o755
    assert not open_to_others(data) & {*KEPT, "tls", "attachments", "conversions"}
    assert {"Documents", "letter.txt", "images", "images/holiday.png"} <= open_to_others(data)


def test_other_files_in_a_folder_that_is_private_already_need_no_word(data: Path) -> None:
    (data / "letter.txt").write_text("")
    data.chmod(0o700)
    assert make_private(data) is None


def test_links_are_not_followed(data: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o755)
    (elsewhere / "a.png").write_text("")
    (elsewhere / "a.png").chmod(0o644)
    (data / "tls" / "key.pem").unlink()
    (data / "tls" / "key.pem").symlink_to(elsewhere / "a.png")
    (data / "attachments" / "folder").symlink_to(elsewhere)
    for old in (data / "conversions").iterdir():
        old.unlink()
    (data / "conversions").rmdir()
    (data / "conversions").symlink_to(elsewhere)
    assert make_private(data) is None
    assert (mode(elsewhere), mode(elsewhere / "a.png")) == (0o755, 0o644)


@pytest.mark.parametrize("fails", [True, False])
def test_a_disk_that_keeps_no_rights_is_named(data: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    def chmod(path: Path, mode: int) -> None:
        if fails:
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", chmod)
    said = make_private(data)
    assert said is not None
    assert ("Operation not permitted" if fails else "keeps no rights") in said
    assert "--data-dir" in said


def test_another_users_folder_is_left_as_it_is(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: data.stat().st_uid + 1)
    said = make_private(data)
    assert said is not None
    assert "another user" in said
    assert mode(data) == 0o755


def test_the_data_folder_may_be_a_link_to_another_disk(data: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(data)
    assert make_private(tmp_path / "link") is None
    assert mode(data) == 0o700


def test_an_empty_folder_becomes_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert make_private(tmp_path) is None
    assert mode(tmp_path) == 0o700
