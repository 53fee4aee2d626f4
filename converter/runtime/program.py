"""A package's ML program, parsed: operations with their parameters, constants decoded or memory-mapped."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from converter.mlproto import ml
from converter.runtime.compiled import COMPILED, compiled_stages, read_compiled, read_description
from converter.runtime.compressed import Value, decodes
from converter.runtime.constants import Constants, dtype_of
from converter.runtime.feature import Feature, PackageError, features
from converter.runtime.halves import parts, whole
from converter.runtime.ranks import check_ranks

__all__ = [
    "Operation",
    "Program",
    "Value",
    "declared",
    "described",
    "functions",
    "own_features",
    "read_model",
    "read_program",
    "stages",
]

#: A model of a pipeline: the pipeline's path and this, as coremlcompiler lays compiled pipelines out.
_STAGE = re.compile(r"model(\d+)")


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


def _read_package(path: Path) -> tuple[Any, Path]:
    """A package's model message of whatever type, and the folder it calls @model_path."""
    try:
        manifest = json.loads((path / "Manifest.json").read_text())
        item = path / "Data" / manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        raw = item.read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PackageError(f"{path} is not a Core ML package: {error!r}") from error
    model = ml().Model()
    try:
        model.ParseFromString(raw)
    except DecodeError as error:
        raise PackageError(f"{path}: its model is damaged: {error}") from error
    return model, item.parent


def _stage_of(path: Path) -> tuple[Path, int] | None:
    """The pipeline package that ``path`` is a model of, and which."""
    named = _STAGE.fullmatch(path.name)
    return (path.parent, int(named[1])) if named and (path.parent / "Manifest.json").is_file() else None


def _is_compiled(path: Path) -> bool:
    """Whether ``path`` is a compiled model or pipeline, or a model of a compiled pipeline."""
    return path.suffix == ".mlmodelc" or (path / COMPILED).is_file()


def _read(path: Path) -> tuple[Any, Path]:
    """The ML program's model message at ``path``, and the folder it calls @model_path."""
    if _is_compiled(path):
        return read_compiled(path), path
    if (stage := _stage_of(path)) is not None:
        pipeline, folder = _read_package(stage[0])
        if stage[1] >= len(pipeline.pipeline.models):
            raise PackageError(f"{stage[0]} has {len(pipeline.pipeline.models)} models, so no {path.name}")
        model = pipeline.pipeline.models[stage[1]]
    else:
        model, folder = _read_package(path)
    if model.WhichOneof("Type") != "mlProgram":
        raise PackageError(f"{path} is a {model.WhichOneof('Type')}, not an ML program")
    return model, folder


def read_model(path: Path) -> Any:
    """The model message (Model.proto) of an ML program; raises PackageError where it cannot be read or is none.

    ``path`` is a package, a compiled model, or one of the `stages` of either.
    """
    return _read(path)[0]


def stages(path: Path) -> tuple[Path, ...]:
    """The paths of a pipeline's models in the order they run in; of an ML program none. Raises PackageError."""
    if _is_compiled(path):
        return compiled_stages(path)
    if _stage_of(path) is not None:
        return ()
    model, _ = _read_package(path)
    return tuple(path / f"model{n}" for n in range(len(model.pipeline.models)))


def functions(path: Path) -> tuple[str, ...]:
    """The names of a package's functions, of a pipeline "main" alone; raises PackageError."""
    return ("main",) if stages(path) else tuple(sorted(read_model(path).mlProgram.functions))


def described(model: Any, path: Path, function: str) -> Any:
    """The description of one function's inputs and outputs; raises PackageError where there is no such function."""
    known = model.mlProgram.functions
    if function not in known:
        raise PackageError(f"{path} has no function {function!r}; it has {', '.join(sorted(known))}")
    return next((f for f in model.description.functions if f.name == function), model.description)


def own_features(path: Path, function: str = "main") -> tuple[dict[str, Feature], dict[str, Feature]]:
    """What one package declares by itself, as `declared`, also where it is one half of a network."""
    if _is_compiled(path):
        description = read_description(path)
        found = next((f for f in description.functions if f.name == function), description)
    elif stages(path):
        found = _read_package(path)[0].description
    else:
        found = described(read_model(path), path, function)
    return features(found.input), features(found.output)


def declared(path: Path, function: str = "main") -> tuple[dict[str, Feature], dict[str, Feature]]:
    """A function's (or a pipeline's) inputs and outputs by name, without reading its weights; raises PackageError.

    Of a network cut in two, ``path`` is the first half.
    """
    return whole(path, (own_features(part, function) for part in parts(path)))


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
    dtypes = [dtype_of(kind, name) for kind, name in zip(kinds, outputs, strict=True)]
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


def _read_program(path: Path, function: str) -> Program:
    model, folder = _read(path)
    description = described(model, path, function)
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
    inputs, outputs, states = (features(f) for f in (description.input, description.output, description.state))
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


def read_program(path: Path, function: str = "main") -> Program:
    """The function of the package or compiled model at ``path``; raises PackageError where it cannot be read.

    Both halves of a network cut in two are one program, if ``path`` is the first.
    """
    programs = [_read_program(part, function) for part in parts(path)]
    if len(programs) == 1:
        return programs[0]
    inputs, outputs = whole(path, ((program.inputs, program.outputs) for program in programs))
    states = {name: state for program in programs for name, state in program.states.items()}
    return Program(inputs, outputs, list(_in_a_row(programs)), states)
