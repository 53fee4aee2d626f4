"""Puts our runtime in the place of Core ML in coremltools, so that its own operator tests predict with it.

coremltools reaches Core ML through ``coremltools.models.model._MLModelProxy``, which is None except on a Mac, and checks
the platform in a few other places; `install` replaces all of them. ``PREDICTED`` records each prediction: the program's
operators, and the error if it could not be loaded or run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.runtime.feature import Feature
from converter.runtime.mil import MILNetwork, OperationError
from converter.runtime.program import read_model

#: The macOS version that the tests see: the first with every operator of iOS 18.
_MACOS = (15, 4)
#: Operations that say nothing about a case.
_EVERYWHERE = {"const", "cast", "identity"}


@dataclass
class Prediction:
    """One package that a test ran: its operators, and the error if it could not be loaded or run."""

    operators: frozenset[str]
    error: Exception | None = None


@dataclass
class Predictions:
    """The packages that the current test has loaded, and those that it ran."""

    loaded: list[Prediction] = field(default_factory=list)
    ran: list[Prediction] = field(default_factory=list)


PREDICTED = Predictions()


def _kinds(block: Any) -> set[str]:
    kinds = set()
    for op in block.operations:
        kinds.add(op.type)
        for inner in op.blocks:
            kinds |= _kinds(inner)
    return kinds


def operators(path: Path) -> frozenset[str]:
    """Return the operators of a package's functions, without constants, and without casts if there are other operators."""
    kinds: set[str] = set()
    for body in read_model(path).mlProgram.functions.values():
        kinds |= _kinds(body.block_specializations[body.opset])
    kinds.discard("const")
    return frozenset(kinds - _EVERYWHERE or kinds)


def _as_input(array: Any, declared: Any) -> NDArray[Any]:
    """Convert an input as Core ML does: to the declared type, and a scalar to an array of one element."""
    value = np.asarray(array)
    if value.dtype.kind != declared.dtype.kind:
        value = value.astype(declared.dtype)
    return value.reshape(declared.shape) if value.ndim == 0 and len(declared.shape) == 1 else value


def _in_fp32(outputs: Mapping[str, Feature]) -> dict[str, Feature]:
    """Declare all outputs fp32, as they are computed, even if the model declares fp16.

    The tests compare fp32 programs with fp16 outputs to within 1e-4, which rounding alone exceeds.
    """
    fp16 = np.dtype(np.float16)
    return {n: replace(f, dtype=np.dtype(np.float32)) if f.dtype == fp16 else f for n, f in outputs.items()}


class Proxy:
    """Stands in for coremltools' handle of a model that Core ML has loaded."""

    def __init__(self, path: str, compute_units: str, function: str, hints: dict[str, str], asset: Any) -> None:
        self._path = Path(path)
        self._network: MILNetwork | None = None
        self._prediction = Prediction(frozenset())
        try:
            self._prediction = Prediction(operators(self._path))
            self._network = MILNetwork(self._path, function or "main")
            self._network.outputs = _in_fp32(self._network.outputs)
        except Exception as error:  # predict raises it: a test that never predicts must not fail
            self._prediction.error = error
        PREDICTED.loaded.append(self._prediction)

    @staticmethod
    def maximum_supported_specification_version() -> int:
        """Return the version of iOS 18."""
        return 9

    def predict(self, inputs: dict[str, Any], state: Any = None) -> dict[str, NDArray[Any]]:
        """Return the network's outputs for the inputs."""
        PREDICTED.ran.append(self._prediction)
        if self._network is None:
            assert self._prediction.error is not None
            raise self._prediction.error
        try:
            declared = self._network.inputs
            arrays = {name: _as_input(array, declared[name]) for name, array in inputs.items()}
            outputs = self._network.predict(arrays) if state is None else self._network.predict(arrays, state=state)
        except OperationError as error:
            self._prediction.error = error
            raise RuntimeError(
                f"Unable to compute the prediction using ML Program: {error}"
            ) from error  # Core ML's text
        return {name: np.atleast_1d(array) for name, array in outputs.items()}  # Core ML returns no scalars

    def newState(self) -> Any:
        """Return the network's states, all zero."""
        if self._network is None:
            assert self._prediction.error is not None
            raise self._prediction.error
        return self._network.make_state()

    def get_compiled_model_path(self) -> str:
        """Return the package's path; it has no compiled form."""
        return str(self._path)


def install() -> None:
    """Make coremltools use our runtime as a Mac's Core ML; call it before importing any of its tests."""
    import coremltools as ct
    import coremltools.models.model as model
    import coremltools.models.utils as utils

    for module in (model, utils, ct.utils):
        module._is_macos = lambda: True
        module._macos_version = lambda: _MACOS
    model._MLModelProxy = Proxy
    ct._deps._IS_MACOS = True
