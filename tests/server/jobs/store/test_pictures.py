from __future__ import annotations

from pathlib import Path

from server.jobs.store.pictures import Pictures


def test_what_no_job_knows_of_is_swept_and_the_rest_counted(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    known, orphan = pictures.write(b"known"), pictures.write(b"orphan")
    pictures.path("half.png.partial").write_bytes(b"ha")
    pictures.path("notes.txt").write_bytes(b"somebody else's")
    assert pictures.sweep({known}) == 2
    assert pictures.bytes == len(b"known")
    assert not pictures.path(orphan).exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([known, "notes.txt"])


def test_bytes_follow_what_is_written_and_removed(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    first, second = pictures.write(b"12345"), pictures.write(b"123")
    assert pictures.bytes == 8
    pictures.remove([first, first, "never-there.png"])
    assert pictures.bytes == 3
    assert pictures.path(second).read_bytes() == b"123"


def test_names_say_nothing_and_no_half_written_file_has_one(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    names = {pictures.write(b"same") for _ in range(20)}
    assert len(names) == 20
    assert not list(tmp_path.glob("*.partial"))


def test_pictures_settle_whether_or_not_they_are_still_there(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    kept, gone = pictures.write(b"kept"), pictures.write(b"gone")
    pictures.remove([gone])
    pictures.settle()
    pictures.settle()
    assert [p.name for p in tmp_path.iterdir()] == [kept]
