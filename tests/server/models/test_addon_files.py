from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from converter.errors import AnemoneError
from server.models.addons import AddonFiles, BundledAddon, NameNotAccepted, UnknownAddon
from server.models.loras import Addons


@dataclass(frozen=True)
class Facts:
    name: str
    text: str


class Reader:
    def __init__(self) -> None:
        self.reads: list[str] = []

    def __call__(self, name: str, path: Path) -> Facts:
        self.reads.append(name)
        text = path.read_text()
        if text == "bad":
            raise AnemoneError(f"{path} is cut off")
        return Facts(name, text)


def files(tmp_path: Path, reader: Reader | None = None) -> AddonFiles[Facts]:
    (tmp_path / "data").mkdir(exist_ok=True)
    index = tmp_path / "data" / "loras.json"
    return AddonFiles(tmp_path / "loras", index, Facts, reader or Reader(), tmp_path / "bundled")


def put(tmp_path: Path, name: str, text: str = "x") -> Path:
    path = tmp_path / "loras" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_files_of_all_subfolders_are_found_by_name_and_others_are_not(tmp_path: Path) -> None:
    assert files(tmp_path).paths() == {}
    for name in ("b", "style/A", "style/b", ".hidden", ".git/c"):
        put(tmp_path, name)
    (tmp_path / "loras" / "d.pt").touch()
    root = tmp_path / "loras"
    assert files(tmp_path).paths() == {"A": root / "style" / "A.safetensors", "b": root / "b.safetensors"}


def test_a_file_that_another_of_its_name_hides_is_told(tmp_path: Path) -> None:
    for name in ("x/adapter_model", "y/adapter_model"):
        put(tmp_path, name, name)
    hidden = "y/adapter_model.safetensors"
    reason = f"{hidden} has the name of x/adapter_model.safetensors, which is used; rename it"
    assert files(tmp_path).all() == ({"adapter_model": Facts("adapter_model", "x/adapter_model")}, {hidden: reason})


def test_a_file_is_read_once_also_after_a_restart_and_again_when_it_changes(tmp_path: Path) -> None:
    path, reader = put(tmp_path, "a", "one"), Reader()
    found = files(tmp_path, reader)
    assert found.get("a") == found.snapshot()["a"] == Facts("a", "one")
    assert files(tmp_path, reader).get("a") == Facts("a", "one")
    assert reader.reads == ["a"]
    path.write_text("two more")
    assert found.all() == ({"a": Facts("a", "two more")}, {})
    assert reader.reads == ["a", "a"]


def test_a_file_is_read_again_when_the_settings_beside_it_change(tmp_path: Path) -> None:
    path, reader = put(tmp_path, "a/adapter_model"), Reader()
    found, settings = files(tmp_path, reader), path.with_name("adapter_config.json")
    for reads, text in enumerate(("", "{}", "{ }"), 1):
        if text:
            settings.write_text(text)
            os.utime(settings, (1, 1))  # as `cp -p` and unpacking keep it
        found.get("adapter_model")
        assert found.get("adapter_model")
        assert len(reader.reads) == reads


def test_an_index_of_another_version_is_read_anew(tmp_path: Path) -> None:
    put(tmp_path, "a")
    found = files(tmp_path)
    (tmp_path / "data" / "loras.json").write_text('{"files": 3}')
    assert found.get("a") == Facts("a", "x")


def test_a_damaged_file_is_told_with_the_reason_and_without_folders(tmp_path: Path) -> None:
    put(tmp_path, "a", "bad")
    put(tmp_path, "b")
    assert files(tmp_path).all() == ({"b": Facts("b", "x")}, {"a": "a.safetensors is cut off"})
    with pytest.raises(AnemoneError, match=r"^a.safetensors is cut off$"):
        files(tmp_path).get("a")


def test_files_of_other_formats_are_told(tmp_path: Path) -> None:
    addons = Addons(tmp_path, bundled=tmp_path)
    (addons.embeddings.root / "old").mkdir(parents=True)
    for name in ("cat.pt", "old/dog.bin", "cat.png", "notes.txt", "UPPER.SAFETENSORS"):
        (addons.embeddings.root / name).touch()
    usable, damaged = addons.embeddings.all()
    assert (usable, [*damaged]) == ({}, ["UPPER.SAFETENSORS", "cat.pt", "dog.bin"])
    assert damaged["cat.pt"].startswith("cat.pt is a pickle, which can hold programs and is not read; a .safetensors")
    (addons.loras.root).mkdir()
    (addons.loras.root / "film.ckpt").touch()
    assert addons.loras.all()[1]["film.ckpt"].startswith("film.ckpt is not a .safetensors file")


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_what_is_no_file_does_not_stop_the_list(tmp_path: Path, suffix: str) -> None:
    path = put(tmp_path, "a")
    path.with_name(f"gone{suffix}").symlink_to(tmp_path / "nowhere")
    loop = path.with_name(f"loop{suffix}")
    loop.symlink_to(loop)
    os.mkfifo(path.with_name(f"pipe{suffix}"))
    usable, damaged = files(tmp_path).all()
    assert ([*usable], damaged) == (["a"], {})


def test_a_file_that_no_tag_can_name_is_told(tmp_path: Path) -> None:
    put(tmp_path, "a:b")
    assert files(tmp_path).all()[1]["a:b"].startswith("no tag can name a:b.safetensors; rename it: 1 to 200 printable")


def test_a_name_that_no_file_system_takes_is_refused(tmp_path: Path) -> None:
    with files(tmp_path).uploading("é" * 121) as path:
        path.touch()
    with pytest.raises(NameNotAccepted, match="of up to 243 bytes in UTF-8"), files(tmp_path).uploading("é" * 122):
        pass


def test_a_file_that_may_not_be_read_is_read_once_it_may(tmp_path: Path) -> None:
    class Forbidding(Reader):
        is_forbidden = True

        def __call__(self, name: str, path: Path) -> Facts:
            if self.is_forbidden:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return super().__call__(name, path)

    put(tmp_path, "a")
    reader = Forbidding()
    found = files(tmp_path, reader)
    assert found.all() == ({}, {"a": "a.safetensors cannot be read: Permission denied"})
    reader.is_forbidden = False
    assert found.get("a") == Facts("a", "x")


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files nobody may look at; root, who runs tests in containers, may everywhere."""
    folder = tmp_path / "private"
    stat, access = os.stat, os.access

    def is_private(path: object) -> bool:
        return isinstance(path, str | Path) and folder in Path(os.path.realpath(path)).parents

    def may_stat(path: Path, **options: Any) -> os.stat_result:
        if options.get("follow_symlinks", True) and is_private(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", may_stat)
    monkeypatch.setattr(os, "access", lambda path, mode: not is_private(path) and access(path, mode))
    return folder


def test_links_into_a_private_folder_are_told_and_do_not_stop_the_list(tmp_path: Path, private: Path) -> None:
    path = put(tmp_path, "a")
    for name in ("b.safetensors", "c.ckpt", "notes.txt"):
        path.with_name(name).symlink_to(private / name)
    usable, damaged = files(tmp_path).all()
    assert [*usable] == ["a"]
    assert damaged == {
        "b": "b.safetensors cannot be read: Permission denied",
        "c.ckpt": "c.ckpt cannot be read: Permission denied",
    }


def test_settings_beside_a_file_that_cannot_be_read_are_told(tmp_path: Path, private: Path) -> None:
    put(tmp_path, "a/adapter_model").with_name("adapter_config.json").symlink_to(private / "adapter_config.json")
    reason = "adapter_config.json cannot be read: Permission denied"
    assert files(tmp_path).all() == ({}, {"adapter_model": reason})


def test_a_file_that_may_no_longer_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a")
    found = files(tmp_path)
    assert [*found.all()[0]] == ["a"]
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda path, mode: False)
        assert found.all() == ({}, {"a": "a.safetensors cannot be read: Permission denied"})
    assert [*found.all()[0]] == ["a"]


def test_an_unknown_name_lists_what_there_is(tmp_path: Path) -> None:
    put(tmp_path, "a")
    for name in ("b", "../loras/a", ""):
        with pytest.raises(UnknownAddon, match=r"installed: a$"):
            files(tmp_path).path(name)
    for number in range(30):
        put(tmp_path, f"c{number:02}")
    with pytest.raises(UnknownAddon, match=r"installed: a, c00, .*c18 and 11 more$"):
        files(tmp_path).path("b")


def test_bundled_files_stay_and_a_file_of_the_users_takes_the_place_of_one(tmp_path: Path) -> None:
    bundled = tmp_path / "bundled" / "Ours.safetensors"
    bundled.parent.mkdir()
    bundled.write_text("ours")
    found = files(tmp_path)
    put(tmp_path, "style/a")
    assert found.all() == ({"a": Facts("a", "x"), "Ours": Facts("Ours", "ours")}, {})
    assert [found.path_inside(name) for name in found.paths()] == ["style/a.safetensors", "Ours.safetensors"]
    found.delete("a")
    with pytest.raises(BundledAddon, match="Ours comes with Anemone and stays"):
        found.delete("Ours")
    with found.uploading("ours") as upload:
        upload.write_text("mine")
        found.add(upload)
    assert found.all() == ({"ours": Facts("ours", "mine")}, {})
    found.delete("ours")
    assert found.get("Ours") == Facts("Ours", "ours")


def test_a_new_data_folder_has_the_lora_and_the_embedding_of_the_bundled_model(tmp_path: Path) -> None:
    addons = Addons(tmp_path)
    (lora,), (embedding,) = addons.loras.all()[0].values(), addons.embeddings.all()[0].values()
    assert (lora.name, lora.families, lora.text_width) == ("shapes-blackboard", ("sd1",), 128)
    assert (embedding.name, embedding.vectors, embedding.text_width) == ("shapes-sun", 2, 128)
    assert "sd1" in embedding.families


def test_an_upload_is_kept_once_it_has_been_read(tmp_path: Path) -> None:
    reader = Reader()
    found = files(tmp_path, reader)
    with found.uploading("new") as upload:
        upload.write_text("bad")
        assert found.paths() == {}
        with pytest.raises(AnemoneError, match=r"^new.safetensors is cut off$"):
            found.add(upload)
        upload.write_text("good")
        assert found.add(upload) == found.get("new") == Facts("new", "good")
        with pytest.raises(FileExistsError):
            found.add(upload)
    assert reader.reads == ["new"] * 3
    with pytest.raises(FileExistsError), found.uploading("NEW"):
        pass
    (found.root / ".upload-killed").mkdir()
    found.sweep()
    assert os.listdir(found.root) == ["new.safetensors"]
    found.delete("new")
    assert found.paths() == {}


def test_an_upload_is_kept_on_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(source))

    monkeypatch.setattr(os, "link", refuse)
    reader = Reader()
    found = files(tmp_path, reader)
    with found.uploading("new") as upload, found.uploading("new") as second:
        for path, text in ((upload, "good"), (second, "late")):
            path.write_text(text)
        found.add(upload)
        with pytest.raises(FileExistsError):
            found.add(second)
    assert found.get("new") == Facts("new", "good")
    assert reader.reads == ["new"] * 2


@pytest.mark.parametrize("name", ["", ".a", "a/b", "..", "a:0.8", "<a>", "a\n", " a", "a ", "x" * 201, 'a"'])
def test_a_name_that_a_tag_cannot_have_is_not_accepted(tmp_path: Path, name: str) -> None:
    with pytest.raises(NameNotAccepted), files(tmp_path).uploading(name):
        pass
