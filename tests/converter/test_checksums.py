"""Damage to a model folder's files: named by the file, whatever it is, and looked for once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from converter import checksums
from converter.checksums import checksum, wrong_content, wrong_size
from converter.conversion.convert import convert
from converter.errors import DamagedModel, ManifestError
from converter.folder import ModelFolder
from converter.manifest import FILE
from converter.options import ConvertOptions
from converter.weights.blob import BlobWriter

WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture
def folder(model_folder: ModelFolder, tmp_path: Path) -> Path:
    """A model folder to damage, with each file and package of its own."""
    # Other tests compare the shared folder, which notes in it what was right.
    ignored = shutil.ignore_patterns(".anemone-checked*")
    return Path(shutil.copytree(model_folder.path, tmp_path / "m", ignore=ignored))


def weights(folder: Path) -> Path:
    return ModelFolder.read(folder).package("unet", 64, 64) / WEIGHTS


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_conversion_writes_the_checksum_of_every_file(model_folder: ModelFolder) -> None:
    files = [p for p in model_folder.path.rglob("*") if p.is_file() and p.parent != model_folder.path]
    sums = model_folder.manifest.files
    assert sorted(sums) == sorted(p.relative_to(model_folder.path).as_posix() for p in files)
    for path in files:
        expected = sums[path.relative_to(model_folder.path).as_posix()]
        content = path.read_bytes()
        rotated = content[expected.begin :] + content[: expected.begin]
        assert (expected.bytes, expected.sha256) == (len(content), hashlib.sha256(rotated).hexdigest())
        assert checksum(path, expected.begin) == expected


def test_weights_are_hashed_as_they_are_written(tmp_path: Path) -> None:
    with BlobWriter(tmp_path / "weight.bin") as writer:
        for count in (1, 33, 200_000):
            writer.write(np.arange(count, dtype=np.float32))
    assert writer.sum == checksum(tmp_path / "weight.bin", begin=64)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def replaced_by(make) -> object:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


def looped(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Path.unlink, "is missing"),
        (truncated, "has [0-9]+ bytes; [0-9]+ were written"),
        (replaced_by(looped), "is a link that leads to itself"),
        (replaced_by(Path.mkdir), "is not a file"),
        (replaced_by(os.mkfifo), "is not a file"),
    ],
)
def test_a_damaged_file_is_named_with_the_cure_as_the_folder_is_opened(folder: Path, change, words: str) -> None:
    damaged = weights(folder)
    change(damaged)
    name = damaged.relative_to(folder)
    with pytest.raises(DamagedModel, match=rf"/m is damaged: {name} {words}; convert tiny again: `anemone convert"):
        ModelFolder.open(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (shutil.rmtree, "is missing"),
        (lambda p: (shutil.rmtree(p), p.touch()), "is a file; a package is a folder"),
        (lambda p: (shutil.rmtree(p), looped(p)), "is a link that leads to itself"),
    ],
)
def test_a_damaged_package_is_named_with_or_without_checksums(folder: Path, change, words: str) -> None:
    package = ModelFolder.read(folder).package("unet", 64, 64)
    change(package)
    for _ in range(2):
        with pytest.raises(DamagedModel, match=rf"{package.name} {words}"):
            ModelFolder.open(folder)
        manifest = json.loads((folder / FILE).read_text())
        (folder / FILE).write_text(json.dumps(manifest | {"files": {}}))


def test_a_file_that_may_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelFolder.open(folder)
    # As root, which tests may run as, every file can be read.
    monkeypatch.setattr(checksums.os, "access", lambda path, mode: not str(path).endswith("vocab.json"))
    with pytest.raises(DamagedModel, match=r"tokenizer/vocab\.json cannot be read \(permission denied\)"):
        ModelFolder.open(folder)

    def refused(path: Path, *rest: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(checksums, "checksum", refused)
    assert str(wrong_content(folder, model.files("tokenizer"))).endswith("cannot be read (permission denied)")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Path.unlink, "is not a converted model: it has no anemone.json"),
        (lambda p: os.truncate(p, 100), "is not JSON"),
        (lambda p: p.write_bytes(b"\xff\x00junk"), "is not JSON"),
        (replaced_by(Path.mkdir), r"anemone\.json cannot be read \(is a directory\)"),
        (replaced_by(looped), r"anemone\.json is a link that leads to itself"),
    ],
)
def test_a_damaged_manifest_is_named(folder: Path, change, words: str) -> None:
    change(folder / FILE)
    with pytest.raises(ManifestError, match=words):
        ModelFolder.open(folder)


def test_a_file_is_no_model_folder(folder: Path) -> None:
    with pytest.raises(ManifestError, match="is not a converted model"):
        ModelFolder.open(folder / FILE)


def test_a_flipped_bit_is_found_once_the_files_time_changed_and_nothing_is_read_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelFolder.open(folder)
    read: list[Path] = []

    def counted(path: Path, *rest: object) -> object:
        read.append(path)
        return checksum(path, *rest)

    monkeypatch.setattr(checksums, "checksum", counted)
    model.compare()
    # Two sizes of the UNet share a weights file, and so on; it is read once.
    assert len({p.stat().st_ino for p in read}) == len(read) > 5
    read.clear()
    model.compare()
    assert read == []
    flip(weights(folder))
    for _ in range(2):
        with pytest.raises(DamagedModel, match=r"weight\.bin has other content than was written; convert tiny again"):
            model.compare()
        assert [p.name for p in read] == ["weight.bin"]
        read.clear()
    flip(weights(folder))
    model.compare()
    model.compare(again=True)


def test_a_folder_that_cannot_be_written_is_compared_each_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, content: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "write_bytes", refused)
    model = ModelFolder.open(folder)
    model.compare()
    model.compare()
    assert not list(folder.glob(".anemone-checked*"))


def test_damage_in_the_record_of_what_was_compared_costs_a_comparison(folder: Path) -> None:
    model = ModelFolder.open(folder)
    model.compare()
    (folder / ".anemone-checked.json").write_text("{")
    model.compare()
    assert (folder / ".anemone-checked.json").read_text() != "{"


def test_a_size_is_compared_without_reading(folder: Path) -> None:
    files = ModelFolder.open(folder).manifest.files
    flip(weights(folder))
    assert wrong_size(folder, files) is None


@pytest.mark.slow
def test_a_network_of_a_cut_off_conversion_that_was_damaged_since_is_converted_again(
    checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def cut_off(progress) -> None:
        if progress.item == "vae_decoder":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, out, ConvertOptions(name="m", verify=False), cut_off)
    (damaged,) = (tmp_path / ".out.partial").glob("*unet.mlpackage")
    flip(damaged / WEIGHTS)
    seen = []
    model = convert(checkpoint, out, ConvertOptions(name="m", verify=False), seen.append)
    items = [p.item for p in seen]
    assert items.count("text_encoder") == 1  # only the word that it is done
    assert items.count("unet") > 1
    model.compare(again=True)
