"""A double of coremltools on a Mac for what compares its devices: compiles, predicts, plans.

Predictions come from the MIL runtime with every result rounded to fp16. The Neural Engine of the double adds noise to
one operation's result, from where it spreads through the rest of the network as a real fault would.
"""

from __future__ import annotations

import enum
import shutil
import sys
import types
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.runtime.mil import MILNetwork
from converter.runtime.program import read_model

_SOURCE = "source.mlpackage"


class ComputeUnit(enum.Enum):
    ALL = 1
    CPU_AND_GPU = 2
    CPU_ONLY = 3
    CPU_AND_NE = 4


class MLCPUComputeDevice:
    pass


class MLGPUComputeDevice:
    pass


class MLNeuralEngineComputeDevice:
    pass


@dataclass
class FakeMac:
    """What the double is set to and has seen.

    noisy: the operation whose result the engine gets wrong, and by how much of its greatest magnitude.
    weights: whether the plan estimates costs. refused: compute units at which nothing loads.
    """

    noisy: tuple[str, float] | None = None
    weights: bool = True
    refused: tuple[str, ...] = ()
    devices: tuple[type, ...] = (MLCPUComputeDevice, MLGPUComputeDevice, MLNeuralEngineComputeDevice)
    loads: list[tuple[str, str]] = field(default_factory=list)


def _noisy(network: MILNetwork, output: str, part: float) -> None:
    """Have one operation of a network give noise on top of its result."""

    def noise(run):
        def with_noise(**given):
            exact = run(**given)
            generator = torch.Generator().manual_seed(0)
            return exact + part * exact.abs().max() * torch.randn(exact.shape, generator=generator)

        return with_noise

    assert any(output in step.outputs for step in network._steps)
    network._steps = [replace(step, run=noise(step.run)) if output in step.outputs else step for step in network._steps]


def _compiled_model(mac: FakeMac) -> type:
    class CompiledMLModel:
        def __init__(self, path: str, compute_units: ComputeUnit = ComputeUnit.ALL, **hints: Any) -> None:
            assert path.endswith(".mlmodelc")
            assert "function_name" not in hints or hints["function_name"] != "main"
            mac.loads.append((path, compute_units.name))
            if compute_units.name in mac.refused:
                raise RuntimeError(f"Error in building plan for {compute_units.name}.")
            precision = "fp32" if compute_units.name == "CPU_ONLY" else "fp16"
            self._network = MILNetwork(Path(path, _SOURCE), hints.get("function_name", "main"), precision=precision)
            if mac.noisy is not None and compute_units.name in ("CPU_AND_NE", "ALL"):
                _noisy(self._network, *mac.noisy)

        def predict(self, data: dict[str, np.ndarray], state: Any = None) -> dict[str, np.ndarray]:
            for value in data.values():
                assert value.dtype in (np.float32, np.float64, np.int32)
            return self._network.predict(data)

    return CompiledMLModel


def _plan(mac: FakeMac) -> types.ModuleType:
    module = types.ModuleType("coremltools.models.compute_plan")

    class MLComputePlan:
        """A plan by a rule anybody can follow: what computes in fp32 or turns types is the CPU's, the rest not."""

        def __init__(self, path: str, units: ComputeUnit) -> None:
            # The framework ends the process where it is given a package (see converter.runtime.compute_plan).
            assert path.endswith(".mlmodelc")
            self._best = {"CPU_AND_NE": MLNeuralEngineComputeDevice, "CPU_AND_GPU": MLGPUComputeDevice}.get(
                units.name, MLCPUComputeDevice
            )
            functions = {}
            for name, body in read_model(Path(path, _SOURCE)).mlProgram.functions.items():
                operations = [
                    types.SimpleNamespace(operator_name=op.type, blocks=[], outputs=[o.name for o in op.outputs])
                    for op in body.block_specializations[body.opset].operations
                ]
                functions[name] = types.SimpleNamespace(block=types.SimpleNamespace(operations=operations))
            self.model_structure = types.SimpleNamespace(program=types.SimpleNamespace(functions=functions))

        @classmethod
        def load_from_path(cls, path: str, compute_units: ComputeUnit = ComputeUnit.ALL) -> MLComputePlan:
            return cls(path, compute_units)

        def get_compute_device_usage_for_mlprogram_operation(self, operation: Any) -> Any:
            if operation.operator_name == "const":
                return None
            kind = MLCPUComputeDevice if operation.operator_name == "cast" else self._best
            return types.SimpleNamespace(preferred_compute_device=kind(), supported_compute_devices=[kind()])

        def get_estimated_cost_for_mlprogram_operation(self, operation: Any) -> Any:
            if not mac.weights or operation.operator_name == "const":
                return None
            return types.SimpleNamespace(weight={"conv": 0.02, "cast": 0.01}.get(operation.operator_name, 0.0))

    module.MLComputePlan = MLComputePlan
    return module


def pretend(monkeypatch: pytest.MonkeyPatch, **told: Any) -> FakeMac:
    """Put the double in coremltools' place, and macOS in this system's, for one test."""
    mac = FakeMac(**told)
    ct, models = types.ModuleType("coremltools"), types.ModuleType("coremltools.models")
    utils, device = types.ModuleType("coremltools.models.utils"), types.ModuleType("coremltools.models.compute_device")

    def compile_model(model: str, destination_path: str) -> str:
        shutil.copytree(model, Path(destination_path, _SOURCE))
        return destination_path

    class MLComputeDevice:
        @classmethod
        def get_all_compute_devices(cls) -> list[Any]:
            return [kind() for kind in mac.devices]

    ct.ComputeUnit, ct.models, utils.compile_model = ComputeUnit, models, compile_model
    ct.ReshapeFrequency = types.SimpleNamespace(Infrequent=1)
    ct.SpecializationStrategy = types.SimpleNamespace(FastPrediction=1)
    models.CompiledMLModel, device.MLComputeDevice = _compiled_model(mac), MLComputeDevice
    for module in (ct, models, utils, device, _plan(mac)):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("platform.mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    monkeypatch.setattr(sys, "platform", "darwin")
    return mac
