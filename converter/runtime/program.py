"""Read a package's ML program: operations with their parameters, constants decoded or memory-mapped."""

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
    describe_function,
    function_of,
    open_program,
    own_description,
    read_model,
    stages,
)
from converter.runtime.ranks import check_ranks

__all__ = [
    "Operation",
    "Program",
    "Value",
    "declared_features",
    "default_function",
    "functions",
    "own_features",
    "read_model",
    "read_program",
    "stages",
]


@dataclass(frozen=True)
class Operation:
    """One operation. Its parameters are names of tensors (several for a tuple parameter) or constant values."""

    kind: str
    inputs: dict[str, list[str]]
    constants: dict[str, list[Value]]
    outputs: list[str]
    dtypes: list[np.dtype[Any]]
    #: The shape of each output; None if the program does not fix it.
    shapes: list[tuple[int, ...] | None]


@dataclass(frozen=True)
class Program:
    """One function of a package. Operations take its states, which keep their values between predictions, as inputs."""

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
    """Return the names of a package's functions; only "main" for a pipeline. Raises PackageError."""
    path = Path(path)
    return ("main",) if stages(path) else tuple(sorted(read_model(path).mlProgram.functions))


def _features(description: Any, path: Path) -> dict[str, Feature]:
    try:
        return features(description)
    except PackageError as error:
        raise PackageError(f"{path}: {error}") from error


def own_features(path: Path, function: str | None = None) -> tuple[dict[str, Feature], dict[str, Feature]]:
    """Return the inputs and outputs of one package or one chunk of a network; the rest is as in `declared_features`."""
    description = own_description(path, function)
    return _features(description.input, path), _features(description.output, path)


def declared_features(path: Path, function: str | None = None) -> tuple[dict[str, Feature], dict[str, Feature]]:
    """Return a function's (or a pipeline's) inputs and outputs by name, without reading its weights; raises PackageError.

    For a network in chunks, ``path`` is the first.
    """
    return chunk_features(path, (own_features(chunk, function) for chunk in chunk_paths(path)))


def _runnable(op: Statement, constants: Constants, known_values: dict[str, Value]) -> Operation:
    if op.blocks:
        raise PackageError(f"{op.name} ({op.kind}) has nested blocks, which are not supported")
    inputs: dict[str, list[str]] = {}
    values: dict[str, list[Value]] = {}
    for name, arguments in op.inputs.items():
        if all(isinstance(a, Literal) or a in known_values for a in arguments):
            where = f"{op.name}: {name}"
            values[name] = [
                constants.decode(a, where) if isinstance(a, Literal) else known_values[a] for a in arguments
            ]
        elif any(isinstance(a, Literal) for a in arguments):
            raise PackageError(f"{op.name} ({op.kind}): {name} mixes tensors and inline values, which is not supported")
        else:
            inputs[name] = [a for a in arguments if isinstance(a, str)]
    dtypes = [dtype_of(kind, f"{name} ({op.kind})") for name, kind in op.outputs.items()]
    return Operation(op.kind, inputs, values, list(op.outputs), dtypes, [kind.fixed for kind in op.outputs.values()])


def _constant(name: str, value: Value) -> Operation:
    dtype = np.dtype(np.str_) if isinstance(value, str) else value.dtype
    return Operation("const", {}, {"val": [value]}, [name], [dtype], [() if isinstance(value, str) else value.shape])


def _check_names(names: set[str], operations: list[Operation], outputs: list[str], path: Path) -> None:
    """Raise PackageError if an operation takes a value that no earlier one gives."""
    for op in operations:
        for name in (n for arguments in op.inputs.values() for n in arguments):
            if name not in names:
                raise PackageError(
                    f"{path}: {(op.outputs or [op.kind])[0]} takes {name}, which no operation before it gives"
                )
        names |= set(op.outputs)
    if missing := [name for name in outputs if name not in names]:
        raise PackageError(f"{path}: no operation gives its outputs {', '.join(missing)}")


def _read_program(path: Path, name: str | None) -> Program:
    model, folder = open_program(path)
    function = function_of(model, path, name)
    description = describe_function(model, function)
    inputs, outputs, states = (_features(f, path) for f in (description.input, description.output, description.state))
    body = read_body(model, path, function)
    constants = Constants(folder)
    values: dict[str, Value] = {}
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
                values[op.name] = constants.decode(op.attributes["val"], op.name)
            elif decodes(op.kind, len(op.outputs)):
                values |= constants.unfold(op, values)
            else:
                operations.append(_runnable(op, constants, values))
    except PackageError as error:
        raise PackageError(f"{path}: {error}") from error
    # A tuple parameter may mix tensors and constants; such a constant becomes an operation of its own.
    used = {n for op in operations for names in op.inputs.values() for n in names}
    separate = [_constant(n, values[n]) for n in sorted(used & set(values))]
    separate += [_constant(n, values[n]) for n in body.outputs if n in values and n not in used]
    _check_names({*inputs, *states}, separate + operations, [*outputs], path)
    return Program(inputs, outputs, separate + operations, states)


def _in_a_row(programs: Sequence[Program]) -> Iterator[Operation]:
    """Yield the operations of all programs; a name that several programs use for values of their own gets a suffix."""
    times = Counter(name for program in programs for name in program.names)
    for number, program in enumerate(programs, 1):
        own = {name: f"{name}#{number}" for name in program.names - program.features if times[name] > 1}
        for op in program.operations:
            inputs = {parameter: [own.get(n, n) for n in names] for parameter, names in op.inputs.items()}
            yield replace(op, inputs=inputs, outputs=[own.get(n, n) for n in op.outputs])


def read_program(path: Path, function: str | None = None) -> Program:
    """Read a function (by default the default one) of the package or compiled model at ``path``; raises PackageError if it cannot be read.

    All chunks of a network are one program, if ``path`` is the first.
    """
    programs = [_read_program(chunk, function) for chunk in chunk_paths(path)]
    if len(programs) == 1:
        return programs[0]
    inputs, outputs = chunk_features(path, ((program.inputs, program.outputs) for program in programs))
    states = {name: state for program in programs for name, state in program.states.items()}
    return Program(inputs, outputs, list(_in_a_row(programs)), states)
