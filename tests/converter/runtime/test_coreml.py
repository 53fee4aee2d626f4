"""The Core ML backend against a double of coremltools that is as strict as the real one on a Mac."""

from __future__ import annotations

import enum
import json
import os
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from cut import cut

from converter.runtime import InputError, load
from converter.runtime.coreml import CoreMLNetwork, compiled
from converter.runtime.mil import MILNetwork


class ComputeUnit(enum.Enum):
    ALL = 1
    CPU_AND_GPU = 2
    CPU_ONLY = 3
    CPU_AND_NE = 4


class ReshapeFrequency(enum.Enum):
    Frequent = 1
    Infrequent = 2


class SpecializationStrategy(enum.Enum):
    Default = 1
    FastPrediction = 2


class Mac:
    """What the double has seen, and the macOS it plays."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.compilations: list[str] = []
        self.loads: list[tuple[str, str, dict[str, object]]] = []


class CompiledMLModel:
    """coremltools 9.0's class, its checks and Core ML's own; predictions come from the MIL runtime."""

    mac: Mac

    def __init__(self, path, compute_units=ComputeUnit.ALL, function_name=None, optimization_hints=None, asset=None):
        if not isinstance(path, str):
            raise TypeError('The "path" parameter must be of type "str".')
        if not isinstance(compute_units, ComputeUnit):
            raise TypeError('The "compute_units" parameter must be of type: "coremltools.ComputeUnit".')
        if function_name is not None and not isinstance(function_name, str):
            raise TypeError('The "function_name" parameter must be of type "str".')
        if optimization_hints and int(self.mac.version.split(".")[0]) < 15:
            raise ValueError("Optimization hints are only available on macOS >= 15.0")
        for key, value in (optimization_hints or {}).items():
            kinds = {"reshapeFrequency": ReshapeFrequency, "specializationStrategy": SpecializationStrategy}
            if not isinstance(value, kinds[key]):
                raise TypeError(key)
        if not path.endswith(".mlmodelc") or not os.path.isdir(path):
            raise RuntimeError(f"unable to load {path}: not a compiled model")
        self.mac.loads.append((path, compute_units.name, optimization_hints or {}))
        self._network = MILNetwork(Path(path, "source.mlpackage"))

    def predict(self, data, state=None):
        if type(data) is not dict:
            raise TypeError('"data" parameter must be either a dict or list of dict.')
        for name, feature in self._network.inputs.items():
            if name not in data:
                raise RuntimeError(f"Feature {name} is required but not specified.")
            value = data[name]
            if value.shape != feature.shape:
                raise RuntimeError(f"MultiArray shape {value.shape} does not match the shape {feature.shape}")
            if value.dtype not in (np.float32, np.float64, np.int32):
                raise TypeError(f"{name}: the proxy takes no {value.dtype}")
        if extra := set(data) - set(self._network.inputs):
            raise KeyError(f"Provided keys {extra} do not match any of the model inputs")
        return self._network.predict(data)


@pytest.fixture(params=["13.6", "15.1"])
def mac(request, monkeypatch):
    found = Mac(request.param)
    ct = types.ModuleType("coremltools")
    models, utils = types.ModuleType("coremltools.models"), types.ModuleType("coremltools.models.utils")
    ct.ComputeUnit, ct.ReshapeFrequency, ct.SpecializationStrategy = (
        ComputeUnit,
        ReshapeFrequency,
        SpecializationStrategy,
    )
    ct.models, models.utils = models, utils
    models.CompiledMLModel = type("CompiledMLModel", (CompiledMLModel,), {"mac": found})

    def compile_model(model, destination_path=None):
        assert isinstance(model, str)
        assert destination_path.endswith(".mlmodelc")
        shutil.copytree(model, os.path.join(destination_path, "source.mlpackage"))
        found.compilations.append(model)
        return destination_path

    utils.compile_model = compile_model
    for module in (ct, models, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("platform.mac_ver", lambda: (found.version, ("", "", ""), "arm64"))
    return found


@pytest.fixture
def unet(model_folder, tmp_path):
    path = tmp_path / "unet.mlpackage"
    shutil.copytree(model_folder.package("unet", 64, 64), path)
    return path


def given():
    rng = np.random.default_rng(0)
    shapes = {"sample": (2, 4, 8, 8), "timestep": (2,), "encoder_hidden_states": (2, 32, 1, 77)}
    return {name: rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}


def test_a_prediction_has_the_declared_outputs(mac, unet):
    network = CoreMLNetwork(unet, "main", "CPU_AND_NE")
    found = network.predict(given())
    assert list(found) == ["noise_pred"]
    assert found["noise_pred"].dtype == np.float32
    np.testing.assert_array_equal(found["noise_pred"], MILNetwork(unet).predict(given())["noise_pred"])


def test_the_compute_units_asked_for_are_used(mac, unet):
    CoreMLNetwork(unet, "main", "CPU_AND_GPU")
    assert mac.loads[0][1] == "CPU_AND_GPU"


def test_hints_are_given_from_macos_15_on_and_not_before(mac, unet):
    CoreMLNetwork(unet, "main", "CPU_AND_NE")
    hints = mac.loads[0][2]
    if mac.version.startswith("13"):
        assert hints == {}
    else:
        assert hints == {
            "reshapeFrequency": ReshapeFrequency.Infrequent,
            "specializationStrategy": SpecializationStrategy.FastPrediction,
        }


def test_a_model_is_compiled_once_and_always_loaded_from_the_same_path(mac, unet):
    for _ in range(2):
        CoreMLNetwork(unet, "main", "CPU_AND_NE")
    assert len(mac.compilations) == 1
    assert {path for path, _, _ in mac.loads} == {str(unet.with_suffix(".mlmodelc"))}


def test_a_package_that_was_replaced_is_compiled_again(mac, unet):
    compiled(unet)
    weights = unet / "Data/com.apple.CoreML/weights/weight.bin"
    os.utime(weights, (1, 1))
    compiled(unet)
    assert len(mac.compilations) == 2


def test_a_compilation_that_fails_leaves_nothing_behind(mac, unet, monkeypatch):
    def failing(model, destination_path=None):
        os.mkdir(destination_path)
        raise RuntimeError("Error compiling model")

    monkeypatch.setattr(sys.modules["coremltools.models.utils"], "compile_model", failing)
    with pytest.raises(RuntimeError, match="Error compiling"):
        compiled(unet)
    assert [p.name for p in unet.parent.iterdir()] == ["unet.mlpackage"]


def test_a_wrong_input_is_refused_before_core_ml_sees_it(mac, unet):
    network = CoreMLNetwork(unet, "main", "CPU_AND_NE")
    with pytest.raises(InputError, match="sample has shape"):
        network.predict({**given(), "sample": np.zeros((1, 4, 8, 8), np.float16)})


def test_a_model_that_comes_compiled_is_loaded_as_it_is(mac, unet):
    path = unet.with_name("Unet.mlmodelc")
    shutil.copytree(unet, path / "source.mlpackage")
    (path / "model.mil").write_text("program(1.0)\n")
    shapes = {name: array.shape for name, array in given().items()}
    schema = [{"name": n, "dataType": "Float16", "shape": str(list(shape))} for n, shape in shapes.items()]
    about = {"inputSchema": schema, "outputSchema": [{"name": "noise_pred", "dataType": "Float32", "shape": "[]"}]}
    (path / "metadata.json").write_text(json.dumps([about]))
    found = CoreMLNetwork(path, "main", "CPU_AND_NE").predict(given())
    assert mac.compilations == []
    assert mac.loads[0][0] == str(path)
    np.testing.assert_array_equal(found["noise_pred"], MILNetwork(unet).predict(given())["noise_pred"])


@pytest.fixture(scope="module")
def halves(model_folder, tmp_path_factory):
    return cut(model_folder.package("unet", 64, 64), tmp_path_factory.mktemp("halves"))


def test_halves_are_models_of_their_own_to_core_ml(halves, mac, unet, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    network = load(halves[0])
    assert [path for path, _, _ in mac.loads] == [str(path.with_suffix(".mlmodelc")) for path in halves]
    assert list(network.inputs) == list(given())
    found = network.predict(given())
    assert list(found) == ["noise_pred"]
    np.testing.assert_array_equal(found["noise_pred"], MILNetwork(unet).predict(given())["noise_pred"])
