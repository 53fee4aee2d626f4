"""The doctor with the double of Core ML, in this process, because a child process would not have the double."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from converter.devices import trials
from converter.devices.timing import _timed
from converter.devices.trials import Verdict, record
from converter.folder import ModelFolder
from converter.manifest import FILE
from server.doctor import machine, networks
from server.doctor.networks import examine
from server.settings import Settings
from tests.support.mac_double.devices import MLCPUComputeDevice, MLGPUComputeDevice, pretend


@pytest.fixture
def mac(monkeypatch):
    actual = pretend(monkeypatch)
    for module in (machine, networks):
        monkeypatch.setattr(module, "in_child", lambda work, *arguments: work(*arguments))
        monkeypatch.setattr(networks, "timed", _timed)
    for module in (machine, trials):
        monkeypatch.setattr(module, "this_machine", lambda: "Apple M2 Pro, macOS 15.1 (24B83)")
    return actual


@pytest.fixture
def model(model_folder, tmp_path):
    """A model folder of its own, since compiled models are kept beside packages."""
    return ModelFolder.open(Path(shutil.copytree(model_folder.path, tmp_path / "tiny")))


def examined(folder, quick=False, **told):
    return examine("tiny", folder.path, Settings(**told), "M1", lambda *shown: None, quick=quick)


def test_what_a_network_runs_on_is_core_mls_own_plan(model, mac):
    actual, problems = examined(model)
    assert problems == []
    assert [one.network for one in actual.networks] == ["text_encoder", "unet", "vae_decoder", "vae_encoder"]
    for one in actual.networks:
        assert (one.placed.source, one.placed.chip) == ("compute plan", None)
        assert one.timing is not None
    devices = {one.network: one.placed.shares[0].device for one in actual.networks}
    assert devices == {
        **dict.fromkeys(("text_encoder", "unet"), "Neural Engine"),
        **dict.fromkeys(("vae_decoder", "vae_encoder"), "GPU"),
    }


def test_a_network_is_loaded_on_the_compute_units_that_the_settings_say(model, mac):
    actual, _ = examined(model, compute_units={"default": "CPU_ONLY", "unet": "CPU_AND_GPU"})
    units = {one.network: one.compute_units for one in actual.networks}
    assert units == {
        "text_encoder": "CPU_ONLY",
        "unet": "CPU_AND_GPU",
        "vae_decoder": "CPU_ONLY",
        "vae_encoder": "CPU_ONLY",
    }
    assert [loaded for _, loaded, _ in mac.loads] == list(units.values())
    devices = {one.network: one.placed.shares[0].device for one in actual.networks}
    assert (devices["unet"], devices["vae_decoder"]) == ("GPU", "CPU")


def failed(model, network, *units):
    package = model.manifest.networks[network][0]
    for one in units:
        record(model.path, Verdict(network, package.path, "main", one, False, "killed by SIGKILL", 2.5, None))


def test_a_network_moves_on_from_units_that_a_trial_failed_on(model, mac):
    failed(model, "unet", "CPU_AND_NE")
    actual, problems = examined(model, quick=True)
    assert problems == []
    units = {one.network: one.compute_units for one in actual.networks}
    assert (units["text_encoder"], units["unet"]) == ("CPU_AND_NE", "CPU_AND_GPU")


def test_a_network_that_runs_on_no_unit_is_wrong(model, mac):
    failed(model, "unet", "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY")
    actual, (problem,) = examined(model, quick=True)
    assert "unet" not in [one.network for one in actual.networks]
    assert problem.what.startswith("unet of tiny failed on all allowed compute units (")
    assert "CPU_AND_NE: killed by SIGKILL" in problem.what
    assert "anemone-trials.json" in problem.remedy


def test_numbers_that_are_not_finite_are_wrong(model, mac):
    manifest = json.loads((model.path / FILE).read_text())
    manifest["networks"] = {"text_encoder": manifest["networks"]["text_encoder"]}
    (model.path / FILE).write_text(json.dumps(manifest))
    mac.noisy = ("text_model_encoder_layers_0_mlp_fc1", float("inf"))
    _, (problem,) = examined(ModelFolder.open(model.path))
    assert problem.what == "the results of text_encoder of tiny are not finite"
    assert "--device" in problem.remedy


def test_a_virtual_mac_has_no_engine(mac):
    mac.devices = (MLCPUComputeDevice, MLGPUComputeDevice)
    actual, problems = machine.machine()
    assert problems == []
    assert actual.devices == ("CPU", "GPU")
    assert actual.system == "Apple M2 Pro, macOS 15.1 (24B83)"


def test_a_mac_needs_no_kernels(mac):
    actual = machine.kernel_state()
    assert not actual.usable
    assert actual.why == "on a Mac, Core ML runs networks without them"
