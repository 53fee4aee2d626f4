"""A package's ML program, parsed: operations with their parameters, constants decoded or memory-mapped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

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
    #: Of each output; None where the program does not fix it.
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
    """The names of a package's functions, of a pipeline "main" alone; raises PackageError."""
    path = Path(path)
    return ("main",) if stages(path) else tuple(sorted(read_model(path).mlProgram.functions))


def _features(description: Any, path: Path) -> dict[str, Feature]:
    try:
        return features(description)
    except PackageError as error:
        raise PackageError(f"{path}: {error}") from error


def own_features(path: Path, function: str | None = None) -> tuple[dict[str, Feature], dict[str, Feature]]:
    """What one package declares by itself, as `declared`, also where it is one half of a network."""
    found = own_description(path, function)
    return _features(found.input, path), _features(found.output, path)


def declared(path: Path, function: str | None = None) -> tuple[dict[str, Feature], dict[str, Feature]]:
    """A function's (or a pipeline's) inputs and outputs by name, without reading its weights; raises PackageError.

    Of a network cut in two, ``path`` is the first half.
    """
    return chunk_features(path, (own_features(part, function) for part in chunk_paths(path)))


def _fixed_shape(kind: Any) -> tuple[int, ...] | None:
    dimensions = kind.tensorType.dimensions
    fixed = all(d.WhichOneof("dimension") == "constant" for d in dimensions)
    return tuple(int(d.constant.size) for d in dimensions) if fixed else None


def _bound(op: Any, constants: Constants, known: dict[str, Value]) -> Operation:
    where = op.outputs[0].name if op.outputs else op.type
    if op.blocks:
        raise PackageError(f"{where} ({op.type}) has nested blocks, which are not supported")
    inputs: dict[str, list[str]] = {}
    values: dict[str, list[Value]] = {}
    for name, argument in op.inputs.items():
        inline = [a.WhichOneof("binding") == "value" for a in argument.arguments]
        if all(i or a.name in known for i, a in zip(inline, argument.arguments, strict=True)):
            values[name] = [
                constants.decode(a.value, f"{where}: {name}") if i else known[a.name]
                for i, a in zip(inline, argument.arguments, strict=True)
            ]
        elif any(inline):
            raise PackageError(f"{where} ({op.type}): {name} mixes tensors and values written in place")
        else:
            inputs[name] = [a.name for a in argument.arguments]
    outputs, kinds = [o.name for o in op.outputs], [o.type for o in op.outputs]
    dtypes = [dtype_of(kind, f"{name} ({op.type})") for kind, name in zip(kinds, outputs, strict=True)]
    return Operation(op.type, inputs, values, outputs, dtypes, [_fixed_shape(kind) for kind in kinds])


def _constant(name: str, value: Value) -> Operation:
    dtype = np.dtype(np.str_) if isinstance(value, str) else value.dtype
    return Operation("const", {}, {"val": [value]}, [name], [dtype], [() if isinstance(value, str) else value.shape])


def _block(model: Any, path: Path, function: str) -> Any:
    body = model.mlProgram.functions[function]
    if body.opset not in body.block_specializations:
        raise PackageError(f"{path}: its function {function} has no operations for its opset {body.opset!r}")
    return body.block_specializations[body.opset]


def _check_names(given: set[str], operations: list[Operation], outputs: list[str], path: Path) -> None:
    """Refuse a program in which something takes what nothing before it gives."""
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
    block = _block(model, path, function)
    constants = Constants(folder)
    known: dict[str, Value] = {}
    operations = []
    types = {f.name: f.type for f in model.mlProgram.functions[function].inputs}
    types |= {o.name: o.type for op in block.operations for o in op.outputs}
    try:
        check_ranks(block.operations, types.get)
        for op in block.operations:
            if op.type == "const" and op.outputs:
                known[op.outputs[0].name] = constants.decode(op.attributes["val"], op.outputs[0].name)
            elif decodes(op.type, len(op.outputs)):
                known |= {constant.name: constant for constant in constants.unfold(op, known)}
            else:
                operations.append(_bound(op, constants, known))
    except PackageError as error:
        raise PackageError(f"{path}: {error}") from error
    # A tuple parameter may mix tensors and constants; the constants then travel as an operation of their own.
    used = {n for op in operations for names in op.inputs.values() for n in names}
    loose = [_constant(n, known[n]) for n in sorted(used & set(known))]
    loose += [_constant(n, known[n]) for n in block.outputs if n in known and n not in used]
    _check_names({*inputs, *states}, loose + operations, [*outputs], path)
    return Program(inputs, outputs, loose + operations, states)


def _in_a_row(programs: Sequence[Program]) -> Iterator[Operation]:
    """The operations of all programs; what several call the same without handing it on gets names of its own in each."""
    times = Counter(name for program in programs for name in program.names)
    for number, program in enumerate(programs, 1):
        own = {name: f"{name}#{number}" for name in program.names - program.features if times[name] > 1}
        for op in program.operations:
            inputs = {parameter: [own.get(n, n) for n in names] for parameter, names in op.inputs.items()}
            yield replace(op, inputs=inputs, outputs=[own.get(n, n) for n in op.outputs])


def read_program(path: Path, function: str | None = None) -> Program:
    """A function (the default one) of the package or compiled model at ``path``; raises PackageError where it cannot be read.

    Both halves of a network cut in two are one program, if ``path`` is the first.
    """
    programs = [_read_program(part, function) for part in chunk_paths(path)]
    if len(programs) == 1:
        return programs[0]
    inputs, outputs = chunk_features(path, ((program.inputs, program.outputs) for program in programs))
    states = {name: state for program in programs for name, state in program.states.items()}
    return Program(inputs, outputs, list(_in_a_row(programs)), states)
