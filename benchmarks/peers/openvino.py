"""OpenVINO's CPU plugin, on the PyTorch module converted by OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from benchmarks.peers.exported import export_once
from benchmarks.peers.step import Step, timed
from benchmarks.workload import Arrays, Workload


def _folder(workload: Workload) -> Path:
    return workload.derived("openvino") / workload.name


def prepare(workload: Workload, **settings: Any) -> None:
    """Export once, with the weights in fp16, OpenVINO's default (the values are fp16's anyway)."""

    def write(folder: Path) -> None:
        import torch

        from benchmarks.peers.diffusers import MODULES

        tensors = tuple(torch.from_numpy(array) for array in workload.inputs().values())
        with torch.no_grad():
            module = MODULES[workload.network](workload)
            model = openvino.convert_model(module, example_input=tensors, input=[tuple(t.shape) for t in tensors])
        openvino.save_model(model, folder / f"{workload.name}.xml")

    export_once(_folder(workload), write)


def load(workload: Workload, *, precision: str) -> Step:
    """Load the compiled model; ``precision`` is OpenVINO's inference precision hint: f32 or bf16."""
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(_folder(workload) / f"{workload.name}.xml", "CPU", settings)

    def run(inputs: Arrays) -> NDArray[np.float32]:
        return np.array(model(list(inputs.values()))[0])

    return timed(run)
