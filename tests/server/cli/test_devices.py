from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from converter.devices.comparison import DeviceComparison, _predict
from converter.errors import AnemoneError
from converter.folder import ModelFolder
from server.cli.devices import verify_devices
from server.cli.main import main
from tests.support.mac_double.devices import pretend

pytestmark = pytest.mark.slow


@pytest.fixture
def model(model_folder, tmp_path):
    """A model folder of its own, since compiled models are kept beside packages."""
    return ModelFolder.open(Path(shutil.copytree(model_folder.path, tmp_path / "tiny")))


def test_every_network_of_a_model_has_a_table(model, monkeypatch, capsys):
    pretend(monkeypatch, noisy=None)
    compared = []

    def nothing(path, function, units, run):
        compared.append(path.name)
        return DeviceComparison()

    monkeypatch.setattr("server.cli.devices.compare_devices", nothing)
    assert verify_devices(model.path) == 0
    networks = model.manifest.networks
    assert compared == [packages[0].path for packages in networks.values()]
    tables = re.findall(r"^(\w+), dB against the same program in fp32$", capsys.readouterr().out, re.M)
    assert tables == list(networks)


def test_networks_that_part_nowhere_are_told_so(model, monkeypatch, capsys):
    pretend(monkeypatch, noisy=None)
    assert verify_devices(model.path, only=["text_encoder", "vae_encoder"], run=_predict) == 0
    assert capsys.readouterr().out.count("deviates nowhere") == 6


def test_where_the_engine_parts_stands_under_its_table(model, monkeypatch, capsys):
    pretend(monkeypatch, noisy=("down_blocks_1_resnets_0_conv1", 0.1))
    assert verify_devices(model.path, only=["unet"], run=_predict) == 0
    text = capsys.readouterr().out
    assert re.search(r"^block +fp16 +CPU_ONLY +CPU_AND_GPU +CPU_AND_NE$", text, re.M)
    told = r"^CPU_AND_NE deviates at down_blocks_1_resnets_0: [\d.]+ dB; fp16 arithmetic gives [\d.]+ dB$"
    assert re.search(told, text, re.M)
    assert "CPU_AND_GPU deviates nowhere" in text


def test_a_device_that_does_not_run_a_network_fails(model, monkeypatch, capsys):
    pretend(monkeypatch)

    def run(path, function, units, inputs):
        if units == "CPU_AND_NE":
            raise AnemoneError("the process was ended by SIGKILL")
        return _predict(path, function, units, inputs)

    assert verify_devices(model.path, only=["text_encoder"], run=run) == 1
    text = capsys.readouterr().out
    assert "CPU_AND_NE does not run it: the process was ended by SIGKILL" in text
    assert re.search(r"^text_model_encoder_layers_1 +[\d.]+ +[\d.]+ +[\d.]+ +-$", text, re.M)


def test_numbers_that_are_not_finite_fail(model, monkeypatch, capsys):
    pretend(monkeypatch, noisy=("text_model_encoder_layers_1_mlp_fc1", float("inf")))
    assert verify_devices(model.path, only=["text_encoder"], run=_predict) == 1
    assert "CPU_AND_NE deviates at text_model_encoder_layers_1: not finite dB" in capsys.readouterr().out


def test_a_package_by_itself_is_compared_too(model, monkeypatch, capsys, tmp_path):
    package = tmp_path / "Somebody.mlpackage"
    shutil.copytree(model.package("vae_decoder", 64, 64), package)
    pretend(monkeypatch)
    assert verify_devices(package, run=_predict) == 0
    assert capsys.readouterr().out.startswith("Somebody.mlpackage, dB against")


def test_a_network_that_is_not_there_is_told(model, monkeypatch):
    pretend(monkeypatch)
    with pytest.raises(AnemoneError, match="has no network controlnet; accepted: text_encoder, unet"):
        verify_devices(model.path, only=["controlnet"], run=_predict)


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac compares")
def test_off_a_mac_it_is_said_what_can_be_done_here(model_folder, capsys):
    assert main(["verify", str(model_folder.path), "--device"]) == 1
    told = capsys.readouterr().err
    assert "this machine is not a Mac" in told
    assert f"anemone verify {model_folder.path} --against SOURCE" in told


def test_the_two_ways_to_verify_exclude_each_other(model_folder, capsys):
    for arguments in (["--device", "--against", "x"], []):
        with pytest.raises(SystemExit) as exited:
            main(["verify", str(model_folder.path), *arguments])
        assert exited.value.code == 2
    assert main(["verify", str(model_folder.path), "--against", "x", "--only", "unet"]) == 1
    assert "--only needs --device" in capsys.readouterr().err
    assert main(["verify", str(model_folder.path), "--device", "--ranges"]) == 1
    assert "--ranges needs --against" in capsys.readouterr().err
