"""ONNX Runtime's CPU provider, on the PyTorch module exported by torch.onnx."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.peers.exported import export_once
from benchmarks.peers.step import Step, timed
from benchmarks.workload import Arrays, Workload


def _folder(workload: Workload) -> Path:
    return workload.derived("onnx") / workload.name


def prepare(workload: Workload) -> None:
    """Export once, in fp32: ONNX Runtime has few fp16 and bf16 kernels for CPUs and falls back to casts."""

    def write(folder: Path) -> None:
        import torch

        from benchmarks.peers.diffusers import MODULES

        inputs = workload.inputs()
        tensors = tuple(torch.from_numpy(array) for array in inputs.values())
        path = folder / f"{workload.name}.onnx"
        with torch.no_grad():
            module = MODULES[workload.network](workload)
            torch.onnx.export(
                module, tensors, path, input_names=list(inputs), dynamo=True, external_data=True, verbose=False
            )

    export_once(_folder(workload), write)


def load(workload: Workload) -> Step:
    """Load the session with all graph optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    path = _folder(workload) / f"{workload.name}.onnx"
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: Arrays) -> NDArray[np.float32]:
        (output,) = session.run(None, dict(inputs))
        return np.asarray(output)

    return timed(run)
