"""Decode constants of an ML program: from its messages, memory-mapped from its weights, or still compressed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from converter.runtime.body import Literal, Statement, Type
from converter.runtime.compressed import Compressed, Value
from converter.runtime.feature import PackageError
from converter.weights.blob import BlobError, BlobReader, packed_size
from converter.weights.dtypes import DType

_MODEL_PATH = "@model_path/"


def _stored(value_type: Type, where: str) -> tuple[DType, np.dtype[Any]]:
    if value_type.kind != "tensorType":
        raise PackageError(f"{where} is a {value_type.kind}, which is not supported; tensors are")
    stored = value_type.stored
    if stored is None or stored.numpy is None:
        raise PackageError(f"{where} is a tensor of {value_type.dtype}, which is not supported")
    return stored, stored.numpy


def dtype_of(value_type: Type, where: str) -> np.dtype[Any]:
    """Return the NumPy type of a tensor; raises PackageError if NumPy does not have it."""
    return _stored(value_type, where)[1]


def shape_of(value_type: Type, where: str) -> tuple[int, ...]:
    """Return a constant's shape; raises PackageError if it is not fixed."""
    if value_type.fixed is None:
        raise PackageError(f"{where} is a constant whose shape is not fixed")
    return value_type.fixed


class Constants:
    """A decoder of one model's constants; large ones stay in their files.

    ``folder`` is the program's @model_path; ``open_file`` opens a weights file.
    """

    def __init__(self, folder: Path, open_file: Callable[[Path], BlobReader] = BlobReader) -> None:
        self._folder, self._open = folder, open_file
        self._readers: dict[str, BlobReader] = {}

    def decode(self, literal: Literal, where: str) -> Value:
        """Return a constant as an array, text or packed integers; raises PackageError naming ``where``."""
        value_type = literal.type
        stored, dtype = _stored(value_type, where)
        shape = shape_of(value_type, where)
        try:
            if literal.in_file:
                return self._in_file(literal.message.blobFileValue, stored, dtype, shape, where)
            return self._immediate(literal.message.immediateValue.tensor, stored, dtype, shape, where)
        except (ValueError, OverflowError) as error:
            raise PackageError(f"{where} is damaged: {error}") from error

    def unfold(self, op: Statement, constants: Mapping[str, Value]) -> dict[str, Compressed]:
        """Return the results of an operation on constants; its parameters are attributes up to iOS 17, inputs from iOS 18."""
        sources = {name: self.decode(value, f"{op.name}: {name}") for name, value in op.attributes.items()}
        sources.pop("name", None)
        for name, arguments in op.inputs.items():
            if len(arguments) != 1:
                raise PackageError(f"{op.name} ({op.kind}): {name} is {len(arguments)} values; one is accepted")
            (argument,) = arguments
            if isinstance(argument, Literal):
                sources[name] = self.decode(argument, f"{op.name}: {name}")
            elif argument in constants:
                sources[name] = constants[argument]
            else:
                raise PackageError(f"{op.name} ({op.kind}) takes {argument}, which is not a constant")
        return {
            name: Compressed(name, op.kind, n, shape_of(kind, name), dtype_of(kind, name), sources)
            for n, (name, kind) in enumerate(op.outputs.items())
        }

    def _reader(self, name: str) -> BlobReader:
        if name not in self._readers:
            self._readers[name] = self._open(self.file(name))
        return self._readers[name]

    def file(self, name: str) -> Path:
        """Return the path of a weights file; raises PackageError if it is missing or outside the package."""
        path = PurePosixPath(name.removeprefix(_MODEL_PATH))
        if path.is_absolute() or ".." in path.parts:
            raise PackageError(f"{self._folder}: weights at {name!r} lie outside the package")
        if not (self._folder / path).is_file():
            raise PackageError(f"{self._folder / path} is missing: the package has lost its weights")
        return self._folder / path

    def _in_file(self, blob: Any, stored: DType, dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> Value:
        try:
            reader = self._reader(str(blob.fileName))
            if not stored.packed:
                return reader.read(int(blob.offset), dtype, shape)
            data = reader.packed(int(blob.offset), stored, shape)
            return Compressed(where, stored.name, 0, shape, dtype, {"data": data})
        except BlobError as error:
            raise PackageError(f"{where}: {error}") from error

    def _immediate(self, tensor: Any, stored: DType, dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> Value:
        kind = tensor.WhichOneof("value")
        count = math.prod(shape)
        if dtype.kind == "U":
            if len(tensor.strings.values) != 1:
                raise PackageError(f"{where} is {len(tensor.strings.values)} strings; one is supported")
            return str(tensor.strings.values[0])
        if kind == "bytes":
            data = np.frombuffer(tensor.bytes.values, np.uint8)
            if not stored.packed:
                return data.view(dtype).reshape(shape)
            if data.size != packed_size(stored.bits, shape):
                raise PackageError(f"{where} is {data.size} bytes, not {list(shape)} of {stored.name}")
            return Compressed(where, stored.name, 0, shape, dtype, {"data": data})
        numbers = [] if kind is None else getattr(tensor, kind).values
        if len(numbers) != count:
            raise PackageError(f"{where} is {len(numbers)} numbers, not the {count} of its shape {list(shape)}")
        return np.array(numbers[:], dtype).reshape(shape)
