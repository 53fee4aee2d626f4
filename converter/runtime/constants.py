"""Constants of an ML program: decoded from its messages, memory-mapped from its weights, or left compressed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from converter.runtime.compressed import Compressed, Value
from converter.runtime.feature import PackageError
from converter.weights.blob import BlobError, BlobReader, packed_size
from converter.weights.dtypes import BY_NUMBER, DType

_MODEL_PATH = "@model_path/"


def stored_dtype(value_type: Any, where: str) -> DType:
    """Return the element type of a tensor's (or of a state's tensor's) ValueType message; raises PackageError."""
    kind = value_type.WhichOneof("type")
    if kind == "stateType":
        return stored_dtype(value_type.stateType.wrappedType, where)
    if kind != "tensorType":
        raise PackageError(f"{where} is a {kind}, which is not supported; tensors are")
    number = value_type.tensorType.dataType
    if number not in BY_NUMBER:
        raise PackageError(f"{where} is a tensor of MIL data type {number}, which is not supported")
    return BY_NUMBER[number]


def _dtype(stored: DType, where: str) -> np.dtype[Any]:
    if stored.numpy is None:
        raise PackageError(f"{where} is a tensor of {stored.name}, which is not supported")
    return stored.numpy


def dtype_of(value_type: Any, where: str) -> np.dtype[Any]:
    """What NumPy holds such a tensor in; raises PackageError where it has no such type."""
    return _dtype(stored_dtype(value_type, where), where)


def shape_of(value_type: Any, where: str) -> tuple[int, ...]:
    """A tensor's shape; raises PackageError where it is not fixed, as constants' shapes are."""
    shape = tuple([d.constant.size if d.HasField("constant") else -1 for d in value_type.tensorType.dimensions])
    if -1 in shape:
        raise PackageError(f"{where} is a constant whose shape is not fixed")
    return shape


class Constants:
    """Decodes the constants of one model; large ones stay in their files.

    ``folder`` is what the program calls @model_path.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._readers: dict[str, BlobReader] = {}

    def decode(self, value: Any, where: str) -> Value:
        """A Value message's array, string or packed integers; raises PackageError naming ``where``."""
        stored = stored_dtype(value.type, where)
        dtype = _dtype(stored, where)
        shape = shape_of(value.type, where)
        try:
            if value.WhichOneof("value") == "blobFileValue":
                return self._stored(value.blobFileValue, stored, dtype, shape, where)
            return self._immediate(value, stored, dtype, shape, where)
        except (ValueError, OverflowError) as error:
            raise PackageError(f"{where} is damaged: {error}") from error

    def unfold(self, op: Any, known: Mapping[str, Value]) -> list[Compressed]:
        """What an operation on constants gives; its parameters are attributes up to iOS 17, inputs from iOS 18 on."""
        where = op.outputs[0].name if op.outputs else op.type
        sources = {name: self.decode(value, f"{where}: {name}") for name, value in op.attributes.items()}
        sources.pop("name", None)
        for name, argument in op.inputs.items():
            if len(argument.arguments) != 1:
                raise PackageError(f"{where} ({op.type}): {name} is {len(argument.arguments)} values; one is accepted")
            bound = argument.arguments[0]
            if bound.WhichOneof("binding") == "value":
                sources[name] = self.decode(bound.value, f"{where}: {name}")
            elif bound.name in known:
                sources[name] = known[bound.name]
            else:
                raise PackageError(f"{where} ({op.type}) takes {bound.name}, which is not a constant")
        return [
            Compressed(o.name, op.type, n, shape_of(o.type, o.name), dtype_of(o.type, o.name), sources)
            for n, o in enumerate(op.outputs)
        ]

    def _reader(self, name: str) -> BlobReader:
        if name not in self._readers:
            path = PurePosixPath(name.removeprefix(_MODEL_PATH))
            if path.is_absolute() or ".." in path.parts:
                raise PackageError(f"{self._folder}: weights at {name!r} lie outside of the package")
            if not (self._folder / path).is_file():
                raise PackageError(f"{self._folder / path} is missing: the package has lost its weights")
            self._readers[name] = BlobReader(self._folder / path)
        return self._readers[name]

    def _stored(self, blob: Any, stored: DType, dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> Value:
        try:
            reader = self._reader(str(blob.fileName))
            if not stored.packed:
                return reader.read(int(blob.offset), dtype, shape)
            data = reader.packed(int(blob.offset), stored, shape)
            return Compressed(where, stored.name, 0, shape, dtype, {"data": data})
        except BlobError as error:
            raise PackageError(f"{where}: {error}") from error

    def _immediate(self, value: Any, stored: DType, dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> Value:
        held = value.immediateValue.tensor
        kind = held.WhichOneof("value")
        count = math.prod(shape)
        if dtype.kind == "U":
            if len(held.strings.values) != 1:
                raise PackageError(f"{where} is {len(held.strings.values)} strings; one is supported")
            return str(held.strings.values[0])
        if kind == "bytes":
            data = np.frombuffer(held.bytes.values, np.uint8)
            if not stored.packed:
                return data.view(dtype).reshape(shape)
            if data.size != packed_size(stored.bits, shape):
                raise PackageError(f"{where} is {data.size} bytes, not {list(shape)} of {stored.name}")
            return Compressed(where, stored.name, 0, shape, dtype, {"data": data})
        numbers = [] if kind is None else getattr(held, kind).values
        if len(numbers) != count:
            raise PackageError(f"{where} is {len(numbers)} numbers, not the {count} of its shape {list(shape)}")
        return np.array(numbers[:], dtype).reshape(shape)
