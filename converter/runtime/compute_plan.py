"""Read Core ML's compute plan: the device on which it will run each operation (MLComputePlan, macOS 14.4 and later).

This works on a Mac only. It compiles a package first, because the framework ends the process if it gets a package that
is not compiled. A caller that must survive that calls it through `converter.devices.child.in_child`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.runtime.chunks import chunk_paths
from converter.runtime.feature import PackageError

#: coremltools' classes of compute devices (models/compute_device.py) -> the devices' names.
DEVICES = {
    "MLNeuralEngineComputeDevice": "Neural Engine",
    "MLGPUComputeDevice": "GPU",
    "MLCPUComputeDevice": "CPU",
}


@dataclass(frozen=True)
class DeviceShare:
    """One device's share of a program.

    operations: the number of its operations. cost: their part of the program's estimated cost, 0 to 1; None if Core ML
    estimates no operation's cost.
    """

    device: str
    operations: int
    cost: float | None


def device_name(device: Any) -> str:
    """Return the name of coremltools' compute device."""
    name = type(device).__name__
    return DEVICES.get(name, name)


def machine_devices() -> tuple[str, ...]:
    """Return the compute devices of this Mac; a virtual machine has no Neural Engine."""
    from coremltools.models.compute_device import MLComputeDevice

    return tuple(device_name(device) for device in MLComputeDevice.get_all_compute_devices())


def _operations(block: Any) -> Iterator[Any]:
    for op in block.operations:
        yield op
        for nested in op.blocks:
            yield from _operations(nested)


def _plan(path: Path, function: str, units: str) -> Iterator[tuple[str, float | None]]:
    """Yield the device and the estimated cost of each operation of one package that has a device."""
    import coremltools as ct
    from coremltools.models.compute_plan import MLComputePlan

    from converter.runtime.coreml import compiled

    model = path if path.suffix == ".mlmodelc" else compiled(path)
    plan = MLComputePlan.load_from_path(path=str(model), compute_units=ct.ComputeUnit[units])
    program = plan.model_structure.program
    if program is None or function not in program.functions:
        raise PackageError(f"Core ML has no compute plan for {path.name}, function {function}")
    for op in _operations(program.functions[function].block):
        usage = plan.get_compute_device_usage_for_mlprogram_operation(op)
        if usage is not None and usage.preferred_compute_device is not None:
            cost = plan.get_estimated_cost_for_mlprogram_operation(op)
            yield device_name(usage.preferred_compute_device), None if cost is None else cost.weight


def device_shares(path: Path, function: str, units: str) -> tuple[DeviceShare, ...]:
    """Return each device's share in Core ML's plan of a program on a compute unit, the most costly first.

    Constants have no device and do not count; all chunks of a network do. Raises PackageError if Core ML has no
    plan: for a pipeline, or for a function that is not the package's default.
    """
    counts: dict[str, int] = {}
    costs: dict[str, float] = {}
    for chunk in chunk_paths(path):
        for device, cost in _plan(chunk, function, units):
            counts[device] = counts.get(device, 0) + 1
            costs[device] = costs.get(device, 0.0) + (cost or 0.0)
    if not counts:
        raise PackageError(f"Core ML's compute plan for {path.name}, function {function}, places no operation")
    total = sum(costs.values())
    shares = [DeviceShare(device, count, costs[device] / total if total else None) for device, count in counts.items()]
    return tuple(sorted(shares, key=lambda share: (-(share.cost or 0.0), -share.operations)))
