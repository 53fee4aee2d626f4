"""A package's ML program, parsed: operations with their parameters, constants decoded or memory-mapped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from converter.runtime.body import Literal, Statement, read_body
from converter.runtime.chunks import chunk_features, chunk_paths
from converter.runtime.compressed import Value, decodes
from converter.runtime.constants import Constants, dtype_of
from converter.runtime.feature import Feature, PackageError, features
from converter.runtime.package import (
    default_function,
    described,
    function_of,
    opened,
    own_description,
    read_model,
    stages,
)
from converter.runtime.ranks import check_ranks

__all__ = [
    "Operation",
    "Program",
    "Value",
    "declared",
    "default_function",
    "functions",
    "own_features",
    "read_model",
    "read_program",
    "stages",
]


@dataclass(frozen=True)
class Operation:
    """One operation. Parameters are names of tensors (several for a tuple parameter) or constant values."""

    kind: str
    inputs: dict[str, list[str]]
    constants: dict[str, list[Value]]
    outputs: list[str]
    dtypes: list[np.dtype[Any]]
    #: Of each output; None if the program does not fix it.
    shapes: list[tuple[int, ...] | None]


@dataclass(frozen=True)
class Program:
    """One function of a package. Its states (which keep their values between predictions) are inputs of operations."""

    inputs: dict[str, Feature]
    outputs: dict[str, Feature]
    operations: list[Operation]
    states: dict[str, Feature] = field(default_factory=dict)

    @property
    def features(self) -> frozenset[str]:
        """The names of its inputs, outputs and states."""
        return frozenset({*self.inputs, *self.outputs, *self.states})

    @property
    def names(self) -> frozenset[str]:
        """The names of all its values."""
        return self.features | {name for op in self.operations for name in op.outputs}


def functions(path: Path | str) -> tuple[str, ...]:
    """Return the names of a package's functions, of a pipeline "main" alone; raises PackageError."""
    path = Path(path)
    return ("main",) if stages(path) else tuple(sorted(read_model(path).mlProgram.functions))


def _features(description: Any, path: Path) -> dict[str, Feature]:
    try:
        return features(description)
    except PackageError as error:
        raise PackageError(f"{path}: {error}") from error


def own_features(path: Path, function: str | None = None) -> tuple[dict[str, Feature], dict[str, Feature]]:
    """Return one package's own inputs and outputs, as `declared`, also of one half of a network."""
    found = own_description(path, function)
    return _features(found.input, path), _features(found.output, path)


def declared(path: Path, function: str | None = None) -> tuple[dict[str, Feature], dict[str, Feature]]:
    """Return a function's (or a pipeline's) inputs and outputs by name, without reading its weights; raises PackageError.

    Of a network cut in two, ``path`` is the first half.
    """
    return chunk_features(path, (own_features(part, function) for part in chunk_paths(path)))


def _runnable(op: Statement, constants: Constants, known: dict[str, Value]) -> Operation:
    if op.blocks:
        raise PackageError(f"{op.name} ({op.kind}) has nested blocks, which are not supported")
    inputs: dict[str, list[str]] = {}
    values: dict[str, list[Value]] = {}
    for name, arguments in op.inputs.items():
        if all(isinstance(a, Literal) or a in known for a in arguments):
            where = f"{op.name}: {name}"
            values[name] = [constants.decode(a, where) if isinstance(a, Literal) else known[a] for a in arguments]
        elif any(isinstance(a, Literal) for a in arguments):
            raise PackageError(f"{op.name} ({op.kind}): {name} mixes tensors and values written in place")
        else:
            inputs[name] = [a for a in arguments if isinstance(a, str)]
    dtypes = [dtype_of(kind, f"{name} ({op.kind})") for name, kind in op.outputs.items()]
    return Operation(op.kind, inputs, values, list(op.outputs), dtypes, [kind.fixed for kind in op.outputs.values()])


def _constant(name: str, value: Value) -> Operation:
    dtype = np.dtype(np.str_) if isinstance(value, str) else value.dtype
    return Operation("const", {}, {"val": [value]}, [name], [dtype], [() if isinstance(value, str) else value.shape])


def _check_names(given: set[str], operations: list[Operation], outputs: list[str], path: Path) -> None:
    """Refuse a program in which an operation takes a value that no earlier one gives."""
    for op in operations:
        for name in (n for names in op.inputs.values() for n in names):
            if name not in given:
                raise PackageError(
                    f"{path}: {(op.outputs or [op.kind])[0]} takes {name}, which nothing before it gives"
                )
        given |= set(op.outputs)
    if lost := [name for name in outputs if name not in given]:
        raise PackageError(f"{path}: nothing gives its outputs {', '.join(lost)}")


def _read_program(path: Path, named: str | None) -> Program:
    model, folder = opened(path)
    function = function_of(model, path, named)
    description = described(model, function)
    inputs, outputs, states = (_features(f, path) for f in (description.input, description.output, description.state))
    body = read_body(model, path, function)
    constants = Constants(folder)
    known: dict[str, Value] = {}
    operations = []
    types = dict(body.inputs)
    for op in body.statements:
        types |= op.outputs
    try:
        check_ranks(body.statements, types)
        for op in body.statements:
            if op.kind == "const" and op.outputs:
                if "val" not in op.attributes:
                    raise PackageError(f"{op.name} is a constant without a value")
                known[op.name] = constants.decode(op.attributes["val"], op.name)
            elif decodes(op.kind, len(op.outputs)):
                known |= constants.unfold(op, known)
            else:
                operations.append(_runnable(op, constants, known))
    except PackageError as error:
        raise PackageError(f"{path}: {error}") from error
    # A tuple parameter may mix tensors and constants; the constants then travel as an operation of their own.
    used = {n for op in operations for names in op.inputs.values() for n in names}
    loose = [_constant(n, known[n]) for n in sorted(used & set(known))]
    loose += [_constant(n, known[n]) for n in body.outputs if n in known and n not in used]
    _check_names({*inputs, *states}, loose + operations, [*outputs], path)
    return Program(inputs, outputs, loose + operations, states)


def _in_a_row(programs: Sequence[Program]) -> Iterator[Operation]:
    """Yield the operations of all programs; equal names that are not handed on become different ones."""
    times = Counter(name for program in programs for name in program.names)
    for number, program in enumerate(programs, 1):
        own = {name: f"{name}#{number}" for name in program.names - program.features if times[name] > 1}
        for op in program.operations:
            inputs = {parameter: [own.get(n, n) for n in names] for parameter, names in op.inputs.items()}
            yield replace(op, inputs=inputs, outputs=[own.get(n, n) for n in op.outputs])


def read_program(path: Path, function: str | None = None) -> Program:
    """Read a function (the default one) of the package or compiled model at ``path``; raises PackageError if it cannot be read.

    Both halves of a network cut in two are one program, if ``path`` is the first.
    """
    programs = [_read_program(part, function) for part in chunk_paths(path)]
    if len(programs) == 1:
        return programs[0]
    inputs, outputs = chunk_features(path, ((program.inputs, program.outputs) for program in programs))
    states = {name: state for program in programs for name, state in program.states.items()}
    return Program(inputs, outputs, list(_in_a_row(programs)), states)
