from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from converter.errors import SpaceError
from converter.folder import ModelFolder
from converter.progress import OnProgress, ignore
from server.models.merged import MergedModels
from tests.support.fake_pipeline import MANIFEST

BASE, OTHER = "b" * 64, "c" * 64
SIZE = 1000


def maker(made: list[str], shared: Path | None = None, fail: Exception | None = None) -> Callable[..., ModelFolder]:
    """Return a function that writes a model of SIZE bytes beside its manifest, and a link to a shared file."""

    def make(out: Path, progress: OnProgress) -> ModelFolder:
        if fail is not None and not made:
            made.append("failed")
            raise fail
        made.append(out.name)
        out.mkdir()
        (out / "merged.bin").write_bytes(bytes(SIZE))
        os.link(out / "merged.bin", out / "again.bin")
        if shared is not None:
            os.link(shared, out / "weight.bin")
        replace(MANIFEST, networks={}).write(out)
        return ModelFolder.open(out)

    return make


def key(letter: str) -> str:
    return letter * 64


def use(models: MergedModels, letter: str, made: list[str], base: str = BASE) -> Path:
    with models.open(base, key(letter), maker(made), ignore) as folder:
        return folder.path


def test_a_merged_model_is_made_once(tmp_path: Path) -> None:
    models, made = MergedModels(tmp_path), list[str]()
    assert use(models, "1", made) == use(models, "1", made)
    assert made == ["1" * 32]
    assert use(models, "1", made, OTHER).parent != use(models, "1", made).parent


def test_a_damaged_one_is_made_again(tmp_path: Path) -> None:
    models, made = MergedModels(tmp_path), list[str]()
    (use(models, "1", made) / "anemone.json").write_text("{")
    use(models, "1", made)
    assert len(made) == 2


def test_those_used_longest_ago_are_deleted_first_but_none_in_use(tmp_path: Path) -> None:
    base = tmp_path / "weight.bin"
    base.write_bytes(bytes(100 * SIZE))
    models, made = MergedModels(tmp_path / "merged", limit=10 * SIZE), list[str]()
    with models.open(BASE, key("1"), maker(made, base), ignore) as first:
        manifest = (first.path / "anemone.json").stat().st_size
        models = MergedModels(tmp_path / "merged", limit=3 * (SIZE + manifest))
        paths = [use(models, letter, made) for letter in "23"]
        for age, path in enumerate((first.path, *paths)):
            os.utime(path, (age, age))
        use(models, "2", made)  # used again: 3 is older now
        fourth = use(models, "4", made)
        assert [path.exists() for path in (first.path, *paths, fourth)] == [True, True, False, True]
    os.utime(first.path, (0, 0))
    use(models, "3", made)
    assert not first.path.exists()
    assert base.exists()


def test_what_a_killed_merge_left_is_deleted(tmp_path: Path) -> None:
    models = MergedModels(tmp_path)
    folder = use(models, "1", [])
    partial = folder.with_name(f".{'2' * 32}.partial")
    partial.mkdir()
    partial.with_name(f".{'2' * 32}.used").touch()
    use(models, "3", [])
    assert not partial.exists()
    assert folder.exists()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full", "merged.bin"), SpaceError("2 GB are missing")])
def test_a_full_disk_costs_other_merged_models_first(tmp_path: Path, error: Exception) -> None:
    models = MergedModels(tmp_path)
    old = use(models, "1", [])
    made: list[str] = []
    with models.open(BASE, key("2"), maker(made, fail=error), ignore) as folder:
        assert folder.path.exists()
    assert made == ["failed", "2" * 32]
    assert not old.exists()
    empty = MergedModels(tmp_path / "empty")
    with pytest.raises(type(error)), empty.open(BASE, key("1"), maker([], fail=error), ignore):
        pass


def test_those_of_a_deleted_base_are_deleted_except_for_one_in_use(tmp_path: Path) -> None:
    models = MergedModels(tmp_path)
    other, first = use(models, "1", [], OTHER), use(models, "1", [])
    with models.open(BASE, key("2"), maker([]), ignore) as second:
        models.forget(BASE)
        assert (first.exists(), second.path.exists(), other.exists()) == (False, True, True)
    models.forget(BASE)
    models.forget("d" * 64)
    assert os.listdir(tmp_path) == [OTHER[:32]]
