"""A package run by Core ML, on a Mac: compiled once, the compiled model kept beside the package.

Core ML keeps its device-specialised form of a model by the compiled model's path, so a model compiled to a new
temporary folder in each process is specialised anew each time: minutes for a large UNet on the Neural Engine.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.runtime.feature import checked
from converter.runtime.program import own_features

#: Hints exist from macOS 15 on; our shapes never change, and a model runs many times once loaded.
_HINTS_FROM = 15


def _fingerprint(path: Path) -> str:
    """Changes whenever the package's program or weights are replaced."""
    data = path / "Data" / "com.apple.CoreML"
    digest = hashlib.sha256((data / "model.mlmodel").read_bytes())
    weights = data / "weights" / "weight.bin"
    if weights.is_file():
        about = weights.stat()
        digest.update(f"{about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()


def compiled(path: Path) -> Path:
    """The package's compiled form, ``<name>.mlmodelc`` beside it; made if it is missing or of another package."""
    from coremltools.models.utils import compile_model

    target, stamp = path.with_suffix(".mlmodelc"), path.with_suffix(".mlmodelc.stamp")
    fingerprint = _fingerprint(path)
    if target.is_dir() and stamp.is_file() and stamp.read_text() == fingerprint:
        return target
    partial = path.with_suffix(f".partial-{os.getpid()}.mlmodelc")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        compile_model(str(path), str(partial))
        stamp.unlink(missing_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        stamp.write_text(fingerprint)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _hints(function: str) -> dict[str, Any]:
    import coremltools as ct

    found: dict[str, Any] = {} if function == "main" else {"function_name": function}
    if int(platform.mac_ver()[0].partition(".")[0] or 0) >= _HINTS_FROM:
        found["optimization_hints"] = {
            "reshapeFrequency": ct.ReshapeFrequency.Infrequent,
            "specializationStrategy": ct.SpecializationStrategy.FastPrediction,
        }
    return found


class CoreMLNetwork:
    """A package loaded by Core ML; of a network cut in two, one half."""

    def __init__(self, path: Path, function: str, compute_units: str) -> None:
        import coremltools as ct

        self.inputs, self.outputs = own_features(path, function)
        ready = path if path.suffix == ".mlmodelc" else compiled(path)
        units = ct.ComputeUnit[compute_units]
        self._model = ct.models.CompiledMLModel(str(ready), compute_units=units, **_hints(function))

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the network once; raises InputError before anything runs."""
        given = {}
        for name, array in checked(inputs, self.inputs).items():
            # coremltools hands fp16 arrays to Core ML as fp32 (rdar://92239209); the values are fp16's all the same.
            given[name] = array.astype(np.float32) if array.dtype == np.float16 else array
        found = self._model.predict(given)
        return {name: np.asarray(found[name], feature.dtype) for name, feature in self.outputs.items()}
