from __future__ import annotations

from pathlib import Path

from converter.conversion.partial import Partial


def finished(out: Path) -> Partial:
    """Return a finished conversion into ``out``."""
    partial = Partial.open(out, "plan")
    partial.path.mkdir()
    for name in ("conversion.json", "anemone.json"):
        (partial.path / name).write_text("new")
    return partial


def replaced(folder: Path) -> None:
    """Make a model that is to be replaced, with its user's own files."""
    (folder / "unet.mlpackage").mkdir(parents=True)
    (folder / "tokenizer").mkdir()
    (folder / "pictures").mkdir()
    for name in ("anemone.json", "anemone-trials.json", ".anemone-checked.json", "notes.txt", "pictures/cat.png"):
        (folder / name).write_text("old")


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_what_a_user_put_beside_a_model_stays_when_the_model_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "model [1]"
    replaced(out)
    finished(out).become(out)
    assert content(out) == {"anemone.json": "new", "notes.txt": "old", "pictures/cat.png": "old"}
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_model_that_a_killed_conversion_left_half_replaced_is_removed_and_its_users_files_come_back(
    tmp_path: Path,
) -> None:
    out = tmp_path / "model [1]"
    replaced(tmp_path / ".model [1].old-4711")
    finished(out).become(out)
    assert content(out) == {"anemone.json": "new", "notes.txt": "old", "pictures/cat.png": "old"}
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
