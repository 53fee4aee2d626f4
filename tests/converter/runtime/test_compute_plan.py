from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from converter.runtime.compute_plan import device_shares, machine_devices
from converter.runtime.feature import PackageError
from converter.runtime.program import read_model
from tests.support.mac_double.devices import pretend


@pytest.fixture
def unet(model_folder, tmp_path):
    """A copy of the package, because compiled models stay in the same folder."""
    return Path(shutil.copytree(model_folder.package("unet", 64, 64), tmp_path / "unet.mlpackage"))


def kinds(path):
    body = read_model(path).mlProgram.functions["main"]
    return [op.type for op in body.block_specializations[body.opset].operations]


def test_operations_are_counted_by_device_and_weighted_by_cost(unet, monkeypatch):
    operations = kinds(unet)
    convs, casts, all_of_them = (
        operations.count("conv"),
        operations.count("cast"),
        sum(kind != "const" for kind in operations),
    )
    pretend(monkeypatch)
    engine, cpu = device_shares(unet, "main", "CPU_AND_NE")
    assert (engine.device, cpu.device) == ("Neural Engine", "CPU")
    assert (engine.operations, cpu.operations) == (all_of_them - casts, casts)
    assert engine.cost == pytest.approx(2 * convs / (2 * convs + casts))
    assert engine.cost + cpu.cost == pytest.approx(1)
    assert device_shares(unet, "main", "CPU_AND_GPU")[0].device == "GPU"


def test_without_estimates_there_are_counts(unet, monkeypatch):
    pretend(monkeypatch, weights=False)
    shares = device_shares(unet, "main", "CPU_AND_NE")
    assert [share.cost for share in shares] == [None, None]
    assert shares[0].operations > shares[1].operations > 0


def test_a_function_without_a_plan_raises(unet, monkeypatch):
    pretend(monkeypatch)
    with pytest.raises(PackageError, match=r"no compute plan for unet\.mlpackage, function other"):
        device_shares(unet, "other", "CPU_AND_NE")


def test_the_devices_of_a_machine_are_named(monkeypatch):
    pretend(monkeypatch)
    assert machine_devices() == ("CPU", "GPU", "Neural Engine")
