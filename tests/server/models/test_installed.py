from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from converter.manifest import FILE
from server.models.installed import InstalledModels, NotDeletable, UnknownModel
from tests.support.fake_pipeline import MANIFEST


def put(folder: Path, name: str | None = None) -> Path:
    folder.mkdir(parents=True)
    replace(MANIFEST, name=name or folder.name).write(folder)
    return folder


def test_what_is_in_the_data_folder_and_what_was_named_is_there(tmp_path: Path) -> None:
    put(tmp_path / "models" / "b")
    put(tmp_path / "models" / "a")
    (tmp_path / "models" / ".c.partial").mkdir()
    (tmp_path / "models" / "half").mkdir()
    outside = put(tmp_path / "elsewhere" / "z")
    models = InstalledModels(tmp_path, (outside,))
    assert models.names() == ("z", "a", "b")
    assert models.default == "z"
    assert models.folder("a") == tmp_path / "models" / "a"
    assert models.manifest("b").name == "b"


def test_a_model_is_there_once_its_folder_is_and_not_after(tmp_path: Path) -> None:
    models = InstalledModels(tmp_path, default="later")
    assert models.names() == ()
    assert models.default == "later"
    put(tmp_path / "models" / "later")
    assert models.names() == ("later",)
    models.delete("later")
    assert models.names() == ()
    assert list((tmp_path / "models").iterdir()) == []


def test_a_manifest_that_changed_is_read_again(tmp_path: Path) -> None:
    folder = put(tmp_path / "models" / "a")
    models = InstalledModels(tmp_path)
    assert models.manifest("a").name == "a"
    replace(MANIFEST, name="another name").write(folder)
    assert models.manifest("a").name == "another name"


def test_models_answer_to_their_manifests_names_too_in_any_case(tmp_path: Path) -> None:
    put(tmp_path / "models" / "turbo", "stabilityai/sdxl-turbo")
    models = InstalledModels(tmp_path)
    assert models.find("StabilityAI/SDXL-Turbo") == "turbo"
    assert models.find("TURBO") == "turbo"


@pytest.mark.parametrize("name", ["nothing", "", "..", "../elsewhere", "a/../../etc", ".", "a\0", "x" * 10_000])
def test_only_what_was_found_can_be_named(tmp_path: Path, name: str) -> None:
    put(tmp_path / "models" / "a")
    put(tmp_path / "elsewhere")
    with pytest.raises(UnknownModel, match="installed: a") as caught:
        InstalledModels(tmp_path).folder(name)
    assert len(str(caught.value)) < 200


def test_two_folders_of_one_name_are_both_there(tmp_path: Path) -> None:
    inside, outside = put(tmp_path / "models" / "a"), put(tmp_path / "elsewhere" / "a")
    models = InstalledModels(tmp_path, (outside,))
    assert models.folder("a") == outside
    assert models.folder("a-2") == inside


def test_a_damaged_folder_takes_no_other_with_it(tmp_path: Path) -> None:
    put(tmp_path / "models" / "a")
    damaged = put(tmp_path / "models" / "b")
    (damaged / FILE).write_text("{")
    models = InstalledModels(tmp_path)
    assert models.names() == ("a",)
    with pytest.raises(UnknownModel, match=r"the model b is damaged: anemone\.json is not JSON: .*; convert it again"):
        models.get("b")
    assert list(models.damaged()) == ["b"]
    replace(MANIFEST, name="b").write(damaged)
    assert models.find("b") == "b"
    assert models.damaged() == {}


def test_only_the_servers_own_models_are_deleted(tmp_path: Path) -> None:
    outside = put(tmp_path / "elsewhere" / "z")
    with pytest.raises(NotDeletable):
        InstalledModels(tmp_path, (outside,)).delete("z")
    assert (outside / FILE).is_file()


def test_a_deleted_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    outside = put(tmp_path / "elsewhere" / "z")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "link").symlink_to(outside)
    models = InstalledModels(tmp_path)
    models.delete(models.names()[0])
    assert (outside / FILE).is_file()
    assert models.names() == ()


def test_files_that_packages_share_are_counted_once(tmp_path: Path) -> None:
    folder = put(tmp_path / "models" / "a")
    before = InstalledModels(tmp_path).disk_bytes("a")
    (folder / "weights.bin").write_bytes(bytes(1000))
    os.link(folder / "weights.bin", folder / "again.bin")
    assert InstalledModels(tmp_path).disk_bytes("a") == before + 1000


def settle(tmp_path: Path) -> None:
    """Make the models folder look unchanged for long, so that its time is trusted."""
    os.utime(tmp_path / "models", (1e9, 1e9))


def test_what_has_not_changed_is_not_scanned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "models" / "a")
    put(tmp_path / "models" / "b", "a name of its own")
    settle(tmp_path)
    models = InstalledModels(tmp_path)
    assert models.cached("a") is None
    assert models.names() == ("a", "b")

    def scanned(path: Path) -> None:
        raise AssertionError("it is scanned again")

    monkeypatch.setattr(Path, "iterdir", scanned)
    assert models.names() == ("a", "b")
    assert models.get("a name of its own").name == "b"
    assert models.cached("a") == models.get("a")
    assert models.cached(None) == models.get("a")
    assert [models.cached(name) for name in ("", "A", "a name of its own", "c")] == [None] * 4


def test_no_change_is_missed_however_soon_it_comes(tmp_path: Path) -> None:
    put(tmp_path / "models" / "a")
    models = InstalledModels(tmp_path)
    for n in range(20):
        name = f"new-{n}"
        put(tmp_path / "models" / name)
        assert models.cached(name) is None
        assert models.find(name) == name
        models.delete(name)
        assert models.cached(name) is None
        assert models.names() == ("a",)


def test_after_a_quiet_time_every_change_is_seen_at_once(tmp_path: Path) -> None:
    a = put(tmp_path / "models" / "a")
    half = tmp_path / "models" / "half"
    half.mkdir()
    settle(tmp_path)
    models = InstalledModels(tmp_path)
    assert models.names() == ("a",)
    replace(MANIFEST, name="another name").write(a)
    assert models.cached("a") is None
    assert models.manifest("a").name == "another name"
    settle(tmp_path)
    assert models.names() == ("a",)
    replace(MANIFEST, name="half").write(half)
    settle(tmp_path)
    assert models.names() == ("a", "half")
    (a / FILE).unlink()
    assert models.cached("a") is None
    assert models.names() == ("half",)


def test_a_model_outside_that_appears_later_takes_its_name(tmp_path: Path) -> None:
    inside, outside = put(tmp_path / "models" / "a"), tmp_path / "elsewhere" / "a"
    settle(tmp_path)
    models = InstalledModels(tmp_path, (outside,))
    assert models.folder("a") == inside
    assert models.cached("a") is not None
    put(outside)
    assert models.cached("a") is None
    assert models.folder("a") == outside
    assert models.folder("a-2") == inside


def test_a_model_replaced_as_a_whole_is_seen_at_once(tmp_path: Path) -> None:
    folder = put(tmp_path / "models" / "a")
    settle(tmp_path)
    models = InstalledModels(tmp_path)
    assert models.manifest("a").name == "a"
    put(tmp_path / "models" / ".a.partial", "A")
    folder.rename(tmp_path / "models" / ".a.deleted")
    (tmp_path / "models" / ".a.partial").rename(folder)
    assert models.cached("a") is None
    assert models.manifest("a").name == "A"


def test_a_model_that_cannot_be_read_because_the_files_are_used_up_is_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "models" / "a")
    models = InstalledModels(tmp_path)

    def used_up(path: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Path, "read_bytes", used_up)
        with pytest.raises(OSError, match="Too many open files"):
            models.names()
    assert models.names() == ("a",)
