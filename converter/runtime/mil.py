"""An ML program on PyTorch: compiled once at load into a list of steps, each tensor freed at its last use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converter.runtime.feature import UnsupportedOperator, checked
from converter.runtime.ops import OPERATORS
from converter.runtime.program import Operation, Program, Value, read_program

Held = torch.Tensor | str


@dataclass(frozen=True)
class _Stored:
    """A constant that stays in its file and is copied out whenever an operation needs it."""

    value: Value

    def fetch(self) -> Held:
        return _held(self.value)


@dataclass(frozen=True)
class _Step:
    """One operation ready to run: constants bound, tensors named, and what to free afterwards."""

    run: Callable[..., Any]
    constants: dict[str, Any]
    inputs: tuple[tuple[str, tuple[str, ...]], ...]
    outputs: tuple[str, ...]
    freed: tuple[str, ...]


#: Constants of at least this many elements are worth leaving in the file.
_LARGE = 4096
#: Parameters that are lists even when they hold one tensor.
_TUPLES = {"values"}


def _held(value: Value) -> Held:
    """A constant as the operators take it: floats in fp32, weights copied out of the file once."""
    if isinstance(value, str):
        return value
    if value.dtype == np.float16:
        return torch.from_numpy(value.astype(np.float32))
    if value.dtype == np.uint16:
        return torch.from_numpy(value.astype(np.int32))
    return torch.from_numpy(np.array(value))


def _refuse_unknown(path: Path, program: Program) -> None:
    missing = Counter(op.kind for op in program.operations if op.kind not in OPERATORS)
    if missing:
        first = {kind: next(op.outputs[0] for op in program.operations if op.kind == kind) for kind in missing}
        words = ", ".join(f"{kind} ({count} times, first at {first[kind]})" for kind, count in sorted(missing.items()))
        raise UnsupportedOperator(f"{path.name} uses operators this runtime does not have: {words}")


class MILNetwork:
    """A package run by PyTorch in fp32; types narrower than that are not rounded to between operations.

    With ``stream`` weights stay in the file and are read anew at each use: slower, but a network of any size runs in
    the memory of its largest layer.
    """

    def __init__(self, path: Path, function: str = "main", *, stream: bool = False) -> None:
        program = read_program(path, function)
        _refuse_unknown(path, program)
        self.inputs, self.outputs = program.inputs, program.outputs
        self._stream = stream
        self._shared: dict[int, Held | _Stored] = {}
        self._steps = self._compile(program)

    def _constant(self, value: Value) -> Held | _Stored:
        """One tensor for each stored constant, however many operations use it."""
        key = id(value)
        if key not in self._shared:
            large = not isinstance(value, str) and value.size >= _LARGE
            self._shared[key] = _Stored(value) if self._stream and large else _held(value)
        return self._shared[key]

    def _compile(self, program: Program) -> list[_Step]:
        last_use: dict[str, int] = {}
        for index, op in enumerate(program.operations):
            for names in op.inputs.values():
                last_use |= dict.fromkeys(names, index)
            last_use |= {name: index for name in op.outputs if name not in last_use}
        kept = set(program.outputs)
        steps = []
        for index, op in enumerate(program.operations):
            touched = {n for ns in op.inputs.values() for n in ns} | set(op.outputs)
            freed = tuple(sorted(n for n in touched if last_use[n] == index and n not in kept))
            steps.append(self._step(op, freed))
        self._shared.clear()
        return steps

    def _step(self, op: Operation, freed: tuple[str, ...]) -> _Step:
        constants: dict[str, Any] = {}
        for name, values in op.constants.items():
            held = [self._constant(v) for v in values]
            constants[name] = held if name in _TUPLES else held[0]
        inputs = tuple((name, tuple(names)) for name, names in op.inputs.items())
        return _Step(OPERATORS[op.kind], constants, inputs, tuple(op.outputs), freed)

    @torch.inference_mode()
    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the network once; raises InputError before anything runs."""
        live: dict[str, Any] = {}
        for name, array in checked(inputs, self.inputs).items():
            wide = array.astype(np.float32) if array.dtype.kind == "f" else np.array(array)
            live[name] = torch.from_numpy(wide)
        for step in self._steps:
            tensors = {
                name: [live[n] for n in names] if name in _TUPLES else live[names[0]] for name, names in step.inputs
            }
            constants = {k: v.fetch() if isinstance(v, _Stored) else v for k, v in step.constants.items()}
            result = step.run(**constants, **tensors)
            live |= zip(step.outputs, result if isinstance(result, list) else [result], strict=True)
            for name in step.freed:
                del live[name]
        return {name: live[name].numpy().astype(feature.dtype, copy=False) for name, feature in self.outputs.items()}
