from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from converter.errors import AnemoneError
from server.jobs.store.files import StoredFiles
from tests.support.outages import no_room


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_that_no_job_refers_to_are_moved_aside_and_the_others_counted(tmp_path: Path) -> None:
    images = StoredFiles(tmp_path, ".png")
    known, orphan = images.write(b"known"), images.write(b"orphan")
    images.path(f"{'0' * 32}.png.partial").write_bytes(b"ha")
    assert images.sweep({known}) == 1
    assert images.bytes == len(b"known")
    assert names(tmp_path) == sorted([known, "unknown"])
    assert images.path(f"unknown/{orphan}").read_bytes() == b"orphan"
    assert images.sweep({known}) == 0


def test_a_users_own_files_stay_where_they_are(tmp_path: Path) -> None:
    images = StoredFiles(tmp_path, ".png")
    own = ["cat.png", "notes.txt", "half.png.partial", f"{'0' * 32}.jpg", f"{'0' * 32}.png.txt", f"{'A' * 32}.png"]
    for name in own:
        images.path(name).write_bytes(b"somebody else's")
    assert images.sweep(set()) == 0
    assert names(tmp_path) == sorted(own)


def test_a_file_that_was_moved_aside_comes_back_when_a_job_refers_to_it(tmp_path: Path) -> None:
    images = StoredFiles(tmp_path, ".png")
    name = images.write(b"image")
    images.sweep(set())
    assert images.sweep({name}) == 0
    assert images.path(name).read_bytes() == b"image"
    assert images.bytes == len(b"image")


def test_a_file_in_a_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("a file")
    with pytest.raises(AnemoneError, match="images cannot be used: File exists; it must be a folder"):
        StoredFiles(tmp_path / "images", ".png")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_disk_that_cannot_wait_for_folders_waits_for_files_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    images, waited = StoredFiles(tmp_path, ".png"), list[int]()
    refused = stat.S_ISDIR

    def fsync(descriptor: int) -> None:
        mode = os.fstat(descriptor).st_mode
        waited.append(mode)
        if refused(mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    images.write(b"image")
    images.settle()
    assert [stat.S_ISDIR(mode) for mode in waited] == [False, True]
    refused = stat.S_ISREG
    images.write(b"image")
    with pytest.raises(OSError, match=os.strerror(number)):
        images.settle()


def test_a_file_that_cannot_be_moved_aside_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = StoredFiles(tmp_path, ".png")
    orphan = images.write(b"orphan")
    images.path("unknown").write_text("somebody else's")
    assert images.sweep(set()) == 0
    assert names(tmp_path) == sorted([orphan, "unknown"])
    assert "cannot be moved aside: File exists" in caplog.text


def test_bytes_follow_what_is_written_and_removed(tmp_path: Path) -> None:
    images = StoredFiles(tmp_path, ".png")
    first, second = images.write(b"12345"), images.write(b"123")
    assert images.bytes == 8
    images.remove([first, first, "never-there.png"])
    assert images.bytes == 3
    assert images.path(second).read_bytes() == b"123"


def test_names_say_nothing_and_no_half_written_file_has_one(tmp_path: Path) -> None:
    images = StoredFiles(tmp_path, ".png")
    names = {images.write(b"same") for _ in range(20)}
    assert len(names) == 20
    assert not list(tmp_path.glob("*.partial"))


def test_images_settle_whether_or_not_they_are_still_there(tmp_path: Path) -> None:
    images = StoredFiles(tmp_path, ".png")
    kept, gone = images.write(b"kept"), images.write(b"gone")
    images.remove([gone])
    images.settle()
    images.settle()
    assert [p.name for p in tmp_path.iterdir()] == [kept]


def test_a_file_that_cannot_be_written_whole_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    images = StoredFiles(tmp_path, ".png")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        images.write(b"12345")
    assert not list(tmp_path.iterdir())
    assert images.bytes == 0


def test_a_folder_that_was_removed_is_made_again_but_not_the_data_folder(tmp_path: Path) -> None:
    images = StoredFiles(tmp_path / "data" / "images", ".png")
    shutil.rmtree(tmp_path / "data" / "images")
    assert images.path(images.write(b"12345")).read_bytes() == b"12345"
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(FileNotFoundError) as missing:
        images.write(b"12345")
    assert missing.value.filename == str(tmp_path / "data" / "images")


def test_the_folder_of_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    images = StoredFiles(tmp_path, ".png")
    with no_room(), pytest.raises(OSError, match="too large") as full:
        images.write(b"12345")
    assert full.value.filename == str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_deleted_is_left_to_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def forbidden(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    images = StoredFiles(tmp_path, ".png")
    name = images.write(b"12345")
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Path, "unlink", forbidden)
        images.remove([name])
    assert name in caplog.text
    assert images.sweep(set()) == 1


def test_links_and_folders_in_the_place_of_files_stop_no_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = StoredFiles(tmp_path / "images", ".png")
    away, circular = images.write(b"on a disk that is away"), images.write(b"itself")
    for name, target in ((away, tmp_path / "away"), (circular, images.path(circular))):
        images.path(name).unlink()
        images.path(name).symlink_to(target)
    unfinished = images.path(f"{'0' * 32}.png.partial")
    unfinished.mkdir()
    assert images.sweep({away, circular}) == 0
    assert f"{unfinished}, which is unfinished, cannot be deleted: " in caplog.text
    images.remove([away, circular])
    assert names(tmp_path / "images") == [unfinished.name]
