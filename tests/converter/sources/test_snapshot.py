"""What a copy in the Hugging Face hub's cache is called: by its repository, not by its commit."""

from __future__ import annotations

import shutil

import pytest

from converter.apple import AppleSettings, adopt
from converter.conversion.convert import convert
from converter.options import ConvertOptions
from converter.sources.checkpoint import Checkpoint
from converter.sources.component import Component
from converter.sources.snapshot import Snapshot, file_name, folder_name, short_name
from converter.sources.source import open_source
from server.models.installed import InstalledModels
from server.models.library import model_name
from tests.support.mil_text import compiled

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(folder, cache, repo="someone/tiny"):
    """``folder`` as the hub's cache keeps it: every file a link to a blob named by its content."""
    snapshot = cache / f"models--{repo.replace('/', '--')}" / "snapshots" / COMMIT
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir(parents=True)
    for number, file in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        blob = blobs / f"{number:064x}"
        shutil.copy2(file, blob)
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return snapshot


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"models--someone--tiny/snapshots/{COMMIT}", "someone/tiny"),
        (f"models--someone--tiny/snapshots/{COMMIT}/vae", "someone/tiny"),
        (f"models--gpt2/snapshots/{COMMIT}", "gpt2"),
        (f"models--a--b-c.d_e/snapshots/{COMMIT}/original/compiled", "a/b-c.d_e"),
        ("models--someone--tiny/snapshots", "snapshots"),
        (f"datasets--someone--tiny/snapshots/{COMMIT}", COMMIT),
        (f"snapshots/{COMMIT}", COMMIT),
        ("my model", "my model"),
    ],
)
def test_a_folder_is_called_by_the_repository_it_is_a_copy_of(tmp_path, path, expected):
    folder = tmp_path / path
    folder.mkdir(parents=True)
    assert folder_name(folder) == expected
    assert short_name(folder) == expected.rpartition("/")[2]
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert folder_name(link) == expected


def test_relative_paths_and_this_folder_itself_are_understood(tmp_path, monkeypatch):
    folder = tmp_path / f"models--someone--tiny/snapshots/{COMMIT}/vae"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert [folder_name(type(folder)(p)) for p in (".", "..", "../vae")] == ["someone/tiny"] * 3


def test_a_file_is_called_by_its_repository_though_it_links_to_a_blob(tmp_path):
    (tmp_path / "given" / "sub").mkdir(parents=True)
    for name in ("v1.5.safetensors", "sub/v2.safetensors"):
        (tmp_path / "given" / name).write_bytes(b"x")
    snapshot = cached(tmp_path / "given", tmp_path / "cache")
    assert file_name(snapshot / "v1.5.safetensors") == "someone/tiny/v1.5"
    assert file_name(snapshot / "sub/v2.safetensors") == "someone/tiny/sub/v2"
    assert file_name(tmp_path / "given/v1.5.safetensors") == "v1.5"
    assert Snapshot.of(tmp_path / "given/v1.5.safetensors") is None
    assert model_name(snapshot / "v1.5.safetensors") == "v1.5"


def test_a_checkpoint_in_the_cache_is_the_one_it_was_downloaded_from(checkpoint, tmp_path):
    snapshot = cached(checkpoint, tmp_path)
    actual, original = open_source(snapshot), Checkpoint.open(checkpoint)
    assert (actual.name, actual.kind) == ("someone/tiny", "diffusers")
    # Links are followed: the blobs' bytes, sizes and times are what was copied.
    assert (actual.sha256, actual.stamp) == (original.sha256, original.stamp)
    assert model_name(snapshot) == "tiny"


def test_a_network_in_the_cache_has_its_repositorys_name(checkpoint, tmp_path):
    snapshot = cached(checkpoint, tmp_path)
    assert Component.open(snapshot / "vae").name == "tiny"
    assert Component.open(snapshot, within="vae").name == "tiny"
    assert Component.open(checkpoint / "vae").name == "vae"


def test_apples_packages_in_the_cache_have_their_repositorys_name_and_are_served_by_it(checkpoint, tmp_path):
    ours = convert(checkpoint, tmp_path / "ours", ConvertOptions(verify=False))
    packages = tmp_path / "given" / "original" / "compiled"
    packages.mkdir(parents=True)
    names = {"text_encoder": "TextEncoder", "unet": "Unet", "vae_decoder": "VAEDecoder", "vae_encoder": "VAEEncoder"}
    for network, (package, *_) in ours.manifest.networks.items():
        compiled(ours.path / package.path, packages / f"{names[network]}.mlmodelc")
    snapshot = cached(tmp_path / "given", tmp_path / "cache")
    settings = AppleSettings(prediction_type="epsilon", vae_scaling_factor=0.18215, tokenizer=checkpoint / "tokenizer")
    model = adopt(snapshot / "original" / "compiled", settings)
    assert model.manifest.name == "someone/tiny"
    assert model.manifest.source.path_or_id == "someone/tiny"
    assert InstalledModels(tmp_path / "data", (model.path,)).names() == ("tiny",)
