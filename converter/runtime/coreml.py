"""A package run by Core ML, on a Mac: compiled once, the compiled model kept beside the package.

Core ML keeps its device-specialised form of a model by the compiled model's path, so a model compiled to a new
temporary folder in each process is specialised anew each time: minutes for a large UNet on the Neural Engine.
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

from converter.runtime.feature import checked
from converter.runtime.package import fingerprint
from converter.runtime.program import own_features

#: Hints exist from macOS 15 on; our shapes never change, and a model runs many times once loaded.
_HINTS_FROM = 15


def partial_of(path: Path, pid: int) -> Path:
    """Return the path that process ``pid`` compiles the package at ``path`` to, before the result is renamed."""
    return path.with_suffix(f".partial-{pid}.mlmodelc")


def compiled(path: Path) -> Path:
    """Return the package's compiled form, ``<name>.mlmodelc`` beside it; made if it is missing or of another package."""
    from coremltools.models.utils import compile_model

    target, stamp = path.with_suffix(".mlmodelc"), path.with_suffix(".mlmodelc.stamp")
    now = fingerprint(path)
    if target.is_dir() and stamp.is_file() and stamp.read_text() == now:
        return target
    partial = partial_of(path, os.getpid())
    shutil.rmtree(partial, ignore_errors=True)
    try:
        compile_model(str(path), str(partial))
        stamp.unlink(missing_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        stamp.write_text(now)
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

    Core ML keeps them after a prediction and releases them about a second later on a thread of its own, without
    the interpreter's lock: an array without another owner is then a segmentation fault (coremltools #2827 and #2829).
    """

    def __init__(self) -> None:
        #: Locked while a prediction reads them.
        self.lock = threading.Lock()
        self._arrays: dict[tuple[str, tuple[int, ...]], NDArray[Any]] = {}

    def filled(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """Return the input's buffer with the array's values, fp16 as fp32.

        coremltools hands fp16 arrays to Core ML as fp32 (rdar://92239209) in a copy of its own, which would have no other owner.
        """
        buffer = self._arrays.get((name, array.shape))
        if buffer is None:
            buffer = np.empty(array.shape, np.float32 if array.dtype == np.float16 else array.dtype)
            # One reference that is never released: Core ML's must not be the last, at the process's end either.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(buffer))
            self._arrays[name, array.shape] = buffer
        buffer[...] = array
        return buffer


#: By package and function, for the life of the process: a network that is unloaded and loaded again takes its old ones.
_BUFFERS: dict[tuple[Path, str], _Buffers] = {}


class CoreMLNetwork:
    """A package loaded by Core ML; of a network cut in two, one half."""

    def __init__(self, path: Path, function: str, compute_units: str) -> None:
        import coremltools as ct

        self.inputs, self.outputs = own_features(path, function)
        ready = path if path.suffix == ".mlmodelc" else compiled(path)
        units = ct.ComputeUnit[compute_units]
        self._model = ct.models.CompiledMLModel(str(ready), compute_units=units, **_hints(function))
        self._buffers = _BUFFERS.setdefault((path.resolve(), function), _Buffers())

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the network once, one caller at a time; raises InputError before anything runs.

        The outputs are copies, made by strides: the Neural Engine pads rows, and Core ML may write to its arrays again.
        """
        given = checked(inputs, self.inputs)
        with self._buffers.lock:
            found = self._model.predict({name: self._buffers.filled(name, array) for name, array in given.items()})
            return {name: np.array(found[name], feature.dtype, order="C") for name, feature in self.outputs.items()}
