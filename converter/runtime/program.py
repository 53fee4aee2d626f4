"""A package's ML program, parsed: operations with their parameters, constants decoded or memory-mapped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from converter.blob import BlobReader
from converter.mlproto import mil, ml
from converter.runtime.feature import Feature, PackageError, features

#: A constant: an array, or text.
Value = NDArray[Any] | str


@dataclass(frozen=True)
class Operation:
    """One operation. Parameters are names of tensors (several for a tuple parameter) or constant values."""

    kind: str
    inputs: dict[str, list[str]]
    constants: dict[str, list[Value]]
    outputs: list[str]
    dtypes: list[np.dtype[Any]]


@dataclass(frozen=True)
class Program:
    """One function of a package."""

    inputs: dict[str, Feature]
    outputs: dict[str, Feature]
    operations: list[Operation]


def _dtypes() -> dict[int, np.dtype[Any]]:
    m = mil()
    return {
        m.FLOAT16: np.dtype(np.float16),
        m.FLOAT32: np.dtype(np.float32),
        m.FLOAT64: np.dtype(np.float64),
        m.BOOL: np.dtype(np.bool_),
        m.INT8: np.dtype(np.int8),
        m.UINT8: np.dtype(np.uint8),
        m.INT16: np.dtype(np.int16),
        m.UINT16: np.dtype(np.uint16),
        m.INT32: np.dtype(np.int32),
        m.UINT32: np.dtype(np.uint32),
        m.INT64: np.dtype(np.int64),
    }


def _shape(tensor_type: Any) -> tuple[int, ...]:
    for dimension in tensor_type.dimensions:
        if dimension.WhichOneof("dimension") != "constant":
            raise PackageError("the program has a flexible shape; fixed shapes are supported")
    return tuple(int(d.constant.size) for d in tensor_type.dimensions)


class _Values:
    """Decodes constants; weights stay in the file."""

    def __init__(self, weights: Path) -> None:
        self._path = weights
        self._reader: BlobReader | None = None
        self._dtypes = _dtypes()

    def dtype(self, value_type: Any) -> np.dtype[Any]:
        number = value_type.tensorType.dataType
        if number == mil().STRING:
            return np.dtype(np.str_)
        if number not in self._dtypes:
            raise PackageError(f"the program has a tensor of MIL data type {number}, which is not supported")
        return self._dtypes[number]

    def decode(self, value: Any) -> Value:
        dtype, shape = self.dtype(value.type), _shape(value.type.tensorType)
        if value.WhichOneof("value") == "blobFileValue":
            if self._reader is None:
                if not self._path.is_file():
                    raise PackageError(f"{self._path} is missing: the package has lost its weights")
                self._reader = BlobReader(self._path)
            return self._reader.read(int(value.blobFileValue.offset), dtype, shape)
        held = value.immediateValue.tensor
        kind = held.WhichOneof("value")
        if dtype.kind == "U":
            return str(held.strings.values[0])
        if kind == "bytes":
            return np.frombuffer(held.bytes.values, dtype).reshape(shape)
        if kind is None:
            return np.zeros(shape, dtype)
        return np.asarray(getattr(held, kind).values).astype(dtype).reshape(shape)


def _operation(op: Any, values: _Values, known: dict[str, Value]) -> Operation:
    inputs: dict[str, list[str]] = {}
    constants: dict[str, list[Value]] = {}
    for name, argument in op.inputs.items():
        kinds = [a.WhichOneof("binding") for a in argument.arguments]
        if all(k == "value" or a.name in known for k, a in zip(kinds, argument.arguments, strict=True)):
            constants[name] = [
                values.decode(a.value) if k == "value" else known[a.name]
                for k, a in zip(kinds, argument.arguments, strict=True)
            ]
        else:
            inputs[name] = [a.name for a in argument.arguments]
    if op.blocks:
        raise PackageError(f"{op.type} has nested blocks, which are not supported")
    outputs = [o.name for o in op.outputs]
    return Operation(op.type, inputs, constants, outputs, [values.dtype(o.type) for o in op.outputs])


def read_model(path: Path) -> Any:
    """The package's model message (Model.proto); raises PackageError where it cannot be read or is no ML program."""
    try:
        manifest = json.loads((path / "Manifest.json").read_text())
        item = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        raw = (path / "Data" / item).read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PackageError(f"{path} is not a Core ML package: {error!r}") from error
    model = ml().Model()
    try:
        model.ParseFromString(raw)
    except DecodeError as error:
        raise PackageError(f"{path}: its model is damaged: {error}") from error
    if model.WhichOneof("Type") != "mlProgram":
        raise PackageError(f"{path} is a {model.WhichOneof('Type')}, not an ML program")
    return model


def described(model: Any, path: Path, function: str) -> Any:
    """The description of one function's inputs and outputs; raises PackageError where there is no such function."""
    functions = model.mlProgram.functions
    if function not in functions:
        raise PackageError(f"{path} has no function {function!r}; it has {', '.join(sorted(functions))}")
    return next((f for f in model.description.functions if f.name == function), model.description)


def declared(path: Path, function: str = "main") -> tuple[dict[str, Feature], dict[str, Feature]]:
    """A function's inputs and outputs by name, without reading its weights; raises PackageError."""
    description = described(read_model(path), path, function)
    return features(description.input), features(description.output)


def read_program(path: Path, function: str = "main") -> Program:
    """The function of the package at ``path``; raises PackageError where it cannot be read."""
    model = read_model(path)
    description = described(model, path, function)
    body = model.mlProgram.functions[function]
    block = body.block_specializations[body.opset]
    values = _Values(path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin")
    known: dict[str, Value] = {}
    operations = []
    for op in block.operations:
        if op.type == "const":
            known[op.outputs[0].name] = values.decode(op.attributes["val"])
        else:
            operations.append(_operation(op, values, known))
    # A tuple parameter may mix tensors and constants; the constants then travel as an operation of their own.
    used = {n for op in operations for names in op.inputs.values() for n in names}
    loose = [
        Operation("const", {}, {"val": [known[n]]}, [n], [np.asarray(known[n]).dtype])
        for n in sorted(used & set(known))
    ]
    loose += [
        Operation("const", {}, {"val": [known[n]]}, [n], [np.asarray(known[n]).dtype])
        for n in block.outputs
        if n in known and n not in used
    ]
    return Program(features(description.input), features(description.output), loose + operations)
