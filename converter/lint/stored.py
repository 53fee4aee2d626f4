"""Values as a package stores them: their types and sizes, and the values themselves on demand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.lint.finding import Shape
from converter.mil.mlproto import mil
from converter.runtime.feature import PackageError
from converter.weights.blob import BlobError, BlobReader, packed_size
from converter.weights.dtypes import BY_NAME, BY_NUMBER


@dataclass(frozen=True)
class Type:
    """A value's element type ("fp16", "int32", "uint4", "bool", "string") and shape; None is a size not fixed."""

    dtype: str
    shape: Shape

    @property
    def fixed(self) -> tuple[int, ...]:
        """The shape with ones for sizes that are not fixed."""
        return tuple(1 if n is None else n for n in self.shape)

    @property
    def count(self) -> int:
        """How many elements."""
        return math.prod(self.fixed)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, packed."""
        stored = BY_NAME.get(self.dtype)
        return self.count if stored is None else packed_size(stored.bits or 8, (self.count,))


class Blobs:
    """The weights files of one run of the lint; a file that several packages share is opened once."""

    def __init__(self) -> None:
        self._readers: dict[tuple[int, int], BlobReader] = {}
        #: What a rule has found out about a blob, by the blob's identity and the rule's name for it.
        self.known: dict[tuple[tuple[int, int, int], str], Any] = {}

    def identity(self, path: Path, offset: int) -> tuple[int, int, int]:
        """The same for the same bytes, whichever package they are read through; raises PackageError."""
        try:
            stat = path.stat()
        except OSError as error:
            raise PackageError(f"{path} is missing: the package has lost its weights") from error
        return stat.st_dev, stat.st_ino, offset

    def array(self, path: Path, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """The blob at ``offset``, memory-mapped; raises PackageError where it is not there."""
        device, node, _ = self.identity(path, offset)
        try:
            if (device, node) not in self._readers:
                self._readers[device, node] = BlobReader(path)
            return self._readers[device, node].read(offset, dtype, shape)
        except (BlobError, ValueError) as error:
            raise PackageError(str(error)) from error


def type_of(value_type: Any) -> Type:
    """A MIL ValueType's element type and shape; lists and dictionaries are of type "other"."""
    held = value_type.WhichOneof("type")
    if held == "stateType":
        return type_of(value_type.stateType.wrappedType)
    if held != "tensorType":
        return Type("other", ())
    tensor = value_type.tensorType
    stored = BY_NUMBER.get(tensor.dataType)
    name = mil().DataType.Name(tensor.dataType).lower() if stored is None else stored.name
    fixed = [d.constant.size if d.WhichOneof("dimension") == "constant" else None for d in tensor.dimensions]
    return Type(name, tuple(fixed))


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant as stored, decoded only when asked."""

    type: Type
    _value: Any
    _data: Path
    _blobs: Blobs

    @property
    def in_file(self) -> bool:
        """Whether it is in the weights file, not in the program."""
        return bool(self._value.WhichOneof("value") == "blobFileValue")

    @cached_property
    def identity(self) -> tuple[int, int, int] | None:
        """The same for the same bytes in the same file; None inside the program."""
        if not self.in_file:
            return None
        return self._blobs.identity(self._path, int(self._value.blobFileValue.offset))

    @property
    def _path(self) -> Path:
        return self._data / str(self._value.blobFileValue.fileName).removeprefix("@model_path/")

    @property
    def known(self) -> dict[tuple[tuple[int, int, int], str], Any]:
        """What is known of blobs, shared by the run."""
        return self._blobs.known

    def text(self) -> str | None:
        """The string it is, if it is one."""
        held = self._value.immediateValue.tensor.strings.values
        return str(held[0]) if self.type.dtype == "string" and held else None

    def array(self) -> NDArray[Any] | None:
        """Its values; None where NumPy has no such type (text, packed integers). Raises PackageError."""
        stored, shape = BY_NAME.get(self.type.dtype), self.type.fixed
        if stored is None or stored.numpy is None or stored.packed or stored.numpy.kind == "U":
            return None
        dtype = stored.numpy
        if self.in_file:
            return self._blobs.array(self._path, int(self._value.blobFileValue.offset), dtype, shape)
        held = self._value.immediateValue.tensor
        kind = held.WhichOneof("value")
        try:
            if kind == "bytes":
                return np.frombuffer(held.bytes.values, dtype).reshape(shape)
            values = [] if kind is None else getattr(held, kind).values
            return np.asarray(values).astype(dtype).reshape(shape)
        except ValueError as error:
            raise PackageError(f"a constant of {self.type.dtype} {list(shape)} is damaged: {error}") from error


@dataclass(frozen=True, eq=False)
class Weight:
    """A value known when the program is compiled: a constant, or constants and the constexpr operations on them.

    kinds: those operations' types, the innermost first; empty for a plain constant. parts: the constants by parameter.
    """

    name: str
    type: Type
    kinds: tuple[str, ...]
    parts: tuple[tuple[str, Constant], ...]

    @property
    def stored(self) -> int:
        """Bytes in the package."""
        return sum(part.type.nbytes for _, part in self.parts)

    @property
    def constant(self) -> Constant | None:
        """The constant it is, where nothing has to be unfolded."""
        return None if self.kinds else self.parts[0][1]
