"""Our runtime in the place where coremltools calls Core ML, so that its own operator tests predict with it.

coremltools reaches Core ML through ``coremltools.models.model._MLModelProxy``, which off a Mac is None, and asks the
platform in a few other places; `install` answers for all of them. Each prediction is remembered in ``PREDICTED``: which
operators the program has, and why it could not be loaded or run, where it could not.
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

#: What macOS the tests are to think they run on: the first with every operator of iOS 18.
_MACOS = (15, 4)
#: Operations that say nothing about a case.
_EVERYWHERE = {"const", "cast", "identity"}


@dataclass
class Prediction:
    """One package that a test ran: its operators, and the error where it could not be loaded or run."""

    operators: frozenset[str]
    error: Exception | None = None


@dataclass
class Predictions:
    """The packages that the running test has loaded, and which of them it ran."""

    loaded: list[Prediction] = field(default_factory=list)
    ran: list[Prediction] = field(default_factory=list)


PREDICTED = Predictions()


def _kinds(block: Any) -> set[str]:
    found = set()
    for op in block.operations:
        found.add(op.type)
        for inner in op.blocks:
            found |= _kinds(inner)
    return found


def operators(path: Path) -> frozenset[str]:
    """The kinds of operations in all of a package's functions, but for constants and casts where there are others."""
    kinds: set[str] = set()
    for body in read_model(path).mlProgram.functions.values():
        kinds |= _kinds(body.block_specializations[body.opset])
    kinds.discard("const")
    return frozenset(kinds - _EVERYWHERE or kinds)


def _given(array: Any, declared: Any) -> NDArray[Any]:
    """An input as Core ML would take it: in the type that the model declares, a scalar as an array of one."""
    found = np.asarray(array)
    if found.dtype.kind != declared.dtype.kind:
        found = found.astype(declared.dtype)
    return found.reshape(declared.shape) if found.ndim == 0 and len(declared.shape) == 1 else found


def _wide(outputs: Mapping[str, Feature]) -> dict[str, Feature]:
    """Outputs as they are computed, in fp32, even where a model declares fp16.

    The tests hold fp32 programs with fp16 outputs to 1e-4, which rounding alone exceeds.
    """
    half = np.dtype(np.float16)
    return {n: replace(f, dtype=np.dtype(np.float32)) if f.dtype == half else f for n, f in outputs.items()}


class Proxy:
    """What coremltools takes for a model loaded by Core ML."""

    def __init__(self, path: str, compute_units: str, function: str, hints: dict[str, str], asset: Any) -> None:
        self._path = Path(path)
        self._network: MILNetwork | None = None
        self._seen = Prediction(frozenset())
        try:
            self._seen = Prediction(operators(self._path))
            self._network = MILNetwork(self._path, function or "main")
            self._network.outputs = _wide(self._network.outputs)
        except Exception as error:  # a test that never predicts must not fail for it: predict raises it
            self._seen.error = error
        PREDICTED.loaded.append(self._seen)

    @staticmethod
    def maximum_supported_specification_version() -> int:
        """That of iOS 18."""
        return 9

    def predict(self, inputs: dict[str, Any], state: Any = None) -> dict[str, NDArray[Any]]:
        """What the network gives for the inputs."""
        PREDICTED.ran.append(self._seen)
        if self._network is None:
            assert self._seen.error is not None
            raise self._seen.error
        try:
            declared = self._network.inputs
            given = {name: _given(array, declared[name]) for name, array in inputs.items()}
            found = self._network.predict(given) if state is None else self._network.predict(given, state=state)
        except OperationError as error:
            self._seen.error = error
            raise RuntimeError(f"Unable to compute the prediction using ML Program: {error}") from error  # its words
        return {name: np.atleast_1d(array) for name, array in found.items()}  # Core ML gives no scalars

    def newState(self) -> Any:
        """The states of a network, zero."""
        if self._network is None:
            assert self._seen.error is not None
            raise self._seen.error
        return self._network.make_state()

    def get_compiled_model_path(self) -> str:
        """Where the model was read from; there is no compiled one."""
        return str(self._path)


def install() -> None:
    """Let coremltools believe that this is a Mac whose Core ML is our runtime; before any of its tests is imported."""
    import coremltools as ct
    import coremltools.models.model as model
    import coremltools.models.utils as utils

    for module in (model, utils, ct.utils):
        module._is_macos = lambda: True
        module._macos_version = lambda: _MACOS
    model._MLModelProxy = Proxy
    ct._deps._IS_MACOS = True
