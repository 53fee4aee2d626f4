"""The Mac's compute devices: Core ML's plan for a program, and each device's results.

The MIL runtime predicts, with every result rounded to fp16, or to fp32 on the CPU alone. The Neural Engine adds noise to
one operation's result, which spreads through the rest of the network like a real fault.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from converter.runtime.mil import MILNetwork
from converter.runtime.program import read_model
from tests.support.mac_double.core_ml import SOURCE, ComputeUnit, Mac


class MLCPUComputeDevice:
    pass


class MLGPUComputeDevice:
    pass


class MLNeuralEngineComputeDevice:
    pass


@dataclass
class MacWithDevices(Mac):
    """A Mac whose devices differ.

    noisy: the operation whose result the engine gets wrong, and the error relative to the greatest magnitude.
    weights: whether the plan estimates costs. refused: compute units on which loading fails.
    """

    version: str = "15.1"
    noisy: tuple[str, float] | None = None
    weights: bool = True
    refused: tuple[str, ...] = ()
    devices: tuple[type, ...] = (MLCPUComputeDevice, MLGPUComputeDevice, MLNeuralEngineComputeDevice)

    def network(self, source: Path, function: str, units: ComputeUnit) -> MILNetwork:
        if units.name in self.refused:
            raise RuntimeError(f"Error in building plan for {units.name}.")
        network = MILNetwork(source, function, precision="fp32" if units.name == "CPU_ONLY" else "fp16")
        if self.noisy is not None and units.name in ("CPU_AND_NE", "ALL"):
            _noisy(network, *self.noisy)
        return network

    def modules(self) -> dict[str, types.ModuleType]:
        device = types.ModuleType("coremltools.models.compute_device")
        present = types.SimpleNamespace(get_all_compute_devices=lambda: [kind() for kind in self.devices])
        device.__dict__["MLComputeDevice"] = present
        return super().modules() | {module.__name__: module for module in (device, _plan(self))}


def _noisy(network: MILNetwork, output: str, part: float) -> None:
    """Add noise to the result of one operation of a network."""

    def noise(run: Callable[..., Any]) -> Callable[..., Any]:
        def with_noise(**given: Any) -> Any:
            exact = run(**given)
            generator = torch.Generator().manual_seed(0)
            return exact + part * exact.abs().max() * torch.randn(exact.shape, generator=generator)

        return with_noise

    assert any(output in step.outputs for step in network._steps)
    network._steps = [replace(step, run=noise(step.run)) if output in step.outputs else step for step in network._steps]


def _plan(mac: MacWithDevices) -> types.ModuleType:
    module = types.ModuleType("coremltools.models.compute_plan")

    class MLComputePlan:
        """A plan by a simple rule: casts run on the CPU, other operations on the best allowed device."""

        def __init__(self, path: str, units: ComputeUnit) -> None:
            # The framework ends the process if the path is a package (see converter.runtime.compute_plan).
            assert path.endswith(".mlmodelc")
            self._best = {"CPU_AND_NE": MLNeuralEngineComputeDevice, "CPU_AND_GPU": MLGPUComputeDevice}.get(
                units.name, MLCPUComputeDevice
            )
            functions = {}
            for name, body in read_model(Path(path, SOURCE)).mlProgram.functions.items():
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

    module.__dict__["MLComputePlan"] = MLComputePlan
    return module


def pretend(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> MacWithDevices:
    """Replace coremltools by the double, and this system by macOS, for one test."""
    mac = MacWithDevices(**settings)
    mac.install(monkeypatch)
    monkeypatch.setattr(sys, "platform", "darwin")
    return mac
