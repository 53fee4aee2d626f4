"""Run packages by Core ML, on a Mac. A package is compiled once, and the compiled model stays in the same folder.

Core ML stores its device-specialized form of a model by the compiled model's path. A model compiled to a new temporary
folder in each process would be specialized again each time: minutes for a large UNet on the Neural Engine.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.runtime.feature import check_inputs
from converter.runtime.package import fingerprint
from converter.runtime.program import own_features

#: The first macOS with hints. Our shapes never change, and a loaded model runs many times.
_HINTS_FROM = 15


def partial_of(path: Path, pid: int) -> Path:
    """Return the path that process ``pid`` compiles the package at ``path`` to, before the result is renamed."""
    return path.with_suffix(f".partial-{pid}.mlmodelc")


def compiled(path: Path) -> Path:
    """Return the compiled model ``<name>.mlmodelc`` of a package; compile it if it is missing or of another version."""
    from coremltools.models.utils import compile_model

    target, stamp = path.with_suffix(".mlmodelc"), path.with_suffix(".mlmodelc.stamp")
    current = fingerprint(path)
    if target.is_dir() and stamp.is_file() and stamp.read_text() == current:
        return target
    partial = partial_of(path, os.getpid())
    shutil.rmtree(partial, ignore_errors=True)
    try:
        compile_model(str(path), str(partial))
        stamp.unlink(missing_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        stamp.write_text(current)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _hints(function: str) -> dict[str, Any]:
    import coremltools as ct

    options: dict[str, Any] = {} if function == "main" else {"function_name": function}
    if int(platform.mac_ver()[0].partition(".")[0] or 0) >= _HINTS_FROM:
        options["optimization_hints"] = {
            "reshapeFrequency": ct.ReshapeFrequency.Infrequent,
            "specializationStrategy": ct.SpecializationStrategy.FastPrediction,
        }
    return options


class _Buffers:
    """One network's input arrays for Core ML, one for each input and shape.

    Core ML keeps references after a prediction and releases them about a second later on a thread of its own, without
    the interpreter's lock: an array without another owner then causes a segmentation fault (coremltools #2827, #2829).
    """

    def __init__(self) -> None:
        #: Locked while a prediction reads the arrays.
        self.lock = threading.Lock()
        self._arrays: dict[tuple[str, tuple[int, ...]], NDArray[Any]] = {}

    def filled(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """Return the input's buffer, filled with the array's values, fp16 as fp32.

        coremltools passes fp16 arrays to Core ML as an fp32 copy (rdar://92239209), which would have no other owner.
        """
        buffer = self._arrays.get((name, array.shape))
        if buffer is None:
            buffer = np.empty(array.shape, np.float32 if array.dtype == np.float16 else array.dtype)
            # This reference is never released: Core ML's must not be the last one, not even at the process's end.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(buffer))
            self._arrays[name, array.shape] = buffer
        buffer[...] = array
        return buffer


#: By package and function, for the life of the process: a network that is loaded again gets its earlier buffers.
_BUFFERS: dict[tuple[Path, str], _Buffers] = {}


class CoreMLNetwork:
    """A package loaded by Core ML, or one chunk of a network."""

    def __init__(self, path: Path, function: str, compute_units: str) -> None:
        import coremltools as ct

        self.inputs, self.outputs = own_features(path, function)
        model = path if path.suffix == ".mlmodelc" else compiled(path)
        units = ct.ComputeUnit[compute_units]
        self._model = ct.models.CompiledMLModel(str(model), compute_units=units, **_hints(function))
        self._buffers = _BUFFERS.setdefault((path.resolve(), function), _Buffers())

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the network once, one caller at a time; raises InputError before anything runs.

        The outputs are copies by strides: the Neural Engine pads rows, and Core ML may write to its arrays again.
        """
        arrays = check_inputs(inputs, self.inputs)
        with self._buffers.lock:
            outputs = self._model.predict({name: self._buffers.filled(name, array) for name, array in arrays.items()})
            return {name: np.array(outputs[name], feature.dtype, order="C") for name, feature in self.outputs.items()}
