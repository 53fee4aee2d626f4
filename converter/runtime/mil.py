"""Run an ML program on PyTorch, operation by operation: the reference, and its results in fp16 arithmetic.

A program is compiled once into a list of steps when it is loaded; each tensor is freed after its last use.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converter.errors import AnemoneError
from converter.runtime.compressed import Compressed
from converter.runtime.feature import UnsupportedOperator, check_inputs
from converter.runtime.ops import FAULTS, OPERATORS, TUPLES
from converter.runtime.ops.parameter import to_tensor
from converter.runtime.precision import PRECISIONS, Format, result_format
from converter.runtime.program import Operation, Program, Value, read_program
from converter.runtime.ranges import Range, measure_range
from converter.runtime.state import STATE_OPERATORS, State, checked_state, without_states


@dataclass(frozen=True)
class _Stored:
    """A constant that stays in its file; each use copies it. ``read_only``: no result of its operation shares its memory."""

    value: Value
    read_only: bool

    def fetch(self, scratch: NDArray[np.float32]) -> torch.Tensor | str:
        """Return the constant; a compressed one may be in ``scratch``, until the next one is fetched."""
        if isinstance(self.value, Compressed) and self.read_only and self.value.size <= scratch.size:
            return torch.from_numpy(self.value.dense(scratch.dtype, out=scratch))
        return to_tensor(self.value)


class OperationError(AnemoneError):
    """An operation of a program failed on its inputs."""


@dataclass(frozen=True)
class _Step:
    """One operation ready to run, with its constants, the names of its tensors, and the values to free afterwards."""

    kind: str
    run: Callable[..., Any]
    constants: dict[str, Any]
    inputs: tuple[tuple[str, tuple[str, ...]], ...]
    outputs: tuple[str, ...]
    formats: tuple[Format | None, ...]
    freed: tuple[str, ...]

    def describe(self, arguments: Mapping[str, Any]) -> str:
        """Return the operation and the shapes of its arguments, for messages."""
        words = []
        for name, value in arguments.items():
            tensors = [t for t in (value if isinstance(value, list) else [value]) if isinstance(t, torch.Tensor)]
            shapes = ", ".join(f"{t.dtype}{list(t.shape)}".removeprefix("torch.") for t in tensors)
            words += [f"{name} {shapes}"] if tensors else []
        return f"{self.kind} {', '.join(self.outputs)} of {'; '.join(words) or 'nothing'}"


_OPERATORS = {**OPERATORS, **STATE_OPERATORS}
#: Constants of at least this many elements stay in the file.
_LARGE = 4096
#: Operations with a weight.
_PRODUCTS = ("conv", "linear")
#: From so many rows for each weight on, decoding the weights takes less than a tenth of the products' time: 0.8 ns a weight,
#: where they take 0.023 ns for each row (a step of Stable Diffusion 1.5's UNet on two cores, AVX-512 VNNI). It has 788 rows on
#: average, its text encoder 77; nothing between was tried.
_MANY_ROWS = 400


def _decodes_at_use(program: Program) -> bool:
    """Return whether a program's compressed weights are used for so many rows that they need not be kept decoded."""
    weights = products = 0
    for op in program.operations:
        for value in op.constants.get("weight", ()) if op.kind in _PRODUCTS else ():
            if isinstance(value, Compressed) and op.shapes[0] is not None:
                weights += value.size
                products += math.prod(value.shape[1:]) * math.prod(op.shapes[0])
    return products >= _MANY_ROWS * weights > 0


def require_known(path: Path, program: Program) -> None:
    """Raise UnsupportedOperator naming the operators of a program that this runtime lacks, and where each comes first."""
    missing = Counter(op.kind for op in program.operations if op.kind not in _OPERATORS)
    if missing:
        first = {op.kind: (op.outputs or ["its end"])[0] for op in reversed(program.operations)}
        words = ", ".join(f"{kind} ({count} times, first at {first[kind]})" for kind, count in sorted(missing.items()))
        raise UnsupportedOperator(f"{path.name} uses operators that this runtime does not have: {words}")


def _all_finite(arguments: Mapping[str, Any]) -> bool:
    flat = [t for value in arguments.values() for t in (value if isinstance(value, list) else [value])]
    return all(bool(torch.isfinite(t).all()) for t in flat if isinstance(t, torch.Tensor))


class MILNetwork:
    """A package that PyTorch runs operation by operation.

    ``precision`` fp32 does not round between operations. fp16 rounds every fp16 result. ane also applies the Neural
    Engine's reported limits, with ``narrow_slices`` those of engines before A16; it shows overflow, not the engine's own
    error (see `converter.runtime.precision`). With ``record``, `ranges` has the range of each operation's results.

    With ``stream`` weights stay in the file and are read at each use: slower, but a network of any size runs in the
    memory of its largest layer. Compressed weights stay in the file without it, too, where decoding them at each use
    takes little of the time: in networks of images, not in text encoders.
    """

    def __init__(
        self,
        path: Path,
        function: str | None = None,
        *,
        precision: str = "fp32",
        narrow_slices: bool = True,
        record: bool = False,
        stream: bool = False,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; accepted: {', '.join(PRECISIONS)}")
        program = read_program(path, function)
        require_known(path, program)
        self.inputs, self.outputs, self._states = program.inputs, program.outputs, program.states
        #: Output name -> its range over all predictions so far, if recorded. Operations that only move or choose numbers
        #: have none.
        self.ranges: dict[str, Range] = {}
        self._precision, self._narrow_slices, self._record = precision, narrow_slices, record
        self._stream, self._stream_compressed = stream, _decodes_at_use(program)
        self._shared: dict[tuple[int, bool], torch.Tensor | str | _Stored] = {}
        #: The elements of the largest compressed weight that is decoded at each use.
        self._largest = 0
        self._steps = self._compile(program)

    def _constant(self, value: Value, read_only: bool) -> torch.Tensor | str | _Stored:
        """Return the tensor of a stored constant, the same for all operations that use it alike."""
        key = id(value), read_only
        if key not in self._shared:
            large = not isinstance(value, str) and value.size >= _LARGE
            streamed = self._stream or (self._stream_compressed and isinstance(value, Compressed))
            if streamed and large and isinstance(value, Compressed):
                value.check()
                if read_only:
                    self._largest = max(self._largest, value.size)
            self._shared[key] = _Stored(value, read_only) if streamed and large else to_tensor(value)
        return self._shared[key]

    def _compile(self, program: Program) -> list[_Step]:
        operations = [without_states(op, program.states) for op in program.operations]
        last_use: dict[str, int] = {}
        for index, op in enumerate(operations):
            for names in op.inputs.values():
                last_use |= dict.fromkeys(names, index)
            last_use |= {name: index for name in op.outputs if name not in last_use}
        permanent = {*program.outputs, *program.states}
        steps = []
        for index, op in enumerate(operations):
            values = {n for ns in op.inputs.values() for n in ns} | set(op.outputs)
            freed = tuple(sorted(n for n in values if last_use[n] == index and n not in permanent))
            steps.append(self._step(op, freed))
        self._shared.clear()
        return steps

    def _step(self, op: Operation, freed: tuple[str, ...]) -> _Step:
        constants: dict[str, Any] = {}
        for name, values in op.constants.items():
            bound = [self._constant(v, op.kind in _PRODUCTS and name == "weight") for v in values]
            constants[name] = bound if name in TUPLES else bound[0]
        inputs = tuple((name, tuple(names)) for name, names in op.inputs.items())
        form = result_format(op, self._precision, narrow_slices=self._narrow_slices)
        formats = tuple(form if dtype == np.float16 else None for dtype in op.dtypes)
        return _Step(op.kind, _OPERATORS[op.kind], constants, inputs, tuple(op.outputs), formats, freed)

    def _rounded(self, step: _Step, index: int, exact: torch.Tensor, arguments: Mapping[str, Any]) -> torch.Tensor:
        """Return an operation's result in the network's precision; record its range if asked."""
        form = step.formats[index]
        if form is None:
            return exact
        if self._record:
            name = step.outputs[index]
            result = measure_range(name, step.kind, form, exact, finite_operands=lambda: _all_finite(arguments))
            self.ranges[name] = self.ranges[name].merge(result) if name in self.ranges else result
        return exact if self._precision == "fp32" else form.round(exact)

    def make_state(self) -> State:
        """Return states of zeros for a sequence of predictions; empty for a network without states."""
        return State(self._states)

    @torch.inference_mode()
    def predict(self, inputs: Mapping[str, NDArray[Any]], state: State | None = None) -> dict[str, NDArray[Any]]:
        """Run the network once and update ``state``.

        Raises InputError before anything runs and OperationError if an operation does not accept its arguments.
        """
        live: dict[str, Any] = checked_state(state, self._states)
        for name, array in check_inputs(inputs, self.inputs).items():
            copied = array.astype(np.float32) if array.dtype.kind == "f" else np.array(array)
            live[name] = torch.from_numpy(copied)
        # One place for one weight after another: decoding a UNet took 0.7 s of a step of 15.5, and 1.4 into new memory.
        scratch = np.empty(self._largest, np.float32)
        for step in self._steps:
            tensors = {
                name: [live[n] for n in names] if name in TUPLES else live[names[0]] for name, names in step.inputs
            }
            constants = {k: v.fetch(scratch) if isinstance(v, _Stored) else v for k, v in step.constants.items()}
            try:
                result = step.run(**constants, **tensors)
            except FAULTS as error:
                raise OperationError(f"{step.describe(constants | tensors)}: {error}") from error
            results = result if isinstance(result, list) else [result]
            for index, (name, exact) in enumerate(zip(step.outputs, results, strict=True)):
                live[name] = self._rounded(step, index, exact, constants | tensors)
            for name in step.freed:
                del live[name]
        if state is not None:
            state.tensors = {name: live[name] for name in self._states}
        # An output may be a state's own tensor, which the caller must not change.
        copy = bool(self._states)
        return {name: live[name].numpy().astype(feature.dtype, copy=copy) for name, feature in self.outputs.items()}
