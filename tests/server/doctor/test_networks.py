from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from converter.manifest import FILE
from server.doctor.networks import examine
from server.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="a Mac asks Core ML, whose double is in test_on_a_mac")


def examined(folder: Path, quick: bool = True):
    return examine(folder.name, folder, Settings(), "M1", lambda *shown: None, quick=quick)


@pytest.fixture
def folder(model_folder, tmp_path):
    """A model folder to break."""
    return Path(shutil.copytree(model_folder.path, tmp_path / "bad"))


def edit(**fields: object):
    def change(folder: Path) -> None:
        manifest = json.loads((folder / FILE).read_text())
        (folder / FILE).write_text(json.dumps({**manifest, **fields}))

    return change


def package_file(network: str, name: str, content: bytes | None):
    """Replace, or remove, a file of a network's package."""

    def change(folder: Path) -> None:
        path = folder / json.loads((folder / FILE).read_text())["networks"][network][0]["path"] / name
        path.unlink()
        if content is not None:
            path.write_bytes(content)

    return change


def swapped(folder: Path) -> None:
    """Name the decoder's package as the UNet's."""
    networks = json.loads((folder / FILE).read_text())["networks"]
    decoder = networks["vae_decoder"][0]["path"]
    edit(networks=networks | {"unet": [package | {"path": decoder} for package in networks["unet"]]})(folder)


def with_another(folder: Path) -> None:
    """Give the model a network that this release does not know, as one of a later release may have."""
    networks = json.loads((folder / FILE).read_text())["networks"]
    edit(networks=networks | {"mystery": networks["vae_decoder"]})(folder)


_PROGRAM, _WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"
_BROKEN = {
    "no manifest": (lambda folder: (folder / FILE).unlink(), "not a converted model"),
    "an empty manifest": (lambda folder: (folder / FILE).write_text(""), "is not JSON"),
    "a list": (lambda folder: (folder / FILE).write_text("[]"), "format"),
    "another format": (edit(format=99), "has format 99"),
    "no networks": (edit(networks=[]), "networks: Input should be"),
    "no sizes": (edit(sizes=[]), "sizes: "),
    "a size that is none": (edit(sizes=[[7, 7]]), "for 7x7"),
    "a number for a path": (
        edit(networks={"unet": [{"path": 3, "width": 64, "height": 64, "batch": 1}]}),
        "networks.unet.0.path",
    ),
    "no package": (edit(networks={"unet": [{"path": "gone", "width": 64, "height": 64, "batch": 1}]}), "gone"),
    "a file that is no folder": (lambda folder: (shutil.rmtree(folder), folder.mkdir()), "not a converted model"),
    "a damaged program": (package_file("unet", _PROGRAM, b"\xff\xff\xff"), "unet of bad"),
    "no program": (package_file("unet", _PROGRAM, None), "unet of bad"),
    "no list of files": (package_file("vae_decoder", "Manifest.json", None), "vae_decoder of bad"),
    "another network's package": (swapped, "is not a unet: its inputs are z, without sample"),
    "no words": (lambda folder: (folder / "tokenizer/vocab.json").write_text(""), "cannot tokenize prompts"),
    "no merges": (lambda folder: (folder / "tokenizer/merges.txt").unlink(), "cannot tokenize prompts"),
    "a network that is not known": (with_another, "bad: 'mystery' is not a network"),
    "a strange list of files": (package_file("vae_decoder", "Manifest.json", b'{"rootModelIdentifier": []}'), "vae_"),
}


def test_a_checkpoint_is_not_to_be_deleted(checkpoint):
    _, (problem,) = examined(checkpoint)
    assert "not a converted model" in problem.what
    assert "delete" not in problem.remedy
    assert "anemone convert" in problem.remedy


@pytest.mark.parametrize("how", _BROKEN)
def test_a_broken_model_is_reported_with_what_to_do(folder, how):
    change, told = _BROKEN[how]
    change(folder)
    model, problems = examined(folder)
    assert model.name == "bad"
    assert problems
    assert all("bad" in problem.what and problem.remedy for problem in problems)
    assert any(told in problem.what for problem in problems)


def test_the_networks_beside_a_damaged_one_are_examined(folder):
    package_file("unet", _PROGRAM, b"\xff\xff\xff")(folder)
    model, problems = examined(folder)
    assert len(problems) == 1
    placed = {one.network: one.placed for one in model.networks}
    assert placed["unet"].problem is not None
    assert all(placed[name].problem is None for name in ("text_encoder", "vae_decoder", "vae_encoder"))


@pytest.mark.parametrize("content", [None, b"\x00" * 64], ids=["is missing", "has 64 bytes; "])
def test_missing_and_truncated_weights_are_seen_without_loading_anything(folder, content, request):
    package_file("vae_decoder", _WEIGHTS, content)(folder)
    _, (problem,) = examined(folder)
    assert problem.what.startswith("vae_decoder of bad is damaged: ")
    assert f"{_WEIGHTS} {request.node.callspec.id}" in problem.what
    assert problem.remedy.startswith("convert the model again")


def test_a_flipped_bit_is_seen_unless_the_visit_is_quick(folder):
    networks = json.loads((folder / FILE).read_text())["networks"]
    edit(networks={"vae_decoder": networks["vae_decoder"][:1]})(folder)
    weights = folder / networks["vae_decoder"][0]["path"] / _WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 1
    weights.write_bytes(content)
    assert examined(folder)[1] == []
    _, (problem,) = examined(folder, quick=False)
    assert problem.what.startswith("vae_decoder of bad is damaged: ")
    assert problem.what.endswith("weight.bin has other content than was written")


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, b"\x00" * 64], ids=["missing", "cut short"])
def test_weights_without_checksums_that_cannot_be_read_show_when_a_network_is_run(folder, content):
    manifest = json.loads((folder / FILE).read_text())
    edit(networks={"vae_decoder": manifest["networks"]["vae_decoder"][:1]}, files={})(folder)
    package_file("vae_decoder", _WEIGHTS, content)(folder)
    model, (problem,) = examined(folder, quick=False)
    assert not model.checksums
    assert problem.what.startswith("vae_decoder of bad does not run: ")
    assert problem.remedy.startswith("convert the model again")
