"""A double of coremltools 9.0 on a Mac, equally strict: its checks, Core ML's checks, and reported bugs of both."""

from __future__ import annotations

import enum
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from converter.runtime.mil import MILNetwork

#: The package's name inside its compiled form.
SOURCE = "source.mlpackage"


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


@dataclass
class Mac:
    """A Mac, and a record of its use.

    behavior: part of a package's name -> compute unit -> what a prediction does there: "die" (SIGKILL, coremltools #2758),
        "die in worker" (only there), "raise", "nan", "hang"; with "load", loading raises.
    release_seconds: the time from a prediction until Core ML releases its inputs, about a second on a Mac.
    said: called with every load and prediction.
    dead: called with an input that has no other owner at the release; Core ML's thread then crashes the process.
    """

    version: str
    build: str = "25B78"
    chip: str = "Apple M2 Pro"
    behavior: dict[str, dict[str, str]] = field(default_factory=dict)
    release_seconds: float = 0.2
    said: Callable[[str], None] = lambda line: None
    dead: Callable[[str], None] = lambda name: os.kill(os.getpid(), signal.SIGSEGV)
    compilations: list[str] = field(default_factory=list)
    loads: list[tuple[str, str, dict[str, object]]] = field(default_factory=list)

    def does(self, path: str, units: ComputeUnit) -> str:
        for word, by_unit in self.behavior.items():
            if word in Path(path).name:
                return by_unit.get(units.name, "")
        return ""

    def network(self, source: Path, function: str, units: ComputeUnit) -> MILNetwork:
        """Load a compiled model's network for a compute unit; raise RuntimeError if it does not load there."""
        return MILNetwork(source, function)

    def modules(self) -> dict[str, types.ModuleType]:
        """Return the modules for sys.modules."""
        names = ("coremltools", "coremltools.models", "coremltools.models.utils")
        ct, models, utils = (types.ModuleType(name) for name in names)
        ct.__dict__.update(
            ComputeUnit=ComputeUnit,
            ReshapeFrequency=ReshapeFrequency,
            SpecializationStrategy=SpecializationStrategy,
            models=models,
        )
        models.__dict__.update(CompiledMLModel=type("CompiledMLModel", (_CompiledMLModel,), {"mac": self}), utils=utils)
        utils.__dict__["compile_model"] = self.compile_model
        return dict(zip(names, (ct, models, utils), strict=True))

    def install(self, monkeypatch: Any) -> None:
        for name, module in self.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr("platform.mac_ver", self.mac_ver)

    def mac_ver(self) -> tuple[str, tuple[str, str, str], str]:
        return self.version, ("", "", ""), "arm64"

    def compile_model(self, model: str, destination_path: str) -> str:
        assert isinstance(model, str)
        assert destination_path.endswith(".mlmodelc")
        shutil.copytree(model, os.path.join(destination_path, SOURCE))
        self.compilations.append(model)
        return destination_path

    def release(self, inputs: dict[str, np.ndarray]) -> None:
        """Release a prediction's inputs later, like Core ML's queue, which frees the inputs that only it owns."""
        watched = {name: weakref.ref(array) for name, array in inputs.items()}

        def look() -> None:
            time.sleep(self.release_seconds)
            for name, array in watched.items():
                if array() is None:
                    self.dead(name)

        threading.Thread(target=look, name="MLE5ExecutionStream.resetQueue", daemon=True).start()


class _CompiledMLModel:
    mac: Mac

    def __init__(
        self,
        path: str,
        compute_units: ComputeUnit = ComputeUnit.ALL,
        function_name: str | None = None,
        optimization_hints: dict[str, Any] | None = None,
        asset: None = None,
    ) -> None:
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
        self._name, self._units, self._does = Path(path).name, compute_units.name, self.mac.does(path, compute_units)
        self.mac.said(f"load {self._name} {self._units}")
        if self._does == "load":
            raise RuntimeError("Error in building plan.")
        self._network = self.mac.network(Path(path, SOURCE), function_name or "main", compute_units)
        self._rows: dict[str, np.ndarray] = {}

    def predict(self, data: dict[str, np.ndarray], state: None = None) -> dict[str, np.ndarray]:
        if type(data) is not dict:
            raise TypeError('"data" parameter must be either a dict or list of dict.')
        for name, feature in self._network.inputs.items():
            if name not in data:
                raise RuntimeError(f"Feature {name} is required but not specified.")
            value = data[name]
            if value.shape != feature.shape:
                raise RuntimeError(f"MultiArray shape {value.shape} does not match the shape {feature.shape}")
            if value.dtype not in (np.float32, np.float64, np.int32):
                raise TypeError(f"{name}: the proxy does not accept {value.dtype}")
        if extra := set(data) - set(self._network.inputs):
            raise KeyError(f"Provided keys {extra} do not match any of the model inputs")
        self.mac.said(f"predict {self._name} {self._units}")
        self._misbehave()
        outputs = self._network.predict({name: value.copy() for name, value in data.items()})
        self.mac.release(data)
        return {name: self._padded(name, value) for name, value in outputs.items()}

    def _misbehave(self) -> None:
        worker = multiprocessing.current_process().name == "anemone-worker"
        if self._does == "die" or (self._does == "die in worker" and worker):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._does == "raise":
            raise RuntimeError("Unable to compute the prediction using a neural network model (error code: -1).")
        if self._does == "hang":
            time.sleep(3600)

    def _padded(self, name: str, value: np.ndarray) -> np.ndarray:
        """Return the output in rows padded to 64 bytes, as on the Neural Engine, in memory that is reused."""
        if name not in self._rows:
            width = value.shape[-1] * value.itemsize
            row = (width // 64 + 1) * 64 // value.itemsize
            self._rows[name] = np.full((*value.shape[:-1], row), 1e9, value.dtype)
        shown = self._rows[name][..., : value.shape[-1]]
        shown[...] = np.nan if self._does == "nan" else value
        return shown
